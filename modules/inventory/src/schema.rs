//! The database schema of `inventory`. A released migration is never edited; a change is a new migration.

use banyan_durable::{Migration, Schema};

pub const SCHEMA: Schema = Schema {
    module: "inventory",
    migrations: &[Migration {
        name: "m0001_inventory_stock",
        up: include_str!("../migrations/m0001_inventory.sql"),
    }],
};
