//! Writes on PostgreSQL: one transaction for each job, repeated when it lost a race.

use std::{sync::Arc, time::Duration};

use banyan_core::Fault;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement, TransactionTrait};
use tokio::{runtime::Handle, sync::broadcast};

use crate::{
    Change, Tx,
    db::{Facts, Job, JobResult},
    fault::{fault, is_lost_race},
    sqlite::run_job,
};

pub(crate) struct Writer {
    attempt: Arc<Attempt>,
    /// The runtime the database was opened on. A web server's worker has a runtime of its own, which may end before the last write.
    runtime: Handle,
}

struct Attempt {
    pool: DatabaseConnection,
    facts: Arc<Facts>,
    channel: String,
    changes: broadcast::Sender<Change>,
}

impl Writer {
    pub fn new(
        pool: DatabaseConnection,
        facts: Arc<Facts>,
        channel: String,
        changes: broadcast::Sender<Change>,
    ) -> Self {
        Writer {
            attempt: Arc::new(Attempt {
                pool,
                facts,
                channel,
                changes,
            }),
            runtime: Handle::current(),
        }
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
            match self.once(job).await {
                Err(fault) if is_lost_race(&fault) && attempts < self.facts.settings.limits.write_attempts => {
                    // Full jitter, so that two transactions in conflict do not meet again.
                    let cap_ms = 1_u64 << attempts.min(6);
                    tokio::time::sleep(Duration::from_millis(rand::random_range(0..=cap_ms))).await;
                    attempts += 1;
                }
                done => return done,
            }
        }
    }

    async fn once(&self, job: &Job) -> JobResult {
        let tx = Tx::new(self.pool.begin().await.map_err(fault)?, self.facts.clone());
        let done = run_job(job, &tx, self.facts.settings.limits.job_timeout).await;
        let (transaction, topics) = tx.finish()?;
        if let Err(fault) = done {
            if let Err(error) = transaction.rollback().await {
                tracing::debug!(%error, "rolling back");
            }
            return Err(fault);
        }
        if !topics.is_empty() {
            // All in one round trip; a JSON array because the driver's own arrays are a feature of their own.
            let names: Vec<&str> = topics.iter().map(AsRef::as_ref).collect();
            let names = serde_json::to_string(&names)
                .map_err(|error| Fault::internal("unwritable_topics", error.to_string()))?;
            let notify = Statement::from_sql_and_values(
                DbBackend::Postgres,
                "select pg_notify($1, topic) from json_array_elements_text(cast($2 as json)) as topics(topic)",
                [self.channel.clone().into(), names.into()],
            );
            transaction.execute_raw(notify).await.map_err(fault)?;
        }
        transaction.commit().await.map_err(fault)?;
        for topic in topics {
            let _ = self.changes.send(Change { topic });
        }
        Ok(())
    }
}
