//! The calls by which every module serves the events it keeps, so that subscribers can fetch what a broker lost. Generated from `proto/`.
#![allow(clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/contract.rs"));
