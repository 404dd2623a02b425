//! Takes the events that arrive at the same time in one transaction.
//!
//! Most events are the next ones of their subjects and are handled without a fault; many of them then share what one would need anyway: the begin, the
//! look at the lanes, their advance, the commit. That is the shortest way for a single event, too. An event of any other kind is taken by itself, and if
//! one event of a batch fails, all are.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use banyan_core::{Envelope, Fault};
use futures::future::join_all;
use parking_lot::Mutex;
use sea_orm::{FromQueryResult, Value};
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

use super::{
    Deliveries, Reactions,
    delivery::{By, Taken},
    lane::Lane,
};
use crate::{Tx, lost_race, query};

/// The maximum number of events in one transaction, which has to end within a second.
const MAX_EVENTS: usize = 16;
/// The maximum number of transactions at the same time. An event that waits for a lock then holds up its own batch, and not all events.
const TURNS: usize = 2;

/// The events that wait for a transaction.
#[derive(Clone)]
pub(super) struct Batches {
    waiting: Arc<Mutex<VecDeque<Waiting>>>,
    turns: Arc<Semaphore>,
    /// When the last batch was taken.
    taken_at: Arc<Mutex<Option<Instant>>>,
}

struct Waiting {
    event: Arc<Envelope>,
    taken: oneshot::Sender<Result<Taken, Fault>>,
}

impl Default for Batches {
    fn default() -> Self {
        Batches {
            waiting: Arc::default(),
            turns: Arc::new(Semaphore::new(TURNS)),
            taken_at: Arc::default(),
        }
    }
}

impl Batches {
    /// Waits until a pace has passed since the last batch, so that events which come one after the other share a transaction, too. A whole batch does
    /// not wait.
    async fn collect(&self, pace: Duration) {
        let is_part = (1..MAX_EVENTS).contains(&self.waiting.lock().len());
        let due = self.taken_at.lock().map(|taken_at| taken_at + pace);
        if let Some(due) = due.filter(|_| is_part) {
            tokio::time::sleep_until(due.into()).await;
        }
    }

    fn next(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock();
        let count = waiting.len().min(MAX_EVENTS);
        if count > 0 {
            *self.taken_at.lock() = Some(Instant::now());
        }
        waiting.drain(..count).collect()
    }
}

impl Deliveries {
    /// As [`take`](Deliveries::take), together with the events that arrive meanwhile.
    pub(super) async fn take_with_others(&self, envelope: Envelope) -> Result<Taken, Fault> {
        let (answer, taken) = oneshot::channel();
        self.batches.waiting.lock().push_back(Waiting {
            event: Arc::new(envelope),
            taken: answer,
        });
        let deliveries = self.clone();
        // In a task of its own, so that a caller that gives up does not cut off the others.
        tokio::spawn(async move {
            let Ok(_turn) = deliveries.batches.turns.acquire().await else {
                return;
            };
            deliveries.batches.collect(deliveries.db().settings().limits.pace).await;
            let batch = deliveries.batches.next();
            // Another turn may have taken the event meanwhile.
            if !batch.is_empty() {
                deliveries.take_batch(batch).await;
            }
        });
        taken
            .await
            .unwrap_or_else(|_| Err(Fault::unavailable("The module is shutting down.")))
    }

    async fn take_batch(&self, mut batch: Vec<Waiting>) {
        // The order in which lanes are locked.
        batch.sort_by(|one, other| key_of(&one.event).cmp(&key_of(&other.event)));
        let events: Arc<[Arc<Envelope>]> = batch.iter().map(|waiting| waiting.event.clone()).collect();
        let together = self.handle_together(events).await;
        let alone = batch.into_iter().zip(together).map(|(waiting, handled)| async move {
            let taken = if handled {
                Ok(Taken::Handled)
            } else {
                self.take(waiting.event, By::Bus).await
            };
            // Whoever gave up gets the event again and finds that it is a duplicate.
            let _ = waiting.taken.send(taken);
        });
        join_all(alone).await;
    }

