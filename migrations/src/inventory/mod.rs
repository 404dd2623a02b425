//! The tables of `inventory`.

use crate::sql::Sql;

pub(crate) const MIGRATIONS: &[Sql] = &[];
