//! The database schema of `catalog`. A released migration is never edited; a change is a new migration.

use banyan_durable::{Migration, Schema};

pub const SCHEMA: Schema = Schema {
    module: "catalog",
    migrations: &[
        Migration {
            name: "m0001_catalog_products",
            up: include_str!("../migrations/m0001_catalog.sql"),
        },
        Migration {
            name: "m0002_catalog_lists",
            up: include_str!("../migrations/m0002_lists.sql"),
        },
        Migration {
            name: "m0003_catalog_revision",
            up: include_str!("../migrations/m0003_revision.sql"),
        },
        Migration {
            name: "m0004_catalog_search",
            up: include_str!("../migrations/m0004_search.sql"),
        },
    ],
};
