//! The tables of `shipping`.

use crate::sql::Sql;

pub(crate) const MIGRATIONS: &[Sql] = &[];
