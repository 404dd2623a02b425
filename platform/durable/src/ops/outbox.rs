//! The outbox, as operators see it.

use banyan_core::{Fault, Page, PageRequest, Timestamp};
use sea_orm::QueryResult;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Ops, before, check_state};
use crate::fault::fault;

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

const STATES: [&str; 2] = ["pending", "sent"];

/// One of the known states stands in the text, because the index over it is used for this text alone.
fn newest(state: Option<&str>) -> String {
    let in_state = STATES
        .into_iter()
        .find(|known| state == Some(*known))
        .map(|state| format!("and state = '{state}'"));
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
        check_state(state, &STATES)?;
        let limit = i64::try_from(page.fetch_limit()).unwrap_or(i64::MAX);
        let rows = self.all(&newest(state), [before(page)?.into(), limit.into()]).await?;
        let entries = rows.iter().map(OutboxEntry::read).collect::<Result<Vec<_>, Fault>>()?;
        Ok(page.page(entries, |entry| entry.id))
    }

    /// # Errors
    /// `not_found`; as any query.
    pub async fn find_outbox_event(&self, id: Uuid) -> Result<OutboxEvent, Fault> {
        let rows = self
            .all(
                &format!("select {COLUMNS}, body from outbox where id = $1"),
                [id.into()],
            )
            .await?;
        let row = rows.first().ok_or_else(|| Fault::not_found("event"))?;
        let body: String = row.try_get("", "body").map_err(fault)?;
        let event = serde_json::from_str(&body).unwrap_or(serde_json::Value::String(body));
        Ok(OutboxEvent {
            entry: OutboxEntry::read(row)?,
            event,
        })
    }
}

impl OutboxEntry {
    fn read(row: &QueryResult) -> Result<Self, Fault> {
        let at = |name: &str| row.try_get("", name).map(Timestamp::from_ms).map_err(fault);
        Ok(OutboxEntry {
            id: row.try_get("", "id").map_err(fault)?,
            kind: row.try_get("", "kind").map_err(fault)?,
            subject: row.try_get("", "subject").map_err(fault)?,
            version: row.try_get("", "version").map_err(fault)?,
            state: row.try_get("", "state").map_err(fault)?,
            attempts: row.try_get("", "attempts").map_err(fault)?,
            next_attempt_at: at("next_attempt_at")?,
            created_at: at("created_at")?,
            sent_at: row
                .try_get::<Option<i64>>("", "sent_at")
                .map_err(fault)?
                .map(Timestamp::from_ms),
            last_error: row.try_get("", "last_error").map_err(fault)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::newest;
    use crate::plan::steps;

    /// What waits is looked at when much does not, and then among very many events.
    #[tokio::test]
    async fn the_newest_pending_events_are_found_without_going_through_the_sent_ones() {
        for (state, index) in [
            (Some("pending"), "outbox_pending_by_id"),
            (Some("sent"), "id<?"),
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
