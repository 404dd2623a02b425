//! What statements run on: the connection of a transaction, and the connections for reads.
//!
//! Both databases are behind sea-orm's [`ConnectionTrait`], so a module's queries name neither. Every statement is counted, and none waits without a
//! time limit.

mod counts;
pub(crate) mod postgres;
pub(crate) mod servers;
pub(crate) mod sqlite;
mod sqlite_error;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use banyan_core::{Fault, without_password};
use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, ExecResult, ProxyExecResult, ProxyRow, QueryResult, Statement,
    prelude::async_trait,
};

use crate::{Storage, fault::fault};

pub(crate) use counts::Counts;

/// One connection, with its statements one after the other: what a write transaction and a migration run on.
pub struct Connection {
    kind: Kind,
    counts: Counts,
    /// A statement failed.
    failed: AtomicBool,
    statements: AtomicU64,
}

enum Kind {
    Sqlite(Arc<sqlite::Connection>),
    Postgres(postgres::Connection),
}

impl Connection {
    pub(crate) fn sqlite(connection: Arc<sqlite::Connection>, counts: Counts) -> Self {
        Connection::new(Kind::Sqlite(connection), counts)
    }

    pub(crate) fn postgres(connection: postgres::Connection, counts: Counts) -> Self {
        Connection::new(Kind::Postgres(connection), counts)
    }

    fn new(kind: Kind, counts: Counts) -> Self {
        Connection {
            kind,
            counts,
            failed: AtomicBool::new(false),
            statements: AtomicU64::new(0),
        }
    }

    /// Opens a connection for migrations, and creates a file that does not exist. Its statements may take as long as they need.
    ///
    /// # Errors
    /// `unavailable`, naming what could not be reached.
    pub async fn open(storage: &Storage, module: &str) -> Result<Self, Fault> {
        Self::open_as(storage, module, sqlite::Mode::Create).await
    }

    /// As [`open`](Connection::open); `None` if there is no such file. Whether a schema exists on PostgreSQL, the first statement shows.
    ///
    /// # Errors
    /// `unavailable`, naming what could not be reached.
    pub async fn open_existing(storage: &Storage, module: &str) -> Result<Option<Self>, Fault> {
        if let Storage::Sqlite { path } = storage
            && !path.exists()
        {
            return Ok(None);
        }
        Self::open_as(storage, module, sqlite::Mode::Write).await.map(Some)
    }

    async fn open_as(storage: &Storage, module: &str, mode: sqlite::Mode) -> Result<Self, Fault> {
        let opened = match storage {
            Storage::Sqlite { path } => {
                let opened = sqlite::Connection::open(&sqlite::File::at(path), mode);
                opened.map(|opened| Kind::Sqlite(Arc::new(opened)))
            }
            Storage::Postgres { url, schema } => match postgres::options(url, schema, module, None) {
                Ok(options) => postgres::Connection::open(options).await.map(Kind::Postgres),
                Err(error) => Err(error),
            },
        };
        match opened {
            Ok(kind) => Ok(Connection::new(kind, Counts::of(module))),
            Err(error) => Err(cannot_open(storage, module, &error)),
        }
    }

    /// Closes it, which rolls back what was not committed.
    pub async fn close(self) {
        if let Kind::Postgres(connection) = self.kind {
            connection.close().await;
        }
    }

    /// Whether a statement failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// The number of statements so far.
    pub(crate) fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    /// The connection on PostgreSQL, to end its transaction.
    pub(crate) fn into_postgres(self) -> Option<postgres::Connection> {
        match self.kind {
            Kind::Postgres(connection) => Some(connection),
            Kind::Sqlite(_) => None,
        }
    }

    async fn observe<T>(&self, statement: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        self.counts.statement();
        self.statements.fetch_add(1, Ordering::Relaxed);
        let done = statement.await;
        if done.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        done
    }
}

/// Refuses a pooler in front of PostgreSQL that pools transactions: whatever belongs to a session would be another client's.
///
/// # Errors
/// `unavailable`: with what to set, or naming what could not be reached.
pub async fn refuse_transaction_pooling(storage: &Storage, module: &str) -> Result<(), Fault> {
    match storage {
        Storage::Sqlite { .. } => Ok(()),
        Storage::Postgres { url, .. } => postgres::refuse_transaction_pooling(url)
            .await
            .map_err(|error| cannot_open(storage, module, &error)),
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("backend", &self.get_database_backend())
            .finish_non_exhaustive()
    }
}

