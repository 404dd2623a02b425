//! The edge of the shop: pages composed from several modules' contracts.
//!
//! Invariant: nothing here owns data or decides anything a module should decide.

mod pages;

pub use pages::{Asked, routes};
