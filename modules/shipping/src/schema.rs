//! The tables of `shipping`. A migration that has shipped is never edited; a change is a new one.

use banyan_durable::{Migration, Schema};

pub const SCHEMA: Schema = Schema {
    module: "shipping",
    migrations: &[
        Migration {
            name: "m0001_shipping_shipment",
            up: include_str!("../migrations/m0001_shipment.sql"),
        },
        Migration {
            name: "m0002_shipping_status_times",
            up: include_str!("../migrations/m0002_status_times.sql"),
        },
        Migration {
            name: "m0003_shipping_command",
            up: include_str!("../migrations/m0003_command.sql"),
        },
    ],
};
