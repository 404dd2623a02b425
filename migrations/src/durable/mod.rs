//! The tables every module has for what must survive a crash.

use crate::sql::Sql;

pub(crate) const MIGRATIONS: &[Sql] = &[Sql { name: "m0001_durable", up: include_str!("m0001_durable.sql") }];
