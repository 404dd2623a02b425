//! What operators can see of a module's machinery, and do to it.
//!
//! Every action is one transaction with its audit row, and names who did it and why.

mod audit_log;
mod dead_letters;
mod outbox;
mod subscribers;

use std::{fmt::Display, str::FromStr};

use banyan_core::{Fault, PageRequest};
use sea_orm::FromQueryResult;
use serde::{Deserialize, Serialize};
use strum::IntoEnumIterator;
use uuid::Uuid;

pub use audit_log::AuditEntry;
pub use dead_letters::{DeadLetter, DeadLetterEvent};
pub use outbox::{OutboxEntry, OutboxEvent};
pub use subscribers::KnownSubscriber;

use crate::{
    Db, SagaOps, Sagas,
    query::{self, StoredTime},
    reactions::retry::RetryState,
};

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
    /// Milliseconds since the oldest of them was written; 0 if there are none.
    pub outbox_oldest_ms: i64,
    /// Events of others that wait for an earlier version.
    pub waiting: i64,
    /// Events of others whose reaction failed and is tried again.
    pub retrying: i64,
    /// Events of others that wait for a person.
    pub dead_letters: i64,
}

impl Ops {
    /// `sagas`: those the module runs.
    pub(crate) fn new(db: Db, sagas: Sagas) -> Self {
        Ops { db, sagas }
    }

    pub fn module(&self) -> &str {
        self.db.module()
    }

    pub fn db(&self) -> &Db {
        &self.db
    }

    pub fn sagas(&self) -> SagaOps {
        self.sagas.ops()
    }

    /// # Errors
    /// As any query.
    pub async fn counts(&self) -> Result<Counts, Fault> {
        let sql = "select count(*) as events from outbox where state = 'pending'";
        let pending: i64 = query::scalar(self.db.read(), sql, []).await?.unwrap_or(0);
        // Ids grow with time.
        let sql = "select created_at from outbox where state = 'pending' order by id limit 1";
        let oldest: Option<StoredTime> = match pending {
            0 => None,
            _ => query::scalar(self.db.read(), sql, []).await?,
        };
        let sql = "select state, count(*) as events from retry where state <> 'discarded' group by state";
        let retries: Vec<InState> = query::all(self.db.read(), sql, []).await?;
        let count = |state: RetryState| {
            retries
                .iter()
                .find(|row| row.state == state)
                .map_or(0, |row| row.events)
        };
        let now = self.db.clock().now();
        let age = oldest.map_or(0, |oldest| now.since(oldest.into()).as_millis());
        Ok(Counts {
            outbox_pending: pending,
            outbox_oldest_ms: i64::try_from(age).unwrap_or(i64::MAX),
            waiting: count(RetryState::Waiting),
            retrying: count(RetryState::Retrying),
            dead_letters: count(RetryState::Dead),
        })
    }
}

#[derive(FromQueryResult)]
struct InState {
    state: RetryState,
    events: i64,
}

/// The id before which a page starts; the greatest id for the first page, because lists show the newest first.
pub(crate) fn before(page: &PageRequest) -> Result<Uuid, Fault> {
    match &page.after {
        Some(cursor) => cursor
            .id()
            .map_err(|_| Fault::malformed("invalid_cursor", "This cursor is not one of ours.")),
        None => Ok(Uuid::max()),
    }
}

/// A state by its name.
///
/// # Errors
/// `invalid_state`, naming the known ones.
pub(crate) fn known_state<S: FromStr + IntoEnumIterator + Display>(name: &str) -> Result<S, Fault> {
    name.parse().map_err(|_| {
        let known: Vec<String> = S::iter().map(|state| state.to_string()).collect();
        let rule = format!("must be one of {}", known.join(", "));
        Fault::invalid("invalid_state", format!("state {rule}")).at("state", rule)
    })
}

/// A stored body as JSON; as a text if it is not JSON.
fn event_of(body: String) -> serde_json::Value {
    serde_json::from_str(&body).unwrap_or(serde_json::Value::String(body))
}
