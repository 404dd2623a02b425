//! Writes on PostgreSQL: one transaction for each job, repeated when it lost a race.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use banyan_core::{Fault, FaultKind};
use tokio::{runtime::Handle, sync::broadcast, time::timeout};

use crate::{
    Change, Connection, Tx,
    connection::{Counts, postgres::Pool},
    db::Facts,
    fault::{fault, is_lost_race},
    job::{self, Job, JobResult},
    notify::Notifier,
};

pub(crate) struct Writer {
    attempt: Arc<Attempt>,
    /// The runtime the database was opened on. A web server's worker has a runtime of its own, which may end before the last write.
    runtime: Handle,
}

struct Attempt {
    pool: Pool,
    counts: Counts,
    facts: Arc<Facts>,
    notifier: Notifier,
    changes: broadcast::Sender<Change>,
    /// Whether every write since the last probe could be committed, or was refused for a reason of its own. One that succeeds says nothing of the others:
    /// it may have needed other rights.
    commits: AtomicBool,
}

impl Writer {
    pub fn new(
        pool: Pool,
        counts: Counts,
        facts: Arc<Facts>,
        notifier: Notifier,
        changes: broadcast::Sender<Change>,
    ) -> Self {
        Writer {
            attempt: Arc::new(Attempt {
                pool,
                counts,
                facts,
                notifier,
                changes,
                commits: AtomicBool::new(true),
            }),
            runtime: Handle::current(),
        }
    }

    /// Whether every write since the last probe could be committed, or was refused for a reason of its own.
    pub fn commits(&self) -> bool {
        self.attempt.commits.load(Ordering::Acquire)
    }

    /// A probe showed that writes can be committed.
    pub fn proved(&self) {
        self.attempt.commits.store(true, Ordering::Release);
    }

    /// Waits until other processes know what was committed.
    pub async fn close(&self) {
        self.attempt.notifier.ended().await;
    }

    /// In a task of its own, so that a write is not cut off when its caller is dropped.
    pub async fn run(&self, job: Job) -> JobResult {
        let attempt = self.attempt.clone();
        let running = self.runtime.spawn(async move { attempt.until_done(&job).await });
        running
            .await
            .unwrap_or_else(|error| Err(Fault::internal("write_panicked", error.to_string())))
    }
}

impl Attempt {
    async fn until_done(&self, job: &Job) -> JobResult {
        let mut attempts = 1;
        loop {
            match self.once(job, attempts).await {
                Err(fault) if is_lost_race(&fault) && attempts < self.facts.settings.limits.write_attempts => {
                    // Full jitter, so that two transactions in conflict do not meet again.
                    let cap_ms = 1_u64 << attempts.min(6);
                    tokio::time::sleep(Duration::from_millis(rand::random_range(0..=cap_ms))).await;
                    attempts += 1;
                }
                done => {
                    let is_in_doubt = done.as_ref().is_err_and(|fault| fault.kind == FaultKind::Unavailable);
                    if is_in_doubt {
                        self.commits.store(false, Ordering::Release);
                    }
                    return done;
                }
            }
        }
    }

    async fn once(&self, job: &Job, attempt: u32) -> JobResult {
        let begun = self.pool.begin().await.map_err(fault)?;
        self.counts.transaction();
        let tx = Tx::new(
            Connection::postgres(begun, self.counts.clone()),
            self.facts.clone(),
            attempt,
        );
        let limit = self.facts.settings.limits.job_timeout;
        let done = match timeout(limit, job::run(job, &tx)).await {
            Ok(done) => done,
            Err(_) => Err(job::too_long(&tx, limit)),
        };
        let (connection, after) = tx.finish()?;
        let Some(connection) = connection.into_postgres() else {
            return Err(Fault::internal(
                "wrong_database",
                "a write on PostgreSQL ran on another database",
            ));
        };
        if let Err(fault) = done {
            connection.roll_back().await;
            return Err(fault);
        }
        connection.commit().await.map_err(fault)?;
        self.notifier.notify(after.topics());
        after.run(&self.changes);
        Ok(())
    }
}
