//! The outbox: an event is stored in the transaction that made it true.

use std::collections::{BTreeMap, HashMap};

use banyan_core::{Call, Envelope, Event, Fault, Timestamp};
use sea_orm::{DbBackend, FromQueryResult, Value};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;

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

    fn envelope(self, tx: &Tx, id: Uuid, time: Timestamp, version: i64, previousid: Option<Uuid>) -> Envelope {
        Envelope {
            specversion: "1.0".to_owned(),
            id,
            source: tx.module().to_owned(),
            kind: self.kind.to_owned(),
            subject: self.subject,
            time,
            datacontenttype: "application/json".to_owned(),
            version,
            previousid,
            traceparent: self.traceparent,
            data: self.data,
        }
    }
}

/// Puts `event` into the outbox and returns its version: 1 for a subject's first event, then gapless.
///
/// # Errors
/// As any query; the caller's transaction then fails with it.
pub async fn append<E: Event + Serialize>(tx: &Tx, call: &Call, subject: &str, event: &E) -> Result<i64, Fault> {
    let event = NewEvent::new(call, subject, event)?;
    if tx.backend() == DbBackend::Postgres {
        return append_in_one_statement(tx, event).await;
    }
    let versions = append_all(tx, vec![event]).await?;
    versions.first().copied().ok_or_else(no_version)
}

