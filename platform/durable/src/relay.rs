//! Publishes the events in the outbox until the bus confirms them.
//!
//! Invariant: the relay never reads by `id > last`. A transaction that began earlier may commit later, and its rows would be skipped for ever. It reads
//! what is `pending`, and of each subject only the oldest row, so that the events of a subject are published in order. See [`due`].
//!
//! The subjects take turns: a walk goes round them and publishes one event of each. When the outbox holds more than the window, up to half of what is
//! free goes to the newest events, so that what happens now is not behind what piled up while the bus was unavailable.
//!
//! One instance relays for a module, by lease. One that lost its lease without noticing publishes events twice at worst, which subscribers recognise.

use std::{collections::HashMap, sync::Arc, time::Duration};

use banyan_core::{Bus, Envelope, Fault};
use sea_orm::Value;
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::due::Pending;
use crate::{Db, MachineryLimits, Tx, changed, lease, machinery::Work, outbox, query, time};

mod due;

/// The time for publishing what is left in the outbox when the module stops; the rest waits for the next start.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// The pause after confirmations could not be stored: going on at full speed would only publish the same events again.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// The number of paces that a confirmation nobody waits for may wait until it is stored together with others. If the process crashes before, the event is
/// published again, which its subscribers recognise.
const RECORD_PACES: u32 = 3;
/// The number of pages of the walk without an event that is due, after which the rest waits for the next wake-up or poll. While the bus is unavailable
/// every event waits for its retry, and there may be very many.
const PAGES_IN_VAIN: u32 = 25;

#[derive(Clone)]
pub(crate) struct Relay {
    db: Db,
    bus: Arc<dyn Bus>,
}

/// A publication that ended, confirmed or not.
struct Published {
    row: Pending,
    confirmed: Result<(), Fault>,
    at: Instant,
}

type Ended = Option<Result<(Id, Result<(), Fault>), JoinError>>;

/// The publications whose outcome is not stored yet; never two of one subject.
#[derive(Default)]
struct Flight {
    tasks: JoinSet<Result<(), Fault>>,
    /// Under way, by task.
    rows: HashMap<Id, Pending>,
    /// In the order in which they ended.
    ended: Vec<Published>,
}

/// The position in the walk over the subjects. It continues after the subject at which a page ended, and then starts again at the beginning, so that no
/// subject has to wait long.
struct Walk {
    after: String,
    /// Whether there may be an event that is due and was not looked at.
    more: bool,
    in_vain: u32,
}

impl Walk {
    fn new() -> Self {
        Walk {
            after: String::new(),
            more: true,
            in_vain: 0,
        }
    }

    fn wake(&mut self) {
        self.more = true;
        self.in_vain = 0;
    }

    /// In the middle there are more subjects than one page has.
    fn is_in_the_middle(&self) -> bool {
        !self.after.is_empty()
    }

    /// `end`: where the page ended, unless it reached the last subject.
    fn advance(&mut self, end: Option<String>, launched: usize) {
        self.in_vain = if launched == 0 { self.in_vain + 1 } else { 0 };
        self.more = (end.is_some() || self.is_in_the_middle()) && self.in_vain < PAGES_IN_VAIN;
        self.after = end.unwrap_or_default();
    }
}

impl Relay {
    pub fn new(db: Db, bus: Arc<dyn Bus>) -> Self {
        Relay { db, bus }
    }

    pub fn work(self) -> Work {
        Arc::new(move |stop| {
            let relay = self.clone();
            Box::pin(async move {
                let run = |held| relay.run(stop.clone(), held);
                lease::hold(&relay.db, "relay", &stop, run).await;
            })
        })
    }

    /// Works in rounds: each publishes what is new, and stores the confirmations that have waited long enough. What happens within a pace of the last round
    /// waits for the next, so that many events share the statements of one; while there is more than fits into the window, rounds follow each other at
    /// once.
    async fn run(&self, stop: CancellationToken, held: CancellationToken) {
        let limits = &self.db.settings().limits;
        let mut changes = self.db.changes();
        let mut flight = Flight::default();
        let mut walk = Walk::new();
        let mut retry_at: Option<Instant> = None;
        let mut paced_until = Instant::now();
        loop {
            let poll_at = Instant::now() + limits.idle_poll;
            let wake_at = retry_at.map_or(poll_at, |retry_at| retry_at.min(poll_at));
            let can_launch = walk.more && flight.has_room(limits.relay_window);
            let record_at = flight.record_at(limits);
            let round_at = match record_at {
                Some(record_at) if !can_launch => record_at.max(paced_until),
                _ => paced_until,
            };
            tokio::select! {
                biased;
                // `stop` cancels `held` too; only the loss of the lease forbids going on.
                () = stop.cancelled() => return self.flush(flight).await,
                () = held.cancelled() => return,
                ended = flight.tasks.join_next_with_id(), if !flight.rows.is_empty() => flight.end(ended),
                () = changed(&mut changes, outbox::TOPIC) => walk.wake(),
                () = sleep_until(round_at), if can_launch || record_at.is_some() => {
                    let begun = Instant::now();
                    if record_at.is_some_and(|record_at| record_at <= begun) {
                        let recorded = self.record(&mut flight, &mut walk).await;
                        retry_at = retry_at.into_iter().chain(recorded).min();
                    }
                    let unread = self.launch_all(&mut flight, &mut walk).await;
                    retry_at = retry_at.into_iter().chain(unread).min();
                    paced_until = if walk.more { begun } else { begun + limits.pace };
                }
                () = sleep_until(wake_at) => {
                    retry_at = retry_at.filter(|at| *at > Instant::now());
                    walk.wake();
                }
            }
        }
    }

