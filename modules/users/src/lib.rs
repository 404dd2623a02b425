//! Users: who they are, how they prove it, what they may do.
//!
//! Registers customers, opens sessions and signs the access tokens that every service verifies by itself with this module's public keys.
//!
//! Invariant: passwords, refresh tokens and private keys never leave this module; events carry no mail addresses.

mod attempts;
mod http;
mod keys;
mod password;
mod schema;
mod seed;
mod service;
#[cfg(test)]
mod service_tests;
mod session;
mod settings;
mod start;
mod store;
mod user;
mod words;

pub use schema::SCHEMA;
pub use settings::{FirstOperator, Settings};
pub use start::{Needs, Offers, start};
