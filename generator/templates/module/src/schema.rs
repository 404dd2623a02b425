//! The database schema of `{module}`. A released migration is never edited; a change is a new migration.

use banyan_durable::{Migration, Schema};

pub const SCHEMA: Schema = Schema {
    module: "{module}",
    migrations: &[Migration {
        name: "m0001_{module}_item",
        up: include_str!("../migrations/m0001_item.sql"),
    }],
};
