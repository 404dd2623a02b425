//! The tables of `notifications`.

use crate::sql::Sql;

pub(crate) const MIGRATIONS: &[Sql] = &[Sql {
    name: "m0001_notifications_notification",
    up: include_str!("m0001_notification.sql"),
}];
