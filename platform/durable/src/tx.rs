//! A write transaction, as the job inside it sees it.

use std::sync::Arc;

use banyan_core::{Clock, Fault, Ids, Timestamp};
use parking_lot::Mutex;
use sea_orm::{ConnectionTrait, DbBackend, Statement, Value};
use tokio::sync::broadcast;

use crate::{Change, Connection, db::Facts, fault::fault, query, saga::handover::Handover};

/// A write transaction. Everything done through it is committed together, or not at all.
///
/// Cheap to clone; the job must not keep a clone beyond its own end.
#[derive(Clone)]
pub struct Tx {
    connection: Arc<Connection>,
    facts: Arc<Facts>,
    attempt: u32,
    after: Arc<Mutex<AfterCommit>>,
}

/// What happens after the commit and only then.
#[derive(Default)]
pub(crate) struct AfterCommit {
    topics: Vec<Arc<str>>,
    work: Vec<Box<dyn FnOnce() + Send>>,
}

impl AfterCommit {
    /// The topics to wake.
    pub fn topics(&self) -> &[Arc<str>] {
        &self.topics
    }

    /// Does the work, and wakes the topics in this process.
    pub fn run(self, changes: &broadcast::Sender<Change>) {
        self.work.into_iter().for_each(|work| work());
        for topic in self.topics {
            let _ = changes.send(Change { topic });
        }
    }
}

impl Tx {
    /// `attempt` is 1 for the first.
    pub(crate) fn new(connection: Connection, facts: Arc<Facts>, attempt: u32) -> Self {
        Tx {
            connection: Arc::new(connection),
            facts,
            attempt,
            after: Arc::default(),
        }
    }

    /// What queries run on.
    pub fn conn(&self) -> &Connection {
        &self.connection
    }

    /// Notifies whoever waits for `topic`, after the commit and only then.
    pub fn wake(&self, topic: impl Into<Arc<str>>) {
        let topics = &mut self.after.lock().topics;
        let topic = topic.into();
        if !topics.contains(&topic) {
            topics.push(topic);
        }
    }

    /// Does `work` after the commit and only then, before any topic is woken. It must be quick and must not panic.
    pub fn after_commit(&self, work: impl FnOnce() + Send + 'static) {
        self.after.lock().work.push(Box::new(work));
    }

    /// Whether an earlier attempt of this job lost a race. What was known before may be out of date: read it from the database.
    pub fn is_repeated(&self) -> bool {
        self.attempt > 1
    }

    pub fn module(&self) -> &str {
        &self.facts.module
    }

    pub fn clock(&self) -> &dyn Clock {
        self.facts.clock.as_ref()
    }

    pub fn ids(&self) -> &dyn Ids {
        self.facts.ids.as_ref()
    }

    pub fn settings(&self) -> &crate::Settings {
        &self.facts.settings
    }

    /// Where sagas that are started here go.
    pub(crate) fn handover(&self) -> &Handover {
        &self.facts.handover
    }

    pub(crate) fn backend(&self) -> DbBackend {
        self.connection.get_database_backend()
    }

    /// The time by the database's clock, which all instances share: leases and deadlines are judged by it.
    ///
    /// # Errors
    /// As any query.
    pub async fn database_now(&self) -> Result<Timestamp, Fault> {
        let sql = match self.connection.get_database_backend() {
            DbBackend::Sqlite => "select cast(unixepoch('now', 'subsec') * 1000 as integer) as now_ms",
            _ => "select cast(extract(epoch from clock_timestamp()) * 1000 as bigint) as now_ms",
        };
        let now_ms = query::scalar(self.conn(), sql, []).await?;
        now_ms
            .map(Timestamp::from_ms)
            .ok_or_else(|| Fault::internal("database_error", "the database has no clock"))
    }

    /// Runs a statement with `$1`-style parameters, which both databases read; returns the number of rows it touched.
    pub(crate) async fn execute(&self, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<u64, Fault> {
        let statement = Statement::from_sql_and_values(self.connection.get_database_backend(), sql, values);
        let done = self.connection.execute_raw(statement).await.map_err(fault)?;
        Ok(done.rows_affected())
    }

    /// Returns the connection, to commit or roll back, and what is to happen after the commit.
    ///
    /// # Errors
    /// A job that kept a clone beyond its end is a bug; its transaction is rolled back.
    pub(crate) fn finish(self) -> Result<(Connection, AfterCommit), Fault> {
        let after = std::mem::take(&mut *self.after.lock());
        let connection = Arc::try_unwrap(self.connection)
            .map_err(|_| Fault::internal("transaction_leaked", "a write job kept its transaction beyond its end"))?;
        Ok((connection, after))
    }
}
