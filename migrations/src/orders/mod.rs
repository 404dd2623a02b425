//! The tables of `orders`.

use crate::sql::Sql;

pub(crate) const MIGRATIONS: &[Sql] = &[];
