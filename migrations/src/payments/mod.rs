//! The tables of `payments`.

use crate::sql::Sql;

pub(crate) const MIGRATIONS: &[Sql] = &[
    Sql {
        name: "m0001_payments_money",
        up: include_str!("m0001_money.sql"),
    },
    Sql {
        name: "m0002_payments_open_commands",
        up: include_str!("m0002_open_commands.sql"),
    },
];
