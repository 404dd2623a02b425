//! The calls that other modules may make to `agents`. Generated from `proto/`.
#![allow(clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/contract.rs"));
