//! The database schema of `users`. A released migration is never edited; a change is a new migration.

use banyan_durable::{Migration, Schema};

pub const SCHEMA: Schema = Schema {
    module: "users",
    migrations: &[
        Migration {
            name: "m0001_users_accounts_and_sessions",
            up: include_str!("../migrations/m0001_users.sql"),
        },
        Migration {
            name: "m0002_users_operators",
            up: include_str!("../migrations/m0002_operators.sql"),
        },
        Migration {
            name: "m0003_users_accounts",
            up: include_str!("../migrations/m0003_accounts.sql"),
        },
        Migration {
            name: "m0004_users_ended_sessions",
            up: include_str!("../migrations/m0004_ended_sessions.sql"),
        },
        Migration {
            name: "m0005_users_known_addresses",
            up: include_str!("../migrations/m0005_known_addresses.sql"),
        },
        Migration {
            name: "m0006_users_account_mails",
            up: include_str!("../migrations/m0006_account_mails.sql"),
        },
    ],
};
