//! The outbox, as operators see it.

use banyan_core::{Fault, Page, PageRequest, Timestamp};
use sea_orm::{DeriveValueType, FromQueryResult};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Ops, before, event_of, known_state};
use crate::query::{self, StoredTime};

/// An event in the outbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OutboxEntry {
    /// The event's id.
    pub id: Uuid,
    /// The event's type: a protobuf full name.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it happened to: `<aggregate>/<id>`.
    pub subject: String,
    /// Gapless per subject.
    pub version: i64,
    /// `pending` until the bus confirmed it, then `sent`.
    pub state: String,
    /// How often it was published.
    pub attempts: i64,
    pub next_attempt_at: Timestamp,
    pub created_at: Timestamp,
    pub sent_at: Option<Timestamp>,
    /// Why it could not be published the last time.
    pub last_error: Option<String>,
}

/// An event in the outbox, with itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OutboxEvent {
    #[serde(flatten)]
    pub entry: OutboxEntry,
    /// The CloudEvent as it is published.
    #[schema(value_type = Object)]
    pub event: serde_json::Value,
}

const COLUMNS: &str = "id, kind, subject, version, state, attempts, next_attempt_at, created_at, sent_at, last_error";

/// The state of an event in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumIter, strum::EnumString, strum::Display, DeriveValueType)]
#[strum(serialize_all = "snake_case")]
#[sea_orm(value_type = "String")]
enum OutboxState {
    Pending,
    Sent,
}

/// The state is part of the text, because the index over it is used for this text alone.
fn newest(state: Option<OutboxState>) -> String {
    let in_state = state.map(|state| format!("and state = '{state}'"));
    format!(
        "select {COLUMNS} from outbox where id < $1 {} order by id desc limit $2",
        in_state.unwrap_or_default()
    )
}

impl Ops {
    /// The newest first; those in one state, or all.
    ///
    /// # Errors
    /// `invalid_state`, `invalid_cursor`; as any query.
    pub async fn list_outbox(&self, state: Option<&str>, page: &PageRequest) -> Result<Page<OutboxEntry>, Fault> {
        let state = state.map(known_state).transpose()?;
        let values = [before(page)?.into(), query::limit(page.fetch_limit())];
        let rows: Vec<OutboxRow> = query::all(self.db.read(), &newest(state), values).await?;
        Ok(page.page(rows, |row| row.id).map(OutboxEntry::from))
    }

    /// # Errors
    /// `not_found`; as any query.
    pub async fn find_outbox_event(&self, id: Uuid) -> Result<OutboxEvent, Fault> {
        let sql = format!("select {COLUMNS}, body from outbox where id = $1");
        let row: Option<OutboxWithBody> = query::one(self.db.read(), &sql, [id.into()]).await?;
        let OutboxWithBody { entry, body } = row.ok_or_else(|| Fault::not_found("event"))?;
        Ok(OutboxEvent {
            entry: entry.into(),
            event: event_of(body),
        })
    }
}

#[derive(FromQueryResult)]
struct OutboxRow {
    id: Uuid,
    kind: String,
    subject: String,
    version: i64,
    state: OutboxState,
    attempts: i64,
    next_attempt_at: StoredTime,
    created_at: StoredTime,
    sent_at: Option<StoredTime>,
    last_error: Option<String>,
}

#[derive(FromQueryResult)]
struct OutboxWithBody {
    #[sea_orm(nested)]
    entry: OutboxRow,
    body: String,
}

impl From<OutboxRow> for OutboxEntry {
    fn from(row: OutboxRow) -> Self {
        OutboxEntry {
            id: row.id,
            kind: row.kind,
            subject: row.subject,
            version: row.version,
            state: row.state.to_string(),
            attempts: row.attempts,
            next_attempt_at: row.next_attempt_at.into(),
            created_at: row.created_at.into(),
            sent_at: row.sent_at.map(Timestamp::from),
            last_error: row.last_error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{OutboxState, newest};
    use crate::plan::steps;

    /// Operators look at the pending events when something is wrong, and then there are very many events.
    #[tokio::test]
    async fn the_newest_pending_events_are_found_without_reading_the_sent_ones() {
        for (state, index) in [
            (Some(OutboxState::Pending), "outbox_pending_by_id"),
            (Some(OutboxState::Sent), "id<?"),
            (None, "id<?"),
        ] {
            let steps = steps(&newest(state), [uuid::Uuid::max().into(), 10_i64.into()]).await;
            assert!(
                steps.len() == 1 && steps[0].starts_with("SEARCH") && steps[0].contains(index),
                "{state:?}: {steps:#?}"
            );
        }
    }
}
