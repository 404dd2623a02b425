//! The contract of `{module}`: the calls it serves and the events it publishes. Generated from `proto/`.
#![allow(clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/contract.rs"));
