//! The tables every module has for what must survive a crash.

use crate::sql::Sql;

pub(crate) const MIGRATIONS: &[Sql] = &[
    Sql {
        name: "m0001_durable",
        up: include_str!("m0001_durable.sql"),
    },
    Sql {
        name: "m0002_durable_indexes",
        up: include_str!("m0002_indexes.sql"),
    },
];
