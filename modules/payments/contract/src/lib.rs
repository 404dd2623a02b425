//! The calls that other modules may make to `payments`, and the events it publishes. Generated from `proto/`.
#![allow(clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/contract.rs"));
