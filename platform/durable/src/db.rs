//! One module's database: its storage, reads and writes.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use banyan_core::{Clock, Fault, Ids, outside_transaction};
use parking_lot::Mutex;
use sea_orm::{ConnectionTrait, DbBackend};
use tokio::{sync::broadcast, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Reads, Settings, Tx,
    connection::{Counts, cannot_open, postgres as pg, sqlite as lite},
    echoes::Echoes,
    job::Job,
    lease, listen,
    notify::Notifier,
    postgres,
    saga::handover::Handover,
    sqlite,
};

/// Where a module's data is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// A file of its own.
    Sqlite { path: PathBuf },
    /// A schema of its own, through a login with rights on that schema alone.
    Postgres { url: String, schema: String },
}

/// What every transaction of a module has at hand.
pub(crate) struct Facts {
    pub module: String,
    pub settings: Settings,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub handover: Handover,
}

/// Something was committed that concerns `topic`: a subject (`<aggregate>/<id>`) or a name a module chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub topic: Arc<str>,
}

/// Returns once something was committed that concerns `topic`, or may have been: changes that were missed count. When the sender no longer exists it
/// never returns, so select on something else beside it.
pub async fn changed(changes: &mut broadcast::Receiver<Change>, topic: &str) {
    loop {
        match changes.recv().await {
            Ok(change) if *change.topic == *topic => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// The timeout of [`Db::ping`].
const PING_LIMIT: Duration = Duration::from_secs(2);

/// One module's database. [`write`](Db::write) is the only way to change anything.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    facts: Arc<Facts>,
    reads: Reads,
    writer: Writer,
    changes: broadcast::Sender<Change>,
    held: lease::Held,
    closed: CancellationToken,
}

enum Writer {
    Sqlite(sqlite::Writer),
    Postgres(postgres::Writer),
}

impl Db {
    /// Opens the module's database. Its tables must exist: see [`Connection::open`](crate::Connection::open) and
    /// [`migrate::up`](crate::migrate::up).
    ///
    /// # Errors
    /// `unavailable`, naming what could not be reached.
    pub async fn open(
        module: &str,
        storage: &Storage,
        settings: Settings,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Result<Db, Fault> {
        let facts = Arc::new(Facts {
            module: module.to_owned(),
            settings,
            clock,
            ids,
            handover: Handover::default(),
        });
        let (changes, _) = broadcast::channel(1_024);
        let closed = CancellationToken::new();
        let counts = Counts::of(module);
        let not_opened = |error| cannot_open(storage, module, &error);
        let (reads, writer) = match storage {
            Storage::Sqlite { path } => {
                // The writer opens the file first and alone: two connections switching to WAL at once lock each other out.
                let file = lite::File::at(path);
                let write = lite::Connection::open(&file, lite::Mode::Write).map_err(not_opened)?;
                let readers = lite::Readers::open(&file, facts.settings.reads()).map_err(not_opened)?;
                let writer = sqlite::Writer::start(write, file, counts.clone(), facts.clone(), changes.clone())?;
                (Reads::sqlite(readers, counts), Writer::Sqlite(writer))
            }
            Storage::Postgres { url, schema } => {
                let options = pg::options(url, schema, module, Some(&facts.settings)).map_err(not_opened)?;
                let pool = pg::Pool::open(options, facts.settings.pool).await.map_err(not_opened)?;
                let channel = listen::channel(schema);
                let echoes = Echoes::default();
                listen::start(
                    url.clone(),
                    channel.clone(),
                    echoes.clone(),
                    changes.clone(),
                    closed.clone(),
                );
                let notifier = Notifier::start(
                    pool.clone(),
                    channel,
                    facts.settings.limits.pace,
                    echoes,
                    closed.clone(),
                );
                let writer =
                    postgres::Writer::new(pool.clone(), counts.clone(), facts.clone(), notifier, changes.clone());
                (Reads::postgres(pool, counts), Writer::Postgres(writer))
            }
        };
        Ok(Db(Arc::new(Inner {
            facts,
            reads,
            writer,
            changes,
            held: lease::Held::default(),
            closed,
        })))
    }

    pub fn module(&self) -> &str {
        &self.0.facts.module
    }

    pub fn settings(&self) -> &Settings {
        &self.0.facts.settings
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.facts.clock
    }

    pub fn ids(&self) -> &Arc<dyn Ids> {
        &self.0.facts.ids
    }

    pub fn backend(&self) -> DbBackend {
        self.0.reads.get_database_backend()
    }

    /// Whether other processes may write to it too. On SQLite this one is the only one.
    pub fn has_other_writers(&self) -> bool {
        matches!(self.0.writer, Writer::Postgres(_))
    }

    /// Where sagas that are started here go.
    pub(crate) fn handover(&self) -> &Handover {
        &self.0.facts.handover
    }

    /// The leases that this process holds on it.
    pub(crate) fn held(&self) -> &lease::Held {
        &self.0.held
    }

    /// For queries only.
    pub fn read(&self) -> &Reads {
        &self.0.reads
    }

    /// Runs `job` in one transaction and commits it. It returns **after** the commit.
    ///
    /// The job may run more than once (PostgreSQL rolls back a transaction that lost a race), so each attempt gets its own clone of `context`: what
    /// the job needs to own, usually a tuple. An attempt may take at most [`MachineryLimits::job_timeout`](crate::MachineryLimits::job_timeout). An error of the job rolls its effects back, and
    /// nobody else's. Dropping the returned future cancels nothing. Inside a job nothing outside the module can be called, and nothing else can be
    /// written: see [`outside_transaction`].
    ///
    /// ```ignore
    /// db.write((call, name), |tx, (call, name)| async move { store::rename(&tx, &call, &name).await }).await?;
    /// ```
    ///
    /// # Errors
    /// The job's own; `unavailable` when the transaction could not be committed, the queue is full, or the job took too long and was rolled back.
    pub async fn write<T, C, F, Fut>(&self, context: C, job: F) -> Result<T, Fault>
    where
        C: Clone + Send + Sync + 'static,
        F: Fn(Tx, C) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, Fault>> + Send + 'static,
        T: Send + 'static,
    {
        outside_transaction("another write")?;
        let slot: Arc<Mutex<Option<T>>> = Arc::default();
        let result = slot.clone();
        let job: Job = Arc::new(move |tx| {
            let work = job(tx, context.clone());
            let result = result.clone();
            Box::pin(async move {
                let value = work.await?;
                *result.lock() = Some(value);
                Ok(())
            })
        });
        match &self.0.writer {
            Writer::Sqlite(writer) => writer.run(job).await?,
            Writer::Postgres(writer) => writer.run(job).await?,
        }
        let value = slot.lock().take();
        value.ok_or_else(|| Fault::internal("write_without_answer", "a write job committed without a value"))
    }

    /// Receives what has been committed, by this process or another one on the same PostgreSQL. A hint, not a record: a receiver that lagged or was
    /// disconnected reads the tables again.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.0.changes.subscribe()
    }

    /// Whether the database responds and can be written to, within 2 seconds.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn ping(&self) -> Result<(), Fault> {
        if let Some(damage) = self.damage() {
            return Err(Fault::unavailable(damage));
        }
        if let Writer::Sqlite(writer) = &self.0.writer {
            writer.file().check_is_there().map_err(Fault::unavailable)?;
        }
        let ping = async {
            match &self.0.writer {
                // The last write could not be committed: only a write shows whether the next one can.
                Writer::Sqlite(writer) if !writer.commits() => lease::probe(self).await,
                Writer::Postgres(writer) if !writer.commits() => lease::probe(self).await,
                _ => self.0.reads.check().await,
            }
        };
        match timeout(PING_LIMIT, ping).await {
            Ok(response) => response,
            Err(_) => Err(Fault::unavailable("The database does not respond.")),
        }
    }

    /// The damage that a statement met in the file since it was opened. Such a module is not ready until it was restored and the process started again.
    pub fn damage(&self) -> Option<&str> {
        match &self.0.writer {
            Writer::Sqlite(writer) => writer.file().damage(),
            Writer::Postgres(_) => None,
        }
    }

    /// Waits for the running writes and closes every connection. Later writes are refused.
    pub async fn close(&self) {
        self.0.closed.cancel();
        let last = match &self.0.writer {
            Writer::Sqlite(writer) => writer.close().await,
            Writer::Postgres(writer) => {
                writer.close().await;
                None
            }
        };
        self.0.reads.close().await;
        // SQLite copies the WAL into the file, which may take a while.
        let _ = tokio::task::spawn_blocking(move || drop(last)).await;
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db")
            .field("module", &self.module())
            .field("backend", &self.backend())
            .finish_non_exhaustive()
    }
}
