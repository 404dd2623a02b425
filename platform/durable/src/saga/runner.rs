//! Claims due sagas and drives them, several at once.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use banyan_core::Fault;
use futures::FutureExt;
use sea_orm::DbBackend;
use tokio::{sync::broadcast, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    SagaState, TOPIC,
    advance::{self, Brought, Claim, Origin},
    definition::{self, Answer, Definition, Definitions},
    rules::waiting_input,
    store::{self, Row},
};
use crate::{Db, changed};

/// How long a command in flight may go on after the stop; then it is abandoned, its outcome open, and sent again by the next runner.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// How often sagas are counted for the metrics.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// The wait before trying the database again, or sagas that somebody else holds at this very moment.
const SHORT_NAP: Duration = Duration::from_millis(50);

pub(super) async fn run(db: Db, definitions: Definitions, stop: CancellationToken) {
    if definitions.is_empty() {
        stop.cancelled().await;
        return;
    }
    let runner = Arc::new(Runner {
        owner: db.ids().new_id().to_string(),
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
    owner: String,
}

/// How a send ended.
enum Sent {
    Done(Result<Answer, Fault>),
    LeaseLost,
    /// The process stops.
    Abandoned,
}

impl Runner {
    /// One process alone has an SQLite file open, so leases found at its start were held by a process that died.
    async fn end_dead_leases(&self, stop: &CancellationToken) {
        if self.db.backend() != DbBackend::Sqlite {
            return;
        }
        while !stop.is_cancelled() {
            match self
                .db
                .write((), |tx, ()| async move { store::end_all_leases(&tx).await })
                .await
            {
                Ok(_) => return,
                Err(fault) => {
                    tracing::warn!(module = self.db.module(), %fault, "leases of sagas could not be ended; trying again")
                }
            }
            tokio::time::sleep(SHORT_NAP).await;
        }
    }

    async fn drive_all(self: &Arc<Self>, stop: &CancellationToken) {
        let mut changes = self.db.changes();
        let mut driven = JoinSet::new();
        while !stop.is_cancelled() {
            // What was said until now is answered by the look at the table that follows.
            while !matches!(
                changes.try_recv(),
                Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed)
            ) {}
            while driven.try_join_next().is_some() {}
            let nap = self.claim_more(&mut driven, stop).await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(nap) => {}
                Some(_) = driven.join_next() => {}
                () = changed(&mut changes, TOPIC) => {}
            }
        }
        while driven.join_next().await.is_some() {}
    }

    /// Starts driving what is due, as far as there is room; answers how long there will be nothing more to claim, unless something is said.
    async fn claim_more(self: &Arc<Self>, driven: &mut JoinSet<()>, stop: &CancellationToken) -> Duration {
        let settings = self.db.settings();
        let poll = settings.limits.poll;
        let room = settings.saga_concurrency.max(1).saturating_sub(driven.len());
        if room == 0 {
            return poll;
        }
        let claimed = match store::due_in(&self.db, &self.definitions.known()).await {
            Ok(None) => return poll,
            Ok(Some(wait_ms)) if wait_ms > 0 => return Duration::from_millis(wait_ms.unsigned_abs()).min(poll),
            Ok(Some(_)) => self.claim(room).await,
            Err(fault) => Err(fault),
        };
        match claimed {
            Ok(rows) if rows.is_empty() => SHORT_NAP,
            Ok(rows) => {
                for row in rows {
                    let span = tracing::info_span!("saga", kind = row.kind, id = %row.id, key = row.business_key);
                    driven.spawn(self.clone().drive(row, stop.clone()).instrument(span));
                }
                Duration::ZERO
            }
            Err(fault) => {
                tracing::warn!(module = self.db.module(), %fault, "sagas cannot be claimed now");
                poll
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

    /// Drives a claimed saga until it waits, ends, or belongs to somebody else.
    async fn drive(self: Arc<Self>, mut row: Row, stop: CancellationToken) {
        let Some(definition) = self.definitions.find(&row.kind, row.version).cloned() else {
            return;
        };
        loop {
            if stop.is_cancelled() {
                return self.give_back(&row, false).await;
            }
            let told = match self.learn(&definition, &row, &stop).await {
                Ok(Some(brought)) => self
                    .advance(&row, &definition, brought)
                    .await
                    .map_err(|fault| (fault, Origin::Decide)),
                Ok(None) => return,
                Err(fault) => Err((fault, Origin::Send)),
            };
            match told {
                Ok(Some(next)) if next.lease_owner.is_some() => row = next,
                Ok(Some(next)) => {
                    self.report_end(&next);
                    return;
                }
                Ok(None) => {
                    tracing::info!("the saga belongs to somebody else by now; nothing was written");
                    return;
                }
                Err((fault, origin)) => return self.put_off(&row, fault, origin, &stop).await,
            }
        }
    }

    /// Sends the command, unless the saga must be told something first. `None`: nothing more may be done with it here.
    async fn learn(
        &self,
        definition: &Arc<dyn Definition>,
        row: &Row,
        stop: &CancellationToken,
    ) -> Result<Option<Brought>, Fault> {
        let (Some(command), None) = (&row.command, waiting_input(row, row.seen_at)) else {
            return Ok(Some(Brought::Nothing));
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
            Sent::Done(Ok(answer)) => Ok(Some(Brought::Answer(answer))),
            Sent::Done(Err(fault)) if fault.is_refusal() => Ok(Some(Brought::Refusal(fault))),
            Sent::Done(Err(fault)) => Err(fault),
            Sent::LeaseLost => {
                tracing::info!("the saga's lease went to somebody else while a command was under way");
                Ok(None)
            }
            Sent::Abandoned => {
                self.give_back(row, true).await;
                Ok(None)
            }
        }
    }

    /// Sends the stored bytes, within the time a call may take, keeping the lease meanwhile.
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
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(Fault::internal("send_panicked", format!("sending {} panicked", row.step))),
                Err(_) => Err(Fault::timeout(format!("No answer to {} within {} ms.", row.step, limit.as_millis()))),
            }),
            () = self.keep_lease(row) => Sent::LeaseLost,
            () = stopped => Sent::Abandoned,
        }
    }

    /// Renews the lease again and again; returns once it is lost.
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
                // The lease may end meanwhile. Then somebody else claims it, and the token keeps this runner from writing.
                Err(fault) => tracing::warn!(%fault, "a saga's lease could not be renewed"),
            }
        }
    }

    async fn advance(
        &self,
        row: &Row,
        definition: &Arc<dyn Definition>,
        brought: Brought,
    ) -> Result<Option<Row>, Fault> {
        let (claim, definition) = (Claim::from(row), definition.clone());
        self.db
            .write((definition, brought), move |tx, (definition, brought)| async move {
                advance::advance(&tx, claim, definition.as_ref(), brought).await
            })
            .await
    }

    /// Stores that the saga waits. While the database is away it tries again, until the lease's time is over and anybody may take it up.
    async fn put_off(&self, row: &Row, fault: Fault, origin: Origin, stop: &CancellationToken) {
        if fault.is_transient() {
            tracing::debug!(step = row.step, %fault, "a saga's command has no known outcome; it is asked again");
        } else {
            tracing::error!(step = row.step, %fault, "a saga met a bug");
        }
        let claim = Claim::from(row);
        let begun = Instant::now();
        loop {
            let fault = fault.clone();
            let stored = self.db.write(fault, move |tx, fault| async move {
                advance::put_off(&tx, claim, &fault, origin).await
            });
            match stored.await {
                Ok(Some(row)) => return self.report_end(&row),
                Ok(None) => return,
                Err(fault) => tracing::warn!(%fault, "a saga's retry could not be stored"),
            }
            if stop.is_cancelled() || begun.elapsed() >= self.db.settings().lease() {
                return;
            }
            tokio::time::sleep(SHORT_NAP * 4).await;
        }
    }

    /// Lets another instance go on at once.
    async fn give_back(&self, row: &Row, in_doubt: bool) {
        let (id, token) = (row.id, row.lease_token);
        let given = self.db.write((), move |tx, ()| async move {
            store::give_back(&tx, id, token, in_doubt).await?;
            tx.wake(TOPIC);
            Ok(())
        });
        if let Err(fault) = given.await {
            tracing::warn!(%fault, "a saga's lease could not be given back; it ends by itself");
        }
    }

    fn report_end(&self, row: &Row) {
        if row.state == SagaState::Parked {
            tracing::error!(
                reason = row.parked_reason,
                step = row.step,
                "a saga is parked; an operator must look"
            );
        }
        if !row.state.is_active() {
            metrics::counter!("banyan_sagas_ended_total", "module" => self.db.module().to_owned(), "kind" => row.kind.clone(),
                "state" => row.state.as_str())
            .increment(1);
        }
    }

    /// Keeps the gauges: unfinished sagas by state, and those that no definition here knows.
    async fn count(&self, stop: &CancellationToken) {
        let mut said = false;
        while !stop.is_cancelled() {
            match store::count_unfinished(&self.db).await {
                Ok(counts) => self.show_counts(&counts, &mut said),
                Err(fault) => tracing::debug!(%fault, "sagas could not be counted"),
            }
            tokio::select! {
                () = tokio::time::sleep(COUNT_EVERY) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    fn show_counts(&self, counts: &[(String, i64, SagaState, i64)], said: &mut bool) {
        let module = self.db.module().to_owned();
        let unknown: i64 = counts
            .iter()
            .filter(|(kind, version, ..)| self.definitions.find(kind, *version).is_none())
            .map(|row| row.3)
            .sum();
        metrics::gauge!("banyan_sagas_unknown_definition", "module" => module.clone()).set(unknown as f64);
        if unknown > 0 && !*said {
            tracing::warn!(
                module,
                sagas = unknown,
                "there are sagas of kinds or versions that this binary does not know; they are left alone"
            );
        }
        *said = unknown > 0;
        let mut kinds: Vec<&'static str> = self.definitions.known().into_iter().map(|(kind, _)| kind).collect();
        kinds.dedup();
        for kind in kinds {
            for state in [SagaState::Running, SagaState::Compensating, SagaState::Parked] {
                let sagas: i64 = counts
                    .iter()
                    .filter(|row| row.0 == kind && row.2 == state)
                    .map(|row| row.3)
                    .sum();
                metrics::gauge!("banyan_sagas", "module" => module.clone(), "kind" => kind, "state" => state.as_str())
                    .set(sagas as f64);
            }
        }
    }
}