pub(crate) fn cannot_open(storage: &Storage, module: &str, error: &DbErr) -> Fault {
    let storage = match storage {
        Storage::Sqlite { path } => format!("the file {}", path.display()),
        Storage::Postgres { url, schema } => format!("schema {schema} at {}", without_password(url)),
    };
    Fault::unavailable(format!("cannot open {storage} for {module}: {error}"))
}

#[async_trait::async_trait]
impl ConnectionTrait for Connection {
    fn get_database_backend(&self) -> DbBackend {
        match &self.kind {
            Kind::Sqlite(_) => DbBackend::Sqlite,
            Kind::Postgres(_) => DbBackend::Postgres,
        }
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.observe(async {
            match &self.kind {
                Kind::Sqlite(connection) => connection.execute(&statement).map(executed),
                Kind::Postgres(connection) => connection.execute(&statement).await.map(Into::into),
            }
        })
        .await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.observe(async {
            match &self.kind {
                Kind::Sqlite(connection) => connection.execute_script(sql).map(executed),
                Kind::Postgres(connection) => connection.execute_script(sql).await.map(Into::into),
            }
        })
        .await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.observe(async {
            match &self.kind {
                Kind::Sqlite(connection) => Ok(first(connection.query(&statement, Some(1))?)),
                Kind::Postgres(connection) => Ok(connection.query_one(&statement).await?.map(Into::into)),
            }
        })
        .await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.observe(async {
            match &self.kind {
                Kind::Sqlite(connection) => Ok(all(connection.query(&statement, None)?)),
                Kind::Postgres(connection) => Ok(all(connection.query_all(&statement).await?)),
            }
        })
        .await
    }
}

/// The connections for reads. Each statement uses one of them, for itself alone.
pub struct Reads {
    kind: ReadsKind,
    counts: Counts,
}

enum ReadsKind {
    Sqlite(sqlite::Readers),
    Postgres(postgres::Pool),
}

impl Reads {
    pub(crate) fn sqlite(readers: sqlite::Readers, counts: Counts) -> Self {
        Reads {
            kind: ReadsKind::Sqlite(readers),
            counts,
        }
    }

    pub(crate) fn postgres(pool: postgres::Pool, counts: Counts) -> Self {
        Reads {
            kind: ReadsKind::Postgres(pool),
            counts,
        }
    }

    /// Closes all connections; later reads fail.
    pub(crate) async fn close(&self) {
        match &self.kind {
            ReadsKind::Sqlite(readers) => readers.close().await,
            ReadsKind::Postgres(pool) => pool.close(),
        }
    }
}

impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reads")
            .field("backend", &self.get_database_backend())
            .finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl ConnectionTrait for Reads {
    fn get_database_backend(&self) -> DbBackend {
        match &self.kind {
            ReadsKind::Sqlite(_) => DbBackend::Sqlite,
            ReadsKind::Postgres(_) => DbBackend::Postgres,
        }
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.query_all_raw(statement).await.map(|_| executed(0))
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.execute_raw(Statement::from_string(self.get_database_backend(), sql))
            .await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.counts.statement();
        match &self.kind {
            ReadsKind::Sqlite(readers) => Ok(first(readers.query(statement, Some(1)).await?)),
            ReadsKind::Postgres(pool) => Ok(pool.read_one(&statement).await?.map(Into::into)),
        }
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.counts.statement();
        match &self.kind {
            ReadsKind::Sqlite(readers) => Ok(all(readers.query(statement, None).await?)),
            ReadsKind::Postgres(pool) => Ok(all(pool.read_all(&statement).await?)),
        }
    }
}

impl Reads {
    /// Whether the database can be written to, as far as reading tells.
    pub(crate) async fn check(&self) -> Result<(), Fault> {
        match &self.kind {
            ReadsKind::Sqlite(_) => self.execute_unprepared("select 1").await.map(drop).map_err(fault),
            ReadsKind::Postgres(pool) => pool.check_writable().await.map_err(fault),
        }
    }
}

fn executed(rows_affected: u64) -> ExecResult {
    ProxyExecResult::new(0, rows_affected).into()
}

fn first(rows: Vec<ProxyRow>) -> Option<QueryResult> {
    rows.into_iter().next().map(Into::into)
}

fn all<Row: Into<QueryResult>>(rows: Vec<Row>) -> Vec<QueryResult> {
    rows.into_iter().map(Into::into).collect()
}
