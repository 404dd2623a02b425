//! The tables of `tickets`. A migration that was released is never edited; a change is a new one.

use banyan_durable::{Migration, Schema};

pub const SCHEMA: Schema = Schema {
    module: "tickets",
    migrations: &[Migration {
        name: "m0001_ticket",
        up: include_str!("../migrations/m0001_ticket.sql"),
    }],
};
