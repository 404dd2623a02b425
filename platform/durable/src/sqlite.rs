//! The one writer of an SQLite file: many jobs share a commit.
//!
//! Jobs wait in a queue. The writer opens a transaction for the first, runs whatever else is waiting in the same one, each in a savepoint of its own,
//! and commits. Results are returned and topics are woken after the commit and only then. Under load this gives several times the durable writes of
//! one commit for each job; without load a job waits for no other.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use banyan_core::{Fault, inside_transaction};
use futures::{FutureExt, future::BoxFuture};
use sea_orm::{DatabaseConnection, DatabaseTransaction, SqliteTransactionMode, TransactionOptions, TransactionTrait};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{
    Change, Tx,
    db::{Facts, Job, JobResult},
    fault::fault,
};

struct Queued {
    job: Job,
    result: oneshot::Sender<JobResult>,
}

/// Opens a new connection for the writer.
pub(crate) type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<DatabaseConnection, Fault>> + Send + Sync>;

/// The timeout for closing a connection.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

pub(crate) struct Writer {
    queue: mpsc::Sender<Queued>,
    closed: tokio_util::sync::CancellationToken,
    finished: tokio_util::sync::CancellationToken,
}

impl Writer {
    /// `connection` is the one to write by; `connect` opens another if it is lost.
    pub fn start(
        connection: DatabaseConnection,
        connect: Connect,
        facts: Arc<Facts>,
        changes: broadcast::Sender<Change>,
    ) -> Self {
        let (queue, jobs) = mpsc::channel(facts.settings.limits.write_queue);
        let writer = Writer {
            queue,
            closed: Default::default(),
            finished: Default::default(),
        };
        let (closed, finished) = (writer.closed.clone(), writer.finished.clone());
        tokio::spawn(async move {
            let mut work = Loop {
                connection: Some(connection),
                connect,
                facts,
                changes,
            };
            work.run(jobs, closed).await;
            work.close_connection().await;
            finished.cancel();
        });
        writer
    }

    pub async fn run(&self, job: Job) -> JobResult {
        let (result, done) = oneshot::channel();
        if self.closed.is_cancelled() {
            return Err(Fault::unavailable("The module is shutting down."));
        }
        self.queue
            .try_send(Queued { job, result })
            .map_err(|_| Fault::unavailable("Too many writes are waiting."))?;
        done.await
            .unwrap_or_else(|_| Err(Fault::unavailable("The module is shutting down.")))
    }

    pub async fn close(&self) {
        self.closed.cancel();
        self.finished.cancelled().await;
    }
}

struct Loop {
    /// None after it was lost.
    connection: Option<DatabaseConnection>,
    connect: Connect,
    facts: Arc<Facts>,
    changes: broadcast::Sender<Change>,
}

/// A job that ran; if `Ok`, its effects are in the open transaction, and these are the topics to wake.
type Ran = (oneshot::Sender<JobResult>, Result<Vec<Arc<str>>, Fault>);

/// The transaction was lost, and with it every job of the batch.
struct BatchLost;

impl Loop {
    async fn run(&mut self, mut jobs: mpsc::Receiver<Queued>, closed: tokio_util::sync::CancellationToken) {
        loop {
            let first = tokio::select! {
                biased;
                job = jobs.recv() => job,
                () = closed.cancelled() => jobs.try_recv().ok(),
            };
            match first {
                Some(first) => self.commit_batch(first, &mut jobs).await,
                None => return,
            }
        }
    }

