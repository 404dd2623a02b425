//! The tables of `payments`.

use crate::sql::Sql;

pub(crate) const MIGRATIONS: &[Sql] = &[];
