//! A real shop in a real process, and a client that talks to it over HTTP.

mod broker;
mod client;
mod shop;

pub use broker::Broker;
pub use client::{Answer, Client, new_key, order_body};
use shop::free_port;
pub use shop::{Shop, Stage, binary, runtime};
