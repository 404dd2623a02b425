//! Claims due sagas and runs them, several at once.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use banyan_core::{Fault, Timestamp};
use futures::FutureExt;
use sea_orm::DbBackend;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    SagaState, TOPIC,
    advance::{self, Claim, Obtained, Origin},
    definition::{self, Definition, Definitions, ErasedNews},
    handover::Handed,
    rules::waiting_input,
    store::{self, Row, SagaCount},
};
use crate::{Db, changed};

/// The time a command under way may take after the stop. Then it is dropped with its outcome unknown, and sent again by the next runner.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// The interval between updates of the metrics.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// The delay before the database is tried again, and before sagas that another instance is just claiming.
const SHORT_DELAY: Duration = Duration::from_millis(50);

pub(super) async fn run(db: Db, definitions: Definitions, stop: CancellationToken) {
    if definitions.is_empty() {
        stop.cancelled().await;
        return;
    }
    let runner = Arc::new(Runner {
        owner: db.ids().new_id().to_string().into(),
        places: Arc::new(Semaphore::new(db.settings().saga_concurrency.max(1))),
        db,
        definitions,
    });
    runner.end_dead_leases(&stop).await;
    tokio::join!(runner.drive_all(&stop), runner.count(&stop));
}

struct Runner {
    db: Db,
    definitions: Definitions,
    /// The name under which this run holds its leases.
    owner: Arc<str>,
    /// One for each saga that may run at the same time.
    places: Arc<Semaphore>,
}

/// The end of a send.
enum Sent {
    Done(Result<ErasedNews, Fault>),
    LeaseLost,
    /// The process stops.
    Abandoned,
}

impl Runner {
    /// An SQLite file is open in one process at a time, so leases found at its start belong to a process that crashed. If they cannot be ended, they
    /// expire meanwhile, and then nothing is left to be ended: sagas never wait for longer than that.
    async fn end_dead_leases(&self, stop: &CancellationToken) {
        if self.db.backend() != DbBackend::Sqlite {
            return;
        }
        let begun = Instant::now();
        while !stop.is_cancelled() && begun.elapsed() < self.db.settings().lease() {
            match self
                .db
                .write((), |tx, ()| async move { store::end_all_leases(&tx).await })
                .await
            {
                Ok(_) => return,
                Err(fault) => {
                    tracing::warn!(module = self.db.module(), %fault, "the leases of a crashed process could not be ended; retrying")
                }
            }
            tokio::time::sleep(SHORT_DELAY).await;
        }
    }

