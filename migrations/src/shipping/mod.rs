//! The tables of `shipping`.

use crate::sql::Sql;

pub(crate) const MIGRATIONS: &[Sql] = &[Sql {
    name: "m0001_shipping_shipment",
    up: include_str!("m0001_shipment.sql"),
}];
