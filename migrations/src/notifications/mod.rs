//! The tables of `notifications`.

use crate::sql::Sql;

pub(crate) const MIGRATIONS: &[Sql] = &[];