    async fn begin(&mut self) -> Result<DatabaseTransaction, Fault> {
        let immediate = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..Default::default()
        };
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => (self.connect)().await?,
        };
        let begun = connection.begin_with_options(immediate).await.map_err(fault);
        self.connection = Some(connection);
        if begun.is_err() {
            self.close_connection().await;
        }
        begun
    }

    /// After SQLite ended a transaction by itself, the driver still counts it as open: every later batch would begin with a mere savepoint, no longer
    /// IMMEDIATE, one level deeper with each loss. So a connection on which a transaction failed is closed, which also rolls back whatever it holds,
    /// and the next job gets a new one.
    async fn close_connection(&mut self) {
        if let Some(connection) = self.connection.take() {
            match tokio::time::timeout(CLOSE_LIMIT, connection.close()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(module = self.facts.module, %error, "closing the writer's connection")
                }
                Err(_) => tracing::warn!(module = self.facts.module, "the writer's connection does not close"),
            }
        }
    }

    async fn commit_batch(&mut self, first: Queued, jobs: &mut mpsc::Receiver<Queued>) {
        let transaction = match self.begin().await {
            Ok(transaction) => transaction,
            Err(fault) => {
                let _ = first.result.send(Err(fault));
                return;
            }
        };
        let mut ran: Vec<Ran> = Vec::new();
        let mut next = Some(first);
        let mut lost = false;
        while let Some(queued) = next {
            match self.run_one(&transaction, &queued.job).await {
                Ok(done) => ran.push((queued.result, done)),
                Err(BatchLost) => {
                    ran.push((queued.result, Ok(Vec::new())));
                    lost = true;
                    break;
                }
            }
            next = if ran.len() < self.facts.settings.limits.commit_batch {
                jobs.try_recv().ok()
            } else {
                None
            };
        }
        metrics::histogram!("banyan_commit_batch_jobs", "module" => self.facts.module.clone()).record(ran.len() as f64);
        let ended = if lost {
            transaction.rollback().await
        } else {
            transaction.commit().await
        };
        // After a loss there is nothing left to roll back, which SQLite reports as an error.
        if let (Err(error), false) = (&ended, lost) {
            tracing::error!(module = self.facts.module, %error, "a batch of writes could not be committed");
        }
        let committed = ended.is_ok() && !lost;
        if !committed {
            self.close_connection().await;
        }
        for (result, done) in ran {
            let done = match (done, committed) {
                (Ok(topics), true) => {
                    for topic in topics {
                        let _ = self.changes.send(Change { topic });
                    }
                    Ok(())
                }
                // A refusal too may depend on what another job of the batch wrote, and that is lost.
                (_, false) => Err(Fault::unavailable("The database could not commit.")),
                (Err(fault), true) => Err(fault),
            };
            // The work is committed even if its caller was dropped.
            let _ = result.send(done);
        }
    }

    /// Runs one job in a savepoint. SQLite ends a transaction by itself, savepoints and all, when the disk is full or broken; that shows
    /// when the savepoint can no longer be released or rolled back to, and loses the whole batch.
    async fn run_one(
        &self,
        transaction: &DatabaseTransaction,
        job: &Job,
    ) -> Result<Result<Vec<Arc<str>>, Fault>, BatchLost> {
        let savepoint = transaction.begin().await.map_err(|_| BatchLost)?;
        let tx = Tx::new(savepoint, self.facts.clone());
        let done = run_job(job, &tx, self.facts.settings.limits.job_timeout).await;
        let (savepoint, topics) = tx.finish().map_err(|fault| {
            tracing::error!(%fault, "a write job kept its transaction");
            BatchLost
        })?;
        match done {
            Ok(()) => savepoint.commit().await.map_err(|_| BatchLost)?,
            Err(fault) => {
                savepoint.rollback().await.map_err(|_| BatchLost)?;
                return Ok(Err(fault));
            }
        }
        Ok(Ok(topics))
    }
}

/// Runs a job within its timeout. A panic in it fails this job and no other.
pub(crate) async fn run_job(job: &Job, tx: &Tx, limit: Duration) -> JobResult {
    let work = AssertUnwindSafe(inside_transaction(async { job(tx.clone()).await })).catch_unwind();
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(Fault::internal(
            "write_panicked",
            format!("a write job of {} panicked", tx.module()),
        )),
        // It is certainly rolled back, so the outcome is known.
        Err(_) => Err(Fault::unavailable(format!(
            "A write of {} took longer than {} ms.",
            tx.module(),
            limit.as_millis()
        ))),
    }
}
