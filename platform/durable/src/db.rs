//! One module's database: its storage, reads and writes.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use banyan_core::{Clock, Fault, Ids, outside_transaction, without_password};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend,
    sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous},
};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::{Settings, Tx, fault::fault, listen, postgres, sqlite};

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

/// One module's database. [`write`](Db::write) is the only way to change anything.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    facts: Arc<Facts>,
    backend: DbBackend,
    reads: DatabaseConnection,
    writer: Writer,
    changes: broadcast::Sender<Change>,
    closed: CancellationToken,
}

enum Writer {
    Sqlite(sqlite::Writer),
    Postgres(postgres::Writer),
}

/// The result of a write job without its value: the writers need not know the type.
pub(crate) type JobResult = Result<(), Fault>;
/// A write job that puts its value into a slot of its own.
pub(crate) type Job = Arc<dyn Fn(Tx) -> BoxFuture<'static, JobResult> + Send + Sync>;

impl Db {
    /// Opens the module's database. Its tables must exist: see [`migration_connection`] and [`migrate::up`](crate::migrate::up).
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
        });
        let (changes, _) = broadcast::channel(1_024);
        let closed = CancellationToken::new();
        let (backend, reads, writer) = match storage {
            Storage::Sqlite { .. } => {
                // The writer opens the file first and alone: two connections switching to WAL at once lock each other out.
                let write = connect(storage, 1, module, None).await?;
                let reads = connect(storage, facts.settings.pool, module, None).await?;
                let (reopened, name) = (storage.clone(), module.to_owned());
                let reconnect: sqlite::Connect = Box::new(move || {
                    let (storage, module) = (reopened.clone(), name.clone());
                    Box::pin(async move { connect(&storage, 1, &module, None).await })
                });
                let writer = sqlite::Writer::start(write, reconnect, facts.clone(), changes.clone());
                (DbBackend::Sqlite, reads, Writer::Sqlite(writer))
            }
            Storage::Postgres { url, schema } => {
                let pool = connect(storage, facts.settings.pool, module, Some(&facts.settings)).await?;
                let channel = listen::channel(schema);
                listen::start(url.clone(), channel.clone(), changes.clone(), closed.clone());
                let writer = postgres::Writer::new(pool.clone(), facts.clone(), channel, changes.clone());
                (DbBackend::Postgres, pool, Writer::Postgres(writer))
            }
        };
        Ok(Db(Arc::new(Inner {
            facts,
            backend,
            reads,
            writer,
            changes,
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
        self.0.backend
    }

    /// For queries only.
    pub fn read(&self) -> &DatabaseConnection {
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

    /// Whether the database responds, within 2 seconds.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn ping(&self) -> Result<(), Fault> {
        let ping = self.0.reads.execute_unprepared("select 1");
        match tokio::time::timeout(Duration::from_secs(2), ping).await {
            Ok(response) => response.map(drop).map_err(fault),
            Err(_) => Err(Fault::unavailable("The database does not respond.")),
        }
    }

    /// Waits for the running writes and closes every connection. Later writes are refused.
    pub async fn close(&self) {
        self.0.closed.cancel();
        if let Writer::Sqlite(writer) = &self.0.writer {
            writer.close().await;
        }
        if let Err(error) = self.0.reads.clone().close().await {
            tracing::debug!(module = self.module(), %error, "closing the database");
        }
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db")
            .field("module", &self.module())
            .field("backend", &self.0.backend)
            .finish_non_exhaustive()
    }
}

/// A single connection for migrations, before [`Db::open`].
///
/// # Errors
/// `unavailable`, naming what could not be reached.
pub async fn migration_connection(storage: &Storage, module: &str) -> Result<DatabaseConnection, Fault> {
    connect(storage, 1, module, None).await
}

/// `limits` applies to PostgreSQL. Migrations have none, because they may take long.
async fn connect(
    storage: &Storage,
    connections: u32,
    module: &str,
    limits: Option<&Settings>,
) -> Result<DatabaseConnection, Fault> {
    let mut options = match storage {
        Storage::Sqlite { path } => {
            let mut options = ConnectOptions::new(format!("sqlite://{}?mode=rwc", path.display()));
            options.idle_timeout(None::<Duration>).max_lifetime(None::<Duration>);
            options.map_sqlx_sqlite_opts(move |sqlite| {
                let sqlite = sqlite
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(Duration::from_secs(5))
                    .foreign_keys(true)
                    .pragma("temp_store", "memory");
                // The file remembers WAL; readers must not request it again, because switching takes a lock that no timeout waits for.
                if connections == 1 {
                    sqlite.journal_mode(SqliteJournalMode::Wal)
                } else {
                    sqlite
                }
            });
            options
        }
        Storage::Postgres { url, schema } => {
            let mut options = ConnectOptions::new(url.clone());
            options
                .set_schema_search_path(schema.clone())
                .set_application_name(format!("banyan-{module}"));
            if let Some(settings) = limits {
                // A job that timed out can only be rolled back once its statement has ended, so the server ends statements too. And a process that
                // was suspended inside a transaction must not keep its locks for ever.
                // The lock timeout is shorter than the job's, so that the job can say why it failed.
                let (lock_ms, statement_ms) = (
                    settings.limits.job_timeout.as_millis() * 4 / 5,
                    settings.limits.job_timeout.as_millis() * 10,
                );
                options.map_sqlx_postgres_opts(move |postgres| {
                    postgres.options([
                        ("lock_timeout", lock_ms),
                        ("statement_timeout", statement_ms),
                        ("idle_in_transaction_session_timeout", statement_ms),
                    ])
                });
            }
            options
        }
    };
    options
        .max_connections(connections)
        .min_connections(0)
        .sqlx_logging(false)
        .acquire_timeout(Duration::from_secs(5));
    // SQLite has no connection to lose. PostgreSQL may have restarted: a dead connection is found before it is used.
    options.test_before_acquire(matches!(storage, Storage::Postgres { .. }));
    Database::connect(options).await.map_err(|error| {
        let storage = match storage {
            Storage::Sqlite { path } => format!("the file {}", path.display()),
            Storage::Postgres { url, schema } => format!("schema {schema} at {}", without_password(url)),
        };
        Fault::unavailable(format!("cannot open {storage} for {module}: {error}"))
    })
}
