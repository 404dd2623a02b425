//! The tables of `catalog`.

use crate::sql::Sql;

pub(crate) const MIGRATIONS: &[Sql] = &[Sql {
    name: "m0001_catalog_products",
    up: include_str!("m0001_catalog.sql"),
}];
