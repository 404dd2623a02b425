//! The tables of `orders`. A migration that has shipped is never edited; a change is a new one.

use banyan_durable::{Migration, Schema};

pub const SCHEMA: Schema = Schema {
    module: "orders",
    migrations: &[
        Migration {
            name: "m0001_orders_order",
            up: include_str!("../migrations/m0001_order.sql"),
        },
        Migration {
            name: "m0002_orders_progress",
            up: include_str!("../migrations/m0002_progress.sql"),
        },
        Migration {
            name: "m0003_orders_lists",
            up: include_str!("../migrations/m0003_lists.sql"),
        },
        Migration {
            name: "m0004_orders_open_carts",
            up: include_str!("../migrations/m0004_open_carts.sql"),
        },
        Migration {
            name: "m0005_orders_event_tickets",
            up: include_str!("../migrations/m0005_event_tickets.sql"),
        },
    ],
};
