//! A real shop in a real process, and a client that talks to it over HTTP.

mod client;
mod shop;

pub use client::{Answer, Client, new_key, order_body};
pub use shop::{Shop, Stage, binary, runtime};
