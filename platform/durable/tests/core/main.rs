//! What the machinery promises, on both databases: writing, commands, events, leases, operators.

mod commands;
mod events;
mod house;
mod leases;
mod missed;
mod operators;
mod reactions;
mod writing;
