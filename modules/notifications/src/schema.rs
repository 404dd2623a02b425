//! The database schema of `notifications`. A released migration is never edited; a change is a new migration.

use banyan_durable::{Migration, Schema};

pub const SCHEMA: Schema = Schema {
    module: "notifications",
    migrations: &[
        Migration {
            name: "m0001_notifications_notification",
            up: include_str!("../migrations/m0001_notification.sql"),
        },
        Migration {
            name: "m0002_notifications_due_mails",
            up: include_str!("../migrations/m0002_due_mails.sql"),
        },
        Migration {
            name: "m0003_notifications_ended_mails",
            up: include_str!("../migrations/m0003_ended_mails.sql"),
        },
        Migration {
            name: "m0004_notifications_account_mails",
            up: include_str!("../migrations/m0004_account_mails.sql"),
        },
    ],
};
