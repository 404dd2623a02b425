//! The outbox: an event is stored in the transaction that made it true.

use std::collections::{BTreeMap, HashMap};

use banyan_core::{Call, Envelope, Event, Fault};
use sea_orm::{FromQueryResult, Value};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    Tx,
    query::{self, placeholders},
};

/// Woken when there is an event for the relay.
pub(crate) const TOPIC: &str = "outbox";

/// The maximum number of events in one statement, far below the number of parameters that either database takes.
const BATCH: usize = 500;

/// An event that is not stored yet.
pub struct NewEvent {
    subject: String,
    kind: &'static str,
    traceparent: Option<String>,
    data: Box<RawValue>,
}

impl NewEvent {
    /// An event in the trace of `call`.
    ///
    /// # Errors
    /// `unwritable_event` (internal) if the event is not JSON.
    pub fn new<E: Event + Serialize>(call: &Call, subject: impl Into<String>, event: &E) -> Result<Self, Fault> {
        let data = to_raw_value(event).map_err(|error| unwritable(&format!("{}: {error}", E::TYPE)))?;
        Ok(NewEvent {
            subject: subject.into(),
            kind: E::TYPE,
            traceparent: call.trace.as_ref().map(ToString::to_string),
            data,
        })
    }
}

/// Puts `event` into the outbox and returns its version: 1 for a subject's first event, then gapless.
///
/// # Errors
/// As any query; the caller's transaction then fails with it.
pub async fn append<E: Event + Serialize>(tx: &Tx, call: &Call, subject: &str, event: &E) -> Result<i64, Fault> {
    let versions = append_all(tx, vec![NewEvent::new(call, subject, event)?]).await?;
    versions.first().copied().ok_or_else(no_version)
}

/// Puts events of one or many subjects into the outbox, in this order, with two statements for up to 500 of them. Returns their versions, in the same
/// order.
///
/// # Errors
/// As [`append`].
pub async fn append_all(tx: &Tx, events: Vec<NewEvent>) -> Result<Vec<i64>, Fault> {
    let mut next = next_versions(tx, &events).await?;
    let now = tx.clock().now();
    let mut versions = Vec::with_capacity(events.len());
    let mut rows = Vec::with_capacity(events.len());
    for event in events {
        let NewEvent {
            subject,
            kind,
            traceparent,
            data,
        } = event;
        let next = next.get_mut(&subject).ok_or_else(no_version)?;
        let version = *next;
        *next += 1;
        tx.wake(subject.as_str());
        rows.push(Envelope {
            specversion: "1.0".to_owned(),
            id: tx.ids().new_id(),
            source: tx.module().to_owned(),
            kind: kind.to_owned(),
            subject,
            time: now,
            datacontenttype: "application/json".to_owned(),
            version,
            traceparent,
            data,
        });
        versions.push(version);
    }
    for batch in rows.chunks(BATCH) {
        insert(tx, batch).await?;
    }
    if !versions.is_empty() {
        tx.wake(TOPIC);
    }
    Ok(versions)
}

/// Counts the events up in their subjects; returns the version of each subject's first new event.
async fn next_versions(tx: &Tx, events: &[NewEvent]) -> Result<HashMap<String, i64>, Fault> {
    #[derive(FromQueryResult)]
    struct Counted {
        subject: String,
        last_version: i64,
    }
    // Sorted: the row locks taken here order the writers of a subject, so that versions are gapless in commit order, and two transactions that write to
    // the same subjects lock them in the same order, so that they cannot deadlock.
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for event in events {
        *counts.entry(&event.subject).or_default() += 1;
    }
    let counts: Vec<_> = counts.into_iter().collect();
    let changed_at: Value = tx.clock().now().as_ms().into();
    let mut next = HashMap::new();
    for batch in counts.chunks(BATCH) {
        let sql = format!(
            "insert into subject (subject, last_version, changed_at) values {}
             on conflict (subject) do update set last_version = subject.last_version + excluded.last_version, changed_at = excluded.changed_at
             returning subject, last_version",
            rows(batch.len(), 3)
        );
        let values = batch
            .iter()
            .flat_map(|(subject, count)| [(*subject).into(), (*count).into(), changed_at.clone()]);
        for row in query::all::<Counted>(tx.conn(), &sql, values).await? {
            let events = batch.binary_search_by(|(subject, _)| (*subject).cmp(&row.subject));
            let events = events.map_or(0, |at| batch[at].1);
            next.insert(row.subject, row.last_version - events + 1);
        }
    }
    Ok(next)
}

async fn insert(tx: &Tx, envelopes: &[Envelope]) -> Result<(), Fault> {
    let mut values: Vec<Value> = Vec::with_capacity(envelopes.len() * 10);
    for envelope in envelopes {
        let body = serde_json::to_string(envelope).map_err(|error| unwritable(&error.to_string()))?;
        let created_at = envelope.time.as_ms();
        values.extend([
            envelope.id.into(),
            envelope.kind.as_str().into(),
            envelope.subject.as_str().into(),
            envelope.version.into(),
            body.into(),
            envelope.traceparent.clone().into(),
            "pending".into(),
            0_i64.into(),
            created_at.into(),
            created_at.into(),
        ]);
    }
    let sql = format!(
        "insert into outbox (id, kind, subject, version, body, traceparent, state, attempts, next_attempt_at, created_at) values {}",
        rows(envelopes.len(), 10)
    );
    tx.execute(&sql, values).await.map(drop)
}

/// The placeholders of `count` rows of `columns` each: `($1, $2), ($3, $4)`.
fn rows(count: usize, columns: usize) -> String {
    let rows: Vec<String> = (0..count)
        .map(|row| format!("({})", placeholders(row * columns + 1, columns)))
        .collect();
    rows.join(", ")
}

fn unwritable(detail: &str) -> Fault {
    Fault::internal("unwritable_event", detail)
}

fn no_version() -> Fault {
    Fault::internal("database_error", "no version was returned")
}
