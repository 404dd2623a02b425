//! The tables of `orders`.

use crate::sql::Sql;

pub(crate) const MIGRATIONS: &[Sql] = &[Sql {
    name: "m0001_orders_order",
    up: include_str!("m0001_order.sql"),
}];
