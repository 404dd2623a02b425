//! What others may ask of `notifications`, and what they may hear from it. Generated from `proto/`.
#![allow(clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/contract.rs"));