    /// Which of the events were handled; what was done for the others is rolled back.
    async fn handle_together(&self, events: Arc<[Arc<Envelope>]>) -> Vec<bool> {
        let (count, began) = (events.len(), Instant::now());
        let write = self
            .db()
            .write((self.reactions.clone(), events), |tx, (reactions, events)| async move {
                handle(&tx, &reactions, &events).await
            });
        match write.await {
            Ok(handled) => {
                for _ in handled.iter().filter(|handled| **handled) {
                    self.count(Taken::Handled, began);
                }
                handled
            }
            Err(fault) => {
                tracing::debug!(module = self.db().module(), %fault, "events failed together; each is taken by itself");
                vec![false; count]
            }
        }
    }
}

fn key_of(event: &Envelope) -> (&str, &str, i64) {
    (&event.source, &event.subject, event.version)
}

/// How far a subject has come, and the first of its later events in the retry table.
#[derive(FromQueryResult)]
struct Position {
    source: String,
    subject: String,
    last_version: Option<i64>,
    event_id: Option<Uuid>,
    kept_version: Option<i64>,
}

/// Handles those events that are the next ones of their subjects, one of each subject.
async fn handle(tx: &Tx, reactions: &Reactions, events: &[Arc<Envelope>]) -> Result<Vec<bool>, Fault> {
    let mut lanes = free_lanes(tx, events).await?;
    let handled: Vec<bool> = events
        .iter()
        .map(|event| {
            let subject = (event.source.clone(), event.subject.clone());
            let is_next = lanes
                .get(&subject)
                .is_some_and(|lane| lane.version + 1 == event.version && !lane.contradicts(event));
            is_next && lanes.remove(&subject).is_some()
        })
        .collect();
    let these: Vec<&Arc<Envelope>> = events
        .iter()
        .zip(&handled)
        .filter(|(_, handled)| **handled)
        .map(|(event, _)| event)
        .collect();
    advance(tx, &these).await?;
    for event in these {
        reactions.react(tx, event).await?;
    }
    Ok(handled)
}

/// The lane of each subject that has no event in the retry table.
async fn free_lanes(tx: &Tx, events: &[Arc<Envelope>]) -> Result<HashMap<(String, String), Lane>, Fault> {
    let keys: Vec<String> = (0..events.len())
        .map(|at| format!("(cast(${} as text), cast(${} as text))", 2 * at + 1, 2 * at + 2))
        .collect();
    let sql = format!(
        "with wanted (source, subject) as (values {})
         select wanted.source, wanted.subject, lane.last_version,
             case when lane.event_version = lane.last_version then lane.event_id end as event_id,
             (select min(retry.version) from retry where retry.source = wanted.source and retry.subject = wanted.subject
              and retry.version > coalesce(lane.last_version, 0)) as kept_version
         from wanted left join lane on lane.source = wanted.source and lane.subject = wanted.subject",
        keys.join(", ")
    );
    let values = events
        .iter()
        .flat_map(|event| [Value::from(event.source.as_str()), event.subject.as_str().into()]);
    let positions: Vec<Position> = query::all(tx.conn(), &sql, values).await?;
    Ok(positions
        .into_iter()
        .filter(|position| position.kept_version.is_none())
        .map(|position| {
            let lane = Lane {
                version: position.last_version.unwrap_or(0),
                event_id: position.event_id,
            };
            ((position.source, position.subject), lane)
        })
        .collect())
}

/// Moves the lane of each event's subject to it.
///
/// # Errors
/// A lost race if another instance moved one of them meanwhile.
async fn advance(tx: &Tx, events: &[&Arc<Envelope>]) -> Result<(), Fault> {
    if events.is_empty() {
        return Ok(());
    }
    let mut values: Vec<Value> = Vec::new();
    let mut rows: Vec<String> = Vec::new();
    for event in events {
        rows.push(format!("({})", query::placeholders(values.len() + 1, 5)));
        values.extend([
            event.source.as_str().into(),
            event.subject.as_str().into(),
            event.version.into(),
            event.version.into(),
            event.id.into(),
        ]);
    }
    let sql = format!(
        "insert into lane (source, subject, last_version, event_version, event_id) values {}
         on conflict (source, subject) do update set last_version = excluded.last_version, event_version = excluded.event_version,
             event_id = excluded.event_id
         where lane.last_version = excluded.last_version - 1",
        rows.join(", ")
    );
    match tx.execute(&sql, values).await? {
        moved if moved == events.len() as u64 => Ok(()),
        _ => Err(lost_race("another instance advanced one of these lanes meanwhile")),
    }
}