    /// Fills the window; returns when to try again if the outbox cannot be read.
    async fn launch_all(&self, flight: &mut Flight, walk: &mut Walk) -> Option<Instant> {
        let limits = &self.db.settings().limits;
        while walk.more && flight.has_room(limits.relay_window) {
            if let Err(fault) = self.launch(flight, walk).await {
                tracing::warn!(module = self.db.module(), %fault, "the outbox cannot be read");
                *walk = Walk::new();
                walk.more = false;
                return Some(Instant::now() + limits.poll);
            }
        }
        None
    }

    /// Publishes what is left in the outbox, within a time limit and while the lease is still held. What fails now is left for the next start.
    async fn flush(&self, mut flight: Flight) {
        let window = self.db.settings().limits.relay_window;
        let all = async {
            let mut walk = Walk::new();
            self.record(&mut flight, &mut walk).await;
            while walk.more || !flight.rows.is_empty() {
                while walk.more && flight.has_room(window) {
                    self.launch(&mut flight, &mut walk).await?;
                }
                if !flight.rows.is_empty() {
                    let ended = flight.tasks.join_next_with_id().await;
                    flight.end(ended);
                    self.record(&mut flight, &mut walk).await;
                    walk.wake();
                }
            }
            Ok::<(), Fault>(())
        };
        if !matches!(timeout(FLUSH_LIMIT, all).await, Ok(Ok(()))) {
            tracing::info!(
                module = self.db.module(),
                "the outbox is not empty; the rest will be published at the next start"
            );
        }
    }

    /// Publishes the next events that are due, up to the free part of the window.
    async fn launch(&self, flight: &mut Flight, walk: &mut Walk) -> Result<(), Fault> {
        let window = self.db.settings().limits.relay_window;
        let mut launched = 0;
        if walk.is_in_the_middle() {
            let share = window.saturating_sub(flight.rows.len()) / 2;
            for row in due::newest(&self.db, window).await? {
                if launched < share && !flight.follows(&row) {
                    self.publish(flight, row);
                    launched += 1;
                }
            }
        }
        let page = due::page(&self.db, &walk.after, window).await?;
        let mut end = page.end;
        let mut last = None;
        for row in page.events {
            if flight.rows.len() >= window {
                end = last.or(Some(walk.after.clone()));
                break;
            }
            last = Some(row.subject.clone());
            if !flight.follows(&row) {
                self.publish(flight, row);
                launched += 1;
            }
        }
        walk.advance(end, launched);
        Ok(())
    }

    fn publish(&self, flight: &mut Flight, row: Pending) {
        let (bus, body) = (self.bus.clone(), row.body.clone());
        let limit = self.db.settings().limits.publish_timeout;
        let task = flight.tasks.spawn(async move {
            let envelope = Envelope::from_bytes(body.as_bytes())?;
            match timeout(limit, bus.publish(&envelope)).await {
                Ok(confirmed) => confirmed,
                Err(_) => Err(Fault::timeout("The bus did not confirm in time.")),
            }
        });
        flight.rows.insert(task.id(), row);
    }

