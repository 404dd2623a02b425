//! What operators see of a module's machinery, and what they may do to it.
//!
//! Every action is one transaction with its audit row, and names who did it and why.

mod audit_log;
mod dead_letters;
mod outbox;

use banyan_core::{Fault, PageRequest, Timestamp};
use sea_orm::{ConnectionTrait, QueryResult, Statement, Value};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use audit_log::AuditEntry;
pub use dead_letters::{DeadLetter, DeadLetterEvent};
pub use outbox::{OutboxEntry, OutboxEvent};

use crate::{Db, SagaOps, Sagas, fault::fault};

/// A module's sagas, outbox, dead letters and audit log.
#[derive(Clone)]
pub struct Ops {
    pub(crate) db: Db,
    sagas: Sagas,
}

/// How much there is to do, and how much is stuck.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Counts {
    /// Events not yet confirmed by the bus.
    pub outbox_pending: i64,
    /// Milliseconds since the oldest of them was written; 0 if there is none.
    pub outbox_oldest_ms: i64,
    /// Events of others that wait for an earlier version.
    pub waiting: i64,
    /// Events of others whose reaction failed and is tried again.
    pub retrying: i64,
    /// Events of others that wait for a person.
    pub dead_letters: i64,
}

impl Ops {
    /// `sagas`: those the module drives.
    pub(crate) fn new(db: Db, sagas: Sagas) -> Self {
        Ops { db, sagas }
    }

    pub fn module(&self) -> &str {
        self.db.module()
    }

    pub fn sagas(&self) -> SagaOps {
        self.sagas.ops()
    }

    /// # Errors
    /// As any query.
    pub async fn counts(&self) -> Result<Counts, Fault> {
        let outbox = self
            .all(
                "select count(*) as events, min(created_at) as oldest from outbox where state = 'pending'",
                [],
            )
            .await?;
        let retries = self
            .all(
                "select state, count(*) as events from retry where state <> 'discarded' group by state",
                [],
            )
            .await?;
        let number = |row: &QueryResult| row.try_get::<i64>("", "events").map_err(fault);
        let of = |state: &str| -> Result<i64, Fault> {
            let row = retries
                .iter()
                .find(|row| row.try_get::<String>("", "state").is_ok_and(|found| found == state));
            row.map_or(Ok(0), number)
        };
        let oldest: Option<i64> = outbox
            .first()
            .map(|row| row.try_get("", "oldest"))
            .transpose()
            .map_err(fault)?
            .flatten();
        let age = oldest.map_or(0, |oldest| {
            self.db.clock().now().since(Timestamp::from_ms(oldest)).as_millis()
        });
        Ok(Counts {
            outbox_pending: outbox.first().map_or(Ok(0), number)?,
            outbox_oldest_ms: i64::try_from(age).unwrap_or(i64::MAX),
            waiting: of("waiting")?,
            retrying: of("retrying")?,
            dead_letters: of("dead")?,
        })
    }

    pub(crate) async fn all(
        &self,
        sql: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<QueryResult>, Fault> {
        let statement = Statement::from_sql_and_values(self.db.backend(), sql, values);
        self.db.read().query_all_raw(statement).await.map_err(fault)
    }
}

/// The id a page starts behind; the greatest there is for the first page, because lists show the newest first.
pub(crate) fn before(page: &PageRequest) -> Result<Uuid, Fault> {
    match &page.after {
        Some(cursor) => cursor
            .id()
            .map_err(|_| Fault::malformed("invalid_cursor", "This cursor is not one of ours.")),
        None => Ok(Uuid::max()),
    }
}

/// # Errors
/// `invalid_state`, naming those there are.
pub(crate) fn check_state(state: Option<&str>, known: &[&str]) -> Result<(), Fault> {
    match state {
        Some(state) if !known.contains(&state) => {
            let rule = format!("must be one of {}", known.join(", "));
            Err(Fault::invalid("invalid_state", format!("state {rule}")).at("state", rule))
        }
        _ => Ok(()),
    }
}
