//! The tables of `payments`. A migration that has shipped is never edited; a change is a new one.

use banyan_durable::{Migration, Schema};

pub const SCHEMA: Schema = Schema {
    module: "payments",
    migrations: &[
        Migration {
            name: "m0001_payments_money",
            up: include_str!("../migrations/m0001_money.sql"),
        },
        Migration {
            name: "m0002_payments_open_commands",
            up: include_str!("../migrations/m0002_open_commands.sql"),
        },
        Migration {
            name: "m0003_payments_refunds",
            up: include_str!("../migrations/m0003_refunds.sql"),
        },
        Migration {
            name: "m0004_payments_books",
            up: include_str!("../migrations/m0004_books.sql"),
        },
        Migration {
            name: "m0005_payments_actors",
            up: include_str!("../migrations/m0005_actors.sql"),
        },
    ],
};
