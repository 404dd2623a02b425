//! The tables of `inventory`.

use crate::sql::Sql;

pub(crate) const MIGRATIONS: &[Sql] = &[Sql {
    name: "m0001_inventory_stock",
    up: include_str!("m0001_inventory.sql"),
}];
