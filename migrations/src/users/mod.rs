//! The tables of `users`.

use crate::sql::Sql;

pub(crate) const MIGRATIONS: &[Sql] = &[];
