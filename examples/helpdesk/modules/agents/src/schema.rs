//! The tables of `agents`. A migration that was released is never edited; a change is a new one.

use banyan_durable::{Migration, Schema};

pub const SCHEMA: Schema = Schema {
    module: "agents",
    migrations: &[Migration {
        name: "m0001_agent",
        up: include_str!("../migrations/m0001_agent.sql"),
    }],
};
