//! The crate as a server shows it: real connections where the framework's own edges are meant, actix's test service elsewhere.

mod assembly;
mod callers;
mod document;
mod edges;
mod idempotency;
mod input;
mod limits;
mod support;