    /// Runs what is handed over, and claims when a commit announces that a saga may be due, or when the next one is; so nothing is asked while nothing
    /// changes, except rarely, for announcements that were lost and leases that expired.
    async fn drive_all(self: &Arc<Self>, stop: &CancellationToken) {
        // Nobody announces that the lease of a crashed instance has expired.
        let idle = self.db.settings().limits.idle_poll / 2;
        let mut changes = self.db.changes();
        let (open, mut handed) = self.db.handover().open(&self.owner, &self.definitions, &self.places);
        let mut driven: JoinSet<Option<Duration>> = JoinSet::new();
        let (mut announced, mut look_at) = (true, Instant::now() + idle);
        while !stop.is_cancelled() {
            if let Some(mut places) = self.free_places().filter(|_| announced) {
                // What was announced until now is covered by the claim that follows.
                while !matches!(
                    changes.try_recv(),
                    Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed)
                ) {}
                match self.claim(places.num_permits()).await {
                    Ok(rows) => {
                        // There may be more than there is room for.
                        announced = rows.len() == places.num_permits();
                        for row in rows {
                            if let Some(place) = places.split(1) {
                                self.spawn(Handed { row, place }, &mut driven, stop);
                            }
                        }
                    }
                    Err(fault) => {
                        tracing::warn!(module = self.db.module(), %fault, "sagas could not be claimed");
                        (announced, look_at) = (false, Instant::now() + self.db.settings().limits.poll);
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                Some(saga) = handed.recv() => self.spawn(saga, &mut driven, stop),
                Some(ended) = driven.join_next() => {
                    // One that waits is due by then.
                    if let Ok(Some(wait)) = ended {
                        look_at = look_at.min(Instant::now() + wait);
                    }
                }
                () = changed(&mut changes, TOPIC) => announced = true,
                () = tokio::time::sleep_until(look_at.into()), if !announced => {
                    let wait = self.next_due().await;
                    announced = wait.is_zero();
                    // If another instance is just claiming what is due, there is nothing to claim.
                    look_at = Instant::now() + wait.min(idle).max(SHORT_DELAY);
                }
            }
        }
        drop(open);
        // What was handed over last is released by the same path.
        while let Ok(saga) = handed.try_recv() {
            self.spawn(saga, &mut driven, stop);
        }
        while driven.join_next().await.is_some() {}
    }

    /// All places that are free now.
    fn free_places(&self) -> Option<OwnedSemaphorePermit> {
        let free = u32::try_from(self.places.available_permits())
            .ok()
            .filter(|free| *free > 0)?;
        self.places.clone().try_acquire_many_owned(free).ok()
    }

    fn spawn(self: &Arc<Self>, saga: Handed, driven: &mut JoinSet<Option<Duration>>, stop: &CancellationToken) {
        let Handed { row, place } = saga;
        let span = tracing::info_span!("saga", kind = row.kind, id = %row.id, key = row.business_key);
        let (runner, stop) = (self.clone(), stop.clone());
        let drive = async move {
            let _place = place;
            runner.drive(row, stop).await
        };
        driven.spawn(drive.instrument(span));
    }

    /// The time until the next saga is due; zero if one is due now.
    async fn next_due(&self) -> Duration {
        let limits = &self.db.settings().limits;
        match store::due_in(&self.db, &self.definitions.known()).await {
            Ok(None) => limits.idle_poll,
            Ok(Some(wait_ms)) => Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0)),
            Err(fault) => {
                tracing::warn!(module = self.db.module(), %fault, "due sagas could not be looked up");
                limits.poll
            }
        }
    }

    async fn claim(&self, room: usize) -> Result<Vec<Row>, Fault> {
        let (known, owner) = (self.definitions.known(), self.owner.clone());
        self.db
            .write((known, owner), move |tx, (known, owner)| async move {
                store::claim(&tx, &known, &owner, room).await
            })
            .await
    }

    /// Runs a claimed saga until it waits, ends, or is claimed by another instance. Returns how long it waits.
    async fn drive(self: Arc<Self>, mut row: Row, stop: CancellationToken) -> Option<Duration> {
        let definition = self.definitions.find(&row.kind, row.version).cloned()?;
        let mut read = Instant::now();
        loop {
            if stop.is_cancelled() {
                self.release(&row, false).await;
                return None;
            }
            let advanced = match self.obtain(&definition, &row, &stop).await {
                Ok(Some(obtained)) => {
                    row.seen_at = Timestamp::from(row.seen_at).plus(read.elapsed()).into();
                    read = Instant::now();
                    self.advance(&row, &definition, obtained)
                        .await
                        .map_err(|fault| (fault, Origin::Decide))
                }
                Ok(None) => return None,
                Err(fault) => Err((fault, Origin::Send)),
            };
            match advanced {
                Ok(Some(next)) if next.lease_owner.is_some() => row = next,
                Ok(Some(next)) => return self.report_end(&next),
                Ok(None) => {
                    tracing::info!("the saga was claimed by another instance; nothing was written");
                    return None;
                }
                Err((fault, origin)) => return self.postpone(&row, fault, origin, &stop).await,
            }
        }
    }

    /// Sends the command, unless an input for the definition is waiting. `None`: this instance may do nothing more with the saga.
    async fn obtain(
        &self,
        definition: &Arc<dyn Definition>,
        row: &Row,
        stop: &CancellationToken,
    ) -> Result<Option<Obtained>, Fault> {
        let (Some(command), None) = (&row.command, waiting_input(row, row.seen_at.into())) else {
            return Ok(Some(Obtained::Nothing));
        };
        let begun = Instant::now();
        let sent = self.send(definition, row, command, stop).await;
        let outcome = match &sent {
            Sent::Done(Ok(_)) => "answered",
            Sent::Done(Err(fault)) if fault.is_refusal() => "refused",
            Sent::Done(Err(fault)) if !fault.is_transient() => "failed",
            _ => "unknown",
        };
        metrics::histogram!("banyan_saga_step_seconds", "module" => self.db.module().to_owned(), "kind" => row.kind.clone(),
            "step" => row.step.clone(), "direction" => if row.state == SagaState::Compensating { "undo" } else { "do" },
            "outcome" => outcome)
        .record(begun.elapsed().as_secs_f64());
        match sent {
            Sent::Done(Ok(news)) => Ok(Some(Obtained::News(news))),
            Sent::Done(Err(fault)) if fault.is_refusal() => Ok(Some(Obtained::Refusal(fault))),
            Sent::Done(Err(fault)) => Err(fault),
            Sent::LeaseLost => {
                tracing::info!("the saga's lease was lost while a command was under way");
                Ok(None)
            }
            Sent::Abandoned => {
                self.release(row, true).await;
                Ok(None)
            }
        }
    }

    /// Sends the stored bytes, within the timeout of a command, and renews the lease meanwhile.
    async fn send(&self, definition: &Arc<dyn Definition>, row: &Row, command: &str, stop: &CancellationToken) -> Sent {
        let limit = self.db.settings().limits.saga_call_timeout;
        let call = definition::call(self.db.module(), row).within(limit);
        let sending = AssertUnwindSafe(definition.send(&call, command)).catch_unwind();
        let stopped = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP_GRACE).await;
        };
        tokio::select! {
            biased;
            sent = tokio::time::timeout(limit, sending) => Sent::Done(match sent {
                Ok(Ok(sent)) => sent,
                Ok(Err(_)) => Err(Fault::internal("send_panicked", format!("sending {} panicked", row.step))),
                Err(_) => Err(Fault::timeout(format!("No response to {} within {} ms.", row.step, limit.as_millis()))),
            }),
            () = self.keep_lease(row) => Sent::LeaseLost,
            () = stopped => Sent::Abandoned,
        }
    }

    /// Renews the lease; returns once it is lost.
    async fn keep_lease(&self, row: &Row) {
        let (id, token) = (row.id, row.lease_token);
        loop {
            tokio::time::sleep(self.db.settings().lease_renewal()).await;
            match self
                .db
                .write((), move |tx, ()| async move { store::renew(&tx, id, token).await })
                .await
            {
                Ok(true) => {}
                Ok(false) => return,
                // The lease may expire meanwhile. Then another instance claims the saga, and the token keeps this runner from writing.
                Err(fault) => tracing::warn!(%fault, "a saga's lease could not be renewed"),
            }
        }
    }

    async fn advance(
        &self,
        row: &Row,
        definition: &Arc<dyn Definition>,
        obtained: Obtained,
    ) -> Result<Option<Row>, Fault> {
        let context = (row.clone(), definition.clone(), obtained);
        self.db
            .write(context, |tx, (row, definition, obtained)| async move {
                advance::advance(&tx, row, definition.as_ref(), obtained).await
            })
            .await
    }

    /// Stores that the saga waits. While the database is unavailable it tries again, until the lease has expired and any instance may claim the saga.
    async fn postpone(&self, row: &Row, fault: Fault, origin: Origin, stop: &CancellationToken) -> Option<Duration> {
        if fault.is_transient() {
            tracing::debug!(step = row.step, %fault, "the outcome of a saga's command is unknown; it is sent again");
        } else {
            tracing::error!(step = row.step, %fault, "a bug stopped a saga");
        }
        let claim = Claim::from(row);
        let begun = Instant::now();
        loop {
            let fault = fault.clone();
            let stored = self.db.write(fault, move |tx, fault| async move {
                advance::postpone(&tx, claim, &fault, origin).await
            });
            match stored.await {
                Ok(Some(row)) => return self.report_end(&row),
                Ok(None) => return None,
                Err(fault) => tracing::warn!(%fault, "a saga's retry could not be stored"),
            }
            if stop.is_cancelled() || begun.elapsed() >= self.db.settings().lease() {
                return None;
            }
            tokio::time::sleep(SHORT_DELAY * 4).await;
        }
    }

    /// Releases the lease, so that another instance can go on at once.
    async fn release(&self, row: &Row, in_doubt: bool) {
        let (id, token) = (row.id, row.lease_token);
        let released = self.db.write((), move |tx, ()| async move {
            store::release(&tx, id, token, in_doubt).await?;
            tx.wake(TOPIC);
            Ok(())
        });
        if let Err(fault) = released.await {
            tracing::warn!(%fault, "a saga's lease could not be released; it will expire");
        }
    }

    /// Returns how long the saga waits, if it goes on.
    fn report_end(&self, row: &Row) -> Option<Duration> {
        if row.state == SagaState::Parked {
            tracing::error!(
                reason = row.parked_reason,
                step = row.step,
                "a saga is parked; an operator must decide"
            );
        }
        if !row.state.is_active() {
            metrics::counter!("banyan_sagas_ended_total", "module" => self.db.module().to_owned(), "kind" => row.kind.clone(),
                "state" => row.state.into_str())
            .increment(1);
            return None;
        }
        Some(Timestamp::from(row.next_run_at).since(row.seen_at.into()))
    }

    /// Updates the gauges: unfinished sagas by state, and those without a definition in this binary.
    async fn count(&self, stop: &CancellationToken) {
        let mut warned = false;
        while !stop.is_cancelled() {
            match store::count_unfinished(&self.db).await {
                Ok(counts) => self.show_counts(&counts, &mut warned),
                Err(fault) => tracing::debug!(%fault, "sagas could not be counted"),
            }
            tokio::select! {
                () = tokio::time::sleep(COUNT_EVERY) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    fn show_counts(&self, counts: &[SagaCount], warned: &mut bool) {
        let module = self.db.module().to_owned();
        let unknown: i64 = counts
            .iter()
            .filter(|count| self.definitions.find(&count.kind, count.definition_version).is_none())
            .map(|count| count.sagas)
            .sum();
        metrics::gauge!("banyan_sagas_unknown_definition", "module" => module.clone()).set(unknown as f64);
        if unknown > 0 && !*warned {
            tracing::warn!(
                module,
                sagas = unknown,
                "there are sagas of kinds or versions that this binary does not know; they are left alone"
            );
        }
        *warned = unknown > 0;
        let mut kinds: Vec<&'static str> = self.definitions.known().into_iter().map(|(kind, _)| kind).collect();
        kinds.dedup();
        for kind in kinds {
            for state in [SagaState::Running, SagaState::Compensating, SagaState::Parked] {
                let sagas: i64 = counts
                    .iter()
                    .filter(|count| count.kind == kind && count.state == state)
                    .map(|count| count.sagas)
                    .sum();
                metrics::gauge!("banyan_sagas", "module" => module.clone(), "kind" => kind, "state" => state.into_str())
                    .set(sagas as f64);
            }
        }
    }
}
