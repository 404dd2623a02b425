//! The module as others meet it: over HTTP, through its contract, by its events; with the four modules it asks played by the test.

mod house;
mod http;
mod module;
mod neighbours;
mod sagas;