/// Puts events of one or many subjects into the outbox, in this order, with two statements for up to 500 of them. Returns their versions, in the same
/// order.
///
/// # Errors
/// As [`append`].
pub async fn append_all(tx: &Tx, events: Vec<NewEvent>) -> Result<Vec<i64>, Fault> {
    let events: Vec<(Uuid, NewEvent)> = events.into_iter().map(|event| (tx.ids().new_id(), event)).collect();
    let mut places = next_places(tx, &events).await?;
    let now = tx.clock().now();
    let mut versions = Vec::with_capacity(events.len());
    let mut rows = Vec::with_capacity(events.len());
    for (id, event) in events {
        let place = places.get_mut(&event.subject).ok_or_else(no_version)?;
        let (version, previousid) = (place.version, place.previous_event_id.replace(id));
        place.version += 1;
        tx.wake(event.subject.as_str());
        rows.push((event.envelope(tx, id, now, version, previousid), place.changed_at));
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

/// For PostgreSQL, which may be far away: the database itself puts the version and the id of the previous event into the envelope.
async fn append_in_one_statement(tx: &Tx, event: NewEvent) -> Result<i64, Fault> {
    let (id, now) = (tx.ids().new_id(), tx.clock().now());
    tx.wake(event.subject.as_str());
    tx.wake(TOPIC);
    let envelope = event.envelope(tx, id, now, 0, None);
    let body = write(&envelope)?;
    // The attributes before it contain no such text: in a string the quotes would be escaped.
    let (head, tail) = body
        .split_once("\"version\":0")
        .ok_or_else(|| unwritable("the envelope has no version"))?;
    let sql = format!(
        "with counted as ({})
         insert into outbox (id, kind, subject, version, body, traceparent, state, attempts, next_attempt_at, created_at)
         select $4, $5, $2, last_version,
             cast($6 as text) || '\"version\":' || last_version || coalesce(',\"previousid\":\"' || previous_event_id || '\"', '') || cast($7 as text),
             $8, 'pending', 0, $1, changed_at from counted
         returning version",
        count_up(1)
    );
    let values: [Value; 8] = [
        now.as_ms().into(),
        envelope.subject.into(),
        1_i64.into(),
        id.into(),
        envelope.kind.into(),
        head.into(),
        tail.into(),
        envelope.traceparent.into(),
    ];
    query::scalar(tx.conn(), &sql, values).await?.ok_or_else(no_version)
}

/// The place of a subject's first new event.
struct Place {
    version: i64,
    previous_event_id: Option<Uuid>,
    changed_at: i64,
}

/// Counts the events up in their subjects; returns the places of each subject's first new event.
async fn next_places(tx: &Tx, events: &[(Uuid, NewEvent)]) -> Result<HashMap<String, Place>, Fault> {
    #[derive(FromQueryResult)]
    struct Counted {
        subject: String,
        last_version: i64,
        previous_event_id: Option<Uuid>,
        changed_at: i64,
    }
    // Sorted: the row locks taken here order the writers of a subject, so that versions are gapless in commit order, and two transactions that write to
    // the same subjects lock them in the same order, so that they cannot deadlock.
    let mut counts: BTreeMap<&str, (i64, Uuid)> = BTreeMap::new();
    for (id, event) in events {
        let (count, last) = counts.entry(&event.subject).or_insert((0, *id));
        *count += 1;
        *last = *id;
    }
    let counts: Vec<_> = counts.into_iter().collect();
    let now: Value = tx.clock().now().as_ms().into();
    let mut places = HashMap::new();
    for batch in counts.chunks(BATCH) {
        let values = batch
            .iter()
            .flat_map(|(subject, (count, last))| [(*subject).into(), (*count).into(), (*last).into()]);
        let values = std::iter::once(now.clone()).chain(values);
        for row in query::all::<Counted>(tx.conn(), &count_up(batch.len()), values).await? {
            let events = batch.binary_search_by(|(subject, _)| (*subject).cmp(&row.subject));
            let events = events.map_or(0, |at| batch[at].1.0);
            let place = Place {
                version: row.last_version - events + 1,
                previous_event_id: row.previous_event_id,
                changed_at: row.changed_at,
            };
            places.insert(row.subject, place);
        }
    }
    Ok(places)
}

/// Counts subjects up.
///
/// The time of a change never goes back, whatever the clock does: it is after every change that was committed before. Subscribers read the changes in
/// this order, and one that was dated back would be left out.
fn count_up(subjects: usize) -> String {
    let rows: Vec<String> = (0..subjects)
        .map(|row| {
            let (subject, count, last) = (3 * row + 2, 3 * row + 3, 3 * row + 4);
            format!("(${subject}, ${count}, ${count}, (select at from change), ${last})")
        })
        .collect();
    format!(
        "with change (at) as (select case when max(changed_at) >= $1 then max(changed_at) + 1 else $1 end from subject)
         insert into subject (subject, last_version, last_event_version, changed_at, last_event_id) values {}
         on conflict (subject) do update set last_version = subject.last_version + excluded.last_version,
             previous_event_id = case when subject.last_event_version = subject.last_version then subject.last_event_id end,
             last_event_id = excluded.last_event_id, last_event_version = subject.last_version + excluded.last_version,
             changed_at = case when excluded.changed_at > subject.changed_at then excluded.changed_at else subject.changed_at + 1 end
         returning subject, last_version, previous_event_id, changed_at",
        rows.join(", ")
    )
}

/// `changed_at`: the time of the change that each event is.
async fn insert(tx: &Tx, events: &[(Envelope, i64)]) -> Result<(), Fault> {
    let mut values: Vec<Value> = Vec::with_capacity(events.len() * 10);
    for (envelope, changed_at) in events {
        let body = write(envelope)?;
        values.extend([
            envelope.id.into(),
            envelope.kind.as_str().into(),
            envelope.subject.as_str().into(),
            envelope.version.into(),
            body.into(),
            envelope.traceparent.clone().into(),
            "pending".into(),
            0_i64.into(),
            envelope.time.as_ms().into(),
            (*changed_at).into(),
        ]);
    }
    let sql = format!(
        "insert into outbox (id, kind, subject, version, body, traceparent, state, attempts, next_attempt_at, created_at) values {}",
        rows(events.len(), 10)
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

fn write(envelope: &Envelope) -> Result<String, Fault> {
    serde_json::to_string(envelope).map_err(|error| unwritable(&error.to_string()))
}

fn unwritable(detail: &str) -> Fault {
    Fault::internal("unwritable_event", detail)
}

fn no_version() -> Fault {
    Fault::internal("database_error", "no version was returned")
}

#[cfg(test)]
mod tests {
    use super::count_up;
    use crate::plan::steps;

    /// It runs for every event, and a module has very many subjects.
    #[tokio::test]
    async fn the_time_of_the_last_change_is_found_by_its_index() {
        let steps = steps(
            &count_up(1),
            [1_i64.into(), "order/1".into(), 1_i64.into(), uuid::Uuid::nil().into()],
        )
        .await;
        assert!(
            steps
                .iter()
                .any(|step| step == "SEARCH subject USING COVERING INDEX subject_changed"),
            "{steps:#?}"
        );
    }
}
