//! The tables of `catalog`.

use crate::sql::Sql;

pub(crate) const MIGRATIONS: &[Sql] = &[];
