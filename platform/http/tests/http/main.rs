//! The crate as seen through a server: over real connections where the framework's own edges are tested, with actix's test service otherwise.

mod assembly;
mod browsers;
mod callers;
mod document;
mod edges;
mod equal_requests;
mod equal_targets;
mod idempotency;
mod input;
mod limits;
mod support;
