//! The calls that other modules may make to `tickets`, and the events it publishes. Generated from `proto/`.
#![allow(clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/contract.rs"));
