//! A real shop in real processes, and a client that calls it over HTTP.

mod broker;
mod client;
mod copy;
mod postgres;
mod process;
mod shop;
mod stage;

pub use broker::Broker;
pub use client::{Client, Response, new_key, order_body};
pub use copy::{Copy, build_environment};
pub use postgres::Postgres;
pub use process::{clean_command, free_port};
pub use shop::{Plan, Shop, runtime};
pub use stage::{Stage, binary, helpdesk, target};
