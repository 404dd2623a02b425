//! What operators see of a module's machinery, and what they may do to it.

use crate::Db;

/// A module's sagas, outbox, dead letters and audit log.
#[derive(Clone, Debug)]
pub struct Ops {
    db: Db,
}

impl Ops {
    pub(crate) fn new(db: Db) -> Self {
        Ops { db }
    }

    pub fn module(&self) -> &str {
        self.db.module()
    }
}
