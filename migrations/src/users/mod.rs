//! The tables of `users`.

use crate::sql::Sql;

pub(crate) const MIGRATIONS: &[Sql] = &[Sql {
    name: "m0001_users_accounts_and_sessions",
    up: include_str!("m0001_users.sql"),
}];
