//! What every module tells about the events it keeps, so that listeners can fetch what a broker lost. Generated from `proto/`.
#![allow(clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/contract.rs"));
