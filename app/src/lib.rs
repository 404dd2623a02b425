//! Where things run: the only crate that knows the modules' implementations.
//!
//! [`App::build`] is what `main` and the tests boot alike.

pub mod config;
pub mod data;
pub mod gateway;
mod telemetry;