    /// Stores what was confirmed and what was not, in one transaction, and wakes the walk for the events that follow in the same subjects; returns when
    /// the first failed publication is to be retried.
    async fn record(&self, flight: &mut Flight, walk: &mut Walk) -> Option<Instant> {
        let published = std::mem::take(&mut flight.ended);
        if published.is_empty() {
            return None;
        }
        // Otherwise nothing is left that the walk has not seen, and what is committed later announces itself.
        if published.iter().any(|published| published.row.has_next == 1) {
            walk.wake();
        }
        let (confirmed, failed): (Vec<_>, Vec<_>) =
            published.into_iter().partition(|published| published.confirmed.is_ok());
        let module = self.db.module().to_owned();
        let now = self.db.clock().now();
        for published in &confirmed {
            let since_created = now.since(published.row.created_at.into());
            metrics::histogram!("banyan_outbox_delay_seconds", "module" => module.clone())
                .record(since_created.saturating_sub(published.at.elapsed()).as_secs_f64());
        }
        metrics::counter!("banyan_outbox_published_total", "module" => module.clone())
            .increment(confirmed.len() as u64);
        metrics::counter!("banyan_outbox_publish_failures_total", "module" => module).increment(failed.len() as u64);
        let failures: Vec<Failure> = failed
            .iter()
            .filter_map(|published| Failure::of(published, self.db.settings()))
            .collect();
        let first_retry = failures.iter().map(|failure| failure.delay).min();
        let confirmed: Arc<[Uuid]> = confirmed.iter().map(|published| published.row.id).collect();
        let failures: Arc<[Failure]> = failures.into();
        let stored = self
            .db
            .write((confirmed, failures), |tx, (confirmed, failures)| async move {
                mark_sent(&tx, &confirmed).await?;
                for failure in failures.iter() {
                    failure.store(&tx).await?;
                }
                Ok(())
            });
        if let Err(fault) = stored.await {
            tracing::warn!(module = self.db.module(), %fault, "confirmations could not be stored; the events will be published again");
            sleep(STORE_PAUSE).await;
            return Some(Instant::now());
        }
        first_retry.map(|delay| Instant::now() + delay)
    }
}

/// A publication to be retried.
struct Failure {
    id: Uuid,
    delay: Duration,
    error: String,
}

impl Failure {
    fn of(published: &Published, settings: &crate::Settings) -> Option<Self> {
        let error = published.confirmed.as_ref().err()?;
        Some(Failure {
            id: published.row.id,
            delay: settings.retry_delay(published.row.attempts),
            error: error.to_string(),
        })
    }

    async fn store(&self, tx: &Tx) -> Result<(), Fault> {
        let sql = format!(
            "update outbox set attempts = attempts + 1, next_attempt_at = {} + $2, last_error = $3 where id = $1 and state = 'pending'",
            time::now(tx.backend())
        );
        tx.execute(
            &sql,
            [
                self.id.into(),
                time::ms_of(self.delay).into(),
                self.error.as_str().into(),
            ],
        )
        .await
        .map(drop)
    }
}

async fn mark_sent(tx: &Tx, ids: &[Uuid]) -> Result<(), Fault> {
    if ids.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "update outbox set state = 'sent', sent_at = $1, attempts = attempts + 1, last_error = null
         where state = 'pending' and id in ({})",
        query::placeholders(2, ids.len())
    );
    let now: Value = tx.clock().now().as_ms().into();
    tx.execute(&sql, std::iter::once(now).chain(ids.iter().map(|id| (*id).into())))
        .await
        .map(drop)
}

impl Flight {
    /// Whether a quarter of the window is free: one query then launches several publications.
    fn has_room(&self, window: usize) -> bool {
        self.rows.len() <= window.saturating_sub(window.div_ceil(4))
    }

    /// When the publications that ended are to be stored: a retry, and an event that follows in its subject, wait for that.
    fn record_at(&self, limits: &MachineryLimits) -> Option<Instant> {
        let first = self.ended.first()?.at;
        let waited_for = |published: &Published| published.confirmed.is_err() || published.row.has_next == 1;
        let at_once = self.ended.len() >= limits.relay_window.div_ceil(4) || self.ended.iter().any(waited_for);
        Some(if at_once {
            first
        } else {
            first + limits.pace * RECORD_PACES
        })
    }

    /// Whether the outcome of an event of the row's subject is not stored yet: maybe of the row's own, because it is pending until it is stored as sent.
    /// The walk comes back for those that follow.
    fn follows(&mut self, row: &Pending) -> bool {
        let ended = self.ended.iter_mut().map(|published| &mut published.row);
        let known = self
            .rows
            .values_mut()
            .chain(ended)
            .find(|known| known.subject == row.subject);
        known.is_some_and(|known| {
            known.has_next |= row.has_next;
            true
        })
    }

    /// Keeps the publication that ended, and the others that have ended meanwhile.
    fn end(&mut self, first: Ended) {
        let mut ended = first;
        while let Some(end) = ended {
            let (id, confirmed) = match end {
                Ok((id, confirmed)) => (id, confirmed),
                Err(error) => (error.id(), Err(Fault::internal("publish_panicked", error.to_string()))),
            };
            if let Some(row) = self.rows.remove(&id) {
                let at = Instant::now();
                self.ended.push(Published { row, confirmed, at });
            }
            ended = self.tasks.try_join_next_with_id();
        }
    }
}
