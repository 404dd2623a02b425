//! SQLite through rusqlite: a statement runs on the thread that asks for it.
//!
//! Handing each statement to another thread and its rows back costs more than most statements do.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rusqlite::{
    OpenFlags,
    config::DbConfig,
    types::{ToSqlOutput, Value as Stored, ValueRef},
};
use sea_orm::{DbErr, ProxyRow, RuntimeErr, Statement, Value, sqlx};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::sqlite_error::SqliteError;
pub(crate) use super::sqlite_error::damaged;

/// The number of virtual machine instructions between two looks at the clock.
const INSTRUCTIONS: i32 = 1_000;
/// The number of prepared statements that a connection keeps: more than a module has.
const STATEMENTS: usize = 256;
/// The number of pages in the WAL at which it is copied into the file: 16 MiB. Most pages of a busy module change in every transaction, and this copies
/// each of them once for many transactions; SQLite's default of 1,000 pages costs a seventh more CPU per order and a third of the orders per second.
const CHECKPOINT_PAGES: i64 = 4_000;
/// The memory in which the connection that writes keeps pages of the file, at most: the upper pages of a large module's indexes fit. With 100,000 orders stored
/// an order reads 45 pages from the files of all modules instead of 61 with SQLite's default of 2,000.
const WRITE_CACHE_KIB: i64 = 6_000;
/// The time a connection waits for a lock that another process holds.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Read,
    Write,
    /// As `Write`; a file that does not exist is created. Elsewhere a missing file is an error: its data is missing.
    Create,
}

/// A file, and the damage that a statement met in it.
pub(crate) struct File {
    pub path: PathBuf,
    damage: OnceLock<String>,
    /// Which file it was when it was opened: device and number.
    opened: OnceLock<(u64, u64)>,
    /// What is wrong since it is not at its path any more.
    gone: OnceLock<String>,
}

impl File {
    pub fn at(path: &Path) -> Arc<File> {
        Arc::new(File {
            path: path.to_owned(),
            damage: OnceLock::new(),
            opened: OnceLock::new(),
            gone: OnceLock::new(),
        })
    }

    fn remember(&self) {
        if let Some(identity) = identity(&self.path) {
            self.opened.get_or_init(|| identity);
        }
    }

    /// That the file at the path is still the one that was opened. What is written to a file that was removed or replaced is lost when the process ends.
    /// Once it is gone it stays so: the process does not know what it missed.
    ///
    /// # Errors
    /// What happened, and what to do.
    pub fn check_is_there(&self) -> Result<(), &str> {
        let is_there = self.gone.get().is_none()
            && self
                .opened
                .get()
                .is_none_or(|opened| identity(&self.path).as_ref() == Some(opened));
        if is_there {
            return Ok(());
        }
        let is_new = self.gone.get().is_none();
        let gone = self.gone.get_or_init(|| {
            format!(
                "{} was removed or replaced while it was in use, so nothing more is written: stop the process, restore all database files from one \
                 backup (or put this one back), and start it again",
                self.path.display()
            )
        });
        if is_new {
            tracing::error!("{gone}");
        }
        Err(gone)
    }

    /// What the first statement said that met damage. A file does not mend itself.
    pub fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    fn error(&self, failure: rusqlite::Error) -> DbErr {
        let error = SqliteError::new(&self.path, failure);
        if error.is_damage() && self.damage.set(error.to_string()).is_ok() {
            tracing::error!(%error, "a database file is damaged");
        }
        DbErr::Query(RuntimeErr::SqlxError(Arc::new(sqlx::Error::Database(Box::new(error)))))
    }
}

/// One connection to a file.
pub(crate) struct Connection {
    file: Arc<File>,
    raw: Mutex<rusqlite::Connection>,
    limit: Arc<Deadline>,
}

/// The time at which the running statement is interrupted.
struct Deadline {
    epoch: Instant,
    /// Microseconds since `epoch`.
    at: AtomicU64,
}

impl Deadline {
    fn has_passed(&self) -> bool {
        micros(self.epoch.elapsed()) >= self.at.load(Ordering::Relaxed)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Connection {
    pub fn open(file: &Arc<File>, mode: Mode) -> Result<Self, DbErr> {
        if mode == Mode::Create {
            make_private(&file.path);
        }
        let opened = rusqlite::Connection::open_with_flags(&file.path, flags(mode));
        let connection = Self::limited(file, opened.and_then(|raw| configure(raw, mode)))?;
        file.remember();
        Ok(connection)
    }

    /// A database of its own, in memory.
    #[cfg(test)]
    pub fn in_memory() -> Result<Self, DbErr> {
        let file = File::at(Path::new(":memory:"));
        Self::limited(&file, rusqlite::Connection::open_in_memory())
    }

    fn limited(file: &Arc<File>, opened: rusqlite::Result<rusqlite::Connection>) -> Result<Self, DbErr> {
        let error = |failure| file.error(failure);
        let limit = Arc::new(Deadline {
            epoch: Instant::now(),
            at: AtomicU64::new(u64::MAX),
        });
        let (interrupts, raw) = (limit.clone(), opened.map_err(error)?);
        raw.progress_handler(INSTRUCTIONS, Some(move || interrupts.has_passed()))
            .map_err(error)?;
        Ok(Connection {
            file: file.clone(),
            raw: Mutex::new(raw),
            limit,
        })
    }

    /// From `deadline` on the running statement and later ones are interrupted; `None`: never.
    pub fn interrupt_at(&self, deadline: Option<Instant>) {
        let at = deadline.map_or(u64::MAX, |deadline| {
            micros(deadline.saturating_duration_since(self.limit.epoch))
        });
        self.limit.at.store(at, Ordering::Relaxed);
    }

    /// Whether a transaction is open. SQLite ends one by itself when the disk is full or broken, and when a write in it is interrupted.
    pub fn is_in_transaction(&self) -> bool {
        !self.raw.lock().is_autocommit()
    }

    /// The number of rows that were changed since it was opened.
    pub fn total_changes(&self) -> u64 {
        self.raw.lock().total_changes()
    }

    pub fn execute(&self, statement: &Statement) -> Result<u64, DbErr> {
        self.run(|raw| {
            let mut prepared = raw.prepare_cached(&statement.sql)?;
            bind(&mut prepared, statement)?;
            let mut rows = prepared.raw_query();
            while rows.next()?.is_some() {}
            drop(rows);
            Ok(if prepared.readonly() { 0 } else { raw.changes() })
        })
    }

    /// Runs any number of statements without parameters.
    pub fn execute_script(&self, sql: &str) -> Result<u64, DbErr> {
        self.run(|raw| {
            raw.execute_batch(sql)?;
            Ok(raw.changes())
        })
    }

    /// Runs one statement of the connection's own, such as `commit`.
    pub fn control(&self, sql: &str) -> Result<(), DbErr> {
        self.run(|raw| raw.prepare_cached(sql)?.raw_execute().map(drop))
    }

    /// The rows of a statement, at most `limit`.
    pub fn query(&self, statement: &Statement, limit: Option<usize>) -> Result<Vec<ProxyRow>, DbErr> {
        self.run(|raw| {
            let mut prepared = raw.prepare_cached(&statement.sql)?;
            bind(&mut prepared, statement)?;
            let columns: Vec<(String, bool)> = prepared
                .columns()
                .iter()
                .map(|column| (column.name().to_owned(), column.decl_type().is_some_and(is_boolean)))
                .collect();
            let mut rows = prepared.raw_query();
            let mut read = Vec::new();
            // A statement that writes is run to its end, whatever is wanted of its rows.
            while let Some(row) = rows.next()? {
                if limit.is_none_or(|limit| read.len() < limit) {
                    let values = columns
                        .iter()
                        .enumerate()
                        .map(|(index, (name, boolean))| Ok((name.clone(), value_of(row.get_ref(index)?, *boolean))));
                    read.push(ProxyRow::new(values.collect::<rusqlite::Result<_>>()?));
                }
            }
            Ok(read)
        })
    }

    fn run<T>(&self, work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T>) -> Result<T, DbErr> {
        work(&self.raw.lock()).map_err(|failure| self.file.error(failure))
    }
}

/// Creates a missing file for its owner alone, whatever the umask; SQLite gives the `-wal` the same mode. What fails here fails again when
/// SQLite opens it, which says why.
#[cfg(unix)]
fn make_private(path: &Path) {
    use std::os::unix::fs::OpenOptionsExt;
    let _ = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
}

#[cfg(not(unix))]
fn make_private(_path: &Path) {}

/// Device and number of the file at a path. `None`: there is no file, or the system has no such numbers.
#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_path: &Path) -> Option<(u64, u64)> {
    None
}

fn flags(mode: Mode) -> OpenFlags {
    let access = match mode {
        Mode::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Mode::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Mode::Create => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    };
    // Every use is under a lock of ours, so SQLite need not take its own.
    access | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn configure(raw: rusqlite::Connection, mode: Mode) -> rusqlite::Result<rusqlite::Connection> {
    raw.busy_timeout(BUSY_LIMIT)?;
    raw.set_prepared_statement_cache_capacity(STATEMENTS);
    // Without it a statement with a parameter in `limit` is compiled anew at every run.
    raw.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    raw.pragma_update(None, "foreign_keys", true)?;
    raw.pragma_update(None, "temp_store", "memory")?;
    if mode != Mode::Read {
        // The file remembers WAL; readers must not request it again, because switching takes a lock that no timeout waits for.
        raw.pragma_update(None, "journal_mode", "wal")?;
        raw.pragma_update(None, "synchronous", "full")?;
        raw.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        raw.pragma_update(None, "cache_size", -WRITE_CACHE_KIB)?;
    }
    Ok(raw)
}

fn is_boolean(declared: &str) -> bool {
    declared.eq_ignore_ascii_case("boolean")
}

/// Binds the parameters by their numbers: SQLite takes `$2` for a name, and gives it the first free number.
fn bind(prepared: &mut rusqlite::Statement<'_>, statement: &Statement) -> rusqlite::Result<()> {
    let Some(values) = &statement.values else {
        return Ok(());
    };
    let mut unnamed = 0;
    for parameter in 1..=prepared.parameter_count() {
        let number = prepared
            .parameter_name(parameter)
            .and_then(|name| name.trim_start_matches(['$', '?']).parse::<usize>().ok())
            .unwrap_or_else(|| {
                unnamed += 1;
                unnamed
            });
        let value = values
            .0
            .get(number - 1)
            .ok_or(rusqlite::Error::InvalidColumnIndex(number))?;
        prepared.raw_bind_parameter(parameter, stored(value)?)?;
    }
    Ok(())
}

fn stored(value: &Value) -> rusqlite::Result<ToSqlOutput<'_>> {
    let owned = ToSqlOutput::Owned;
    let integer = |value: Option<i64>| owned(value.map_or(Stored::Null, Stored::Integer));
    Ok(match value {
        Value::Bool(value) => integer(value.map(i64::from)),
        Value::TinyInt(value) => integer(value.map(i64::from)),
        Value::SmallInt(value) => integer(value.map(i64::from)),
        Value::Int(value) => integer(value.map(i64::from)),
        Value::BigInt(value) => integer(*value),
        Value::TinyUnsigned(value) => integer(value.map(i64::from)),
        Value::SmallUnsigned(value) => integer(value.map(i64::from)),
        Value::Unsigned(value) => integer(value.map(i64::from)),
        Value::BigUnsigned(value) => integer(
            value
                .map(|value| i64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, i64::MAX)))
                .transpose()?,
        ),
        Value::Double(value) => owned(value.map_or(Stored::Null, Stored::Real)),
        Value::Float(value) => owned(value.map_or(Stored::Null, |value| Stored::Real(value.into()))),
        Value::String(Some(text)) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        Value::Bytes(Some(bytes)) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        Value::Uuid(Some(id)) => ToSqlOutput::Borrowed(ValueRef::Blob(id.as_bytes())),
        Value::String(None) | Value::Bytes(None) | Value::Uuid(None) => owned(Stored::Null),
        other => {
            let unknown = format!("{other:?} has no place in a column of SQLite");
            return Err(rusqlite::Error::ToSqlConversionFailure(unknown.into()));
        }
    })
}

/// The value in a column. Sixteen bytes are a UUID: no table stores other bytes.
fn value_of(value: ValueRef<'_>, boolean: bool) -> Value {
    match value {
        ValueRef::Null => Value::String(None),
        ValueRef::Integer(number) if boolean => Value::Bool(Some(number != 0)),
        ValueRef::Integer(number) => Value::BigInt(Some(number)),
        ValueRef::Real(number) => Value::Double(Some(number)),
        ValueRef::Text(text) => Value::String(Some(String::from_utf8_lossy(text).into_owned())),
        ValueRef::Blob(bytes) => match Uuid::from_slice(bytes) {
            Ok(id) => Value::Uuid(Some(id)),
            Err(_) => Value::Bytes(Some(bytes.to_vec())),
        },
    }
}

/// The connections for reads.
pub(crate) struct Readers {
    shared: Arc<Shared>,
    connections: u32,
    limits: ReadLimits,
}

/// The limits of a read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadLimits {
    /// The number of connections.
    pub connections: u32,
    /// The timeout of a read, and of the wait for a connection.
    pub timeout: Duration,
}

struct Shared {
    file: Arc<File>,
    idle: Mutex<Vec<Connection>>,
    free: Semaphore,
    /// Reads that take long share these, so that they cannot occupy every connection.
    long: Semaphore,
}

/// The time a read may occupy the caller's thread. One that needs more is started again on a thread that may block.
const SHORT: Duration = Duration::from_millis(5);

impl Readers {
    /// Opens the first connection, so that a file that cannot be read shows at once. The file must exist.
    pub fn open(file: &Arc<File>, limits: ReadLimits) -> Result<Self, DbErr> {
        let first = Connection::open(file, Mode::Read)?;
        let connections = limits.connections.max(1);
        Ok(Readers {
            connections,
            shared: Arc::new(Shared {
                file: file.clone(),
                idle: Mutex::new(vec![first]),
                free: Semaphore::new(connections as usize),
                long: Semaphore::new((connections / 2).max(1) as usize),
            }),
            limits,
        })
    }

    /// Waits for the reads under way, and refuses others.
    pub async fn close(&self) {
        let all = self.connections;
        // The wait ends with the time that a read may take.
        let _ = tokio::time::timeout(self.limits.timeout, self.shared.free.acquire_many(all)).await;
        self.shared.free.close();
        self.shared.long.close();
        self.shared.idle.lock().clear();
    }

    pub async fn query(&self, statement: Statement, rows: Option<usize>) -> Result<Vec<ProxyRow>, DbErr> {
        match self.attempt(&statement, rows).await {
            Err(failure) if is_interrupt(&failure) => self.query_long(statement, rows).await,
            done => done,
        }
    }

    async fn attempt(&self, statement: &Statement, rows: Option<usize>) -> Result<Vec<ProxyRow>, DbErr> {
        let _permit = self.permit(&self.shared.free).await?;
        self.shared.query(statement, rows, SHORT)
    }

    async fn query_long(&self, statement: Statement, rows: Option<usize>) -> Result<Vec<ProxyRow>, DbErr> {
        let _long = self.permit(&self.shared.long).await?;
        let _permit = self.permit(&self.shared.free).await?;
        let (shared, limit) = (self.shared.clone(), self.limits.timeout);
        tokio::task::spawn_blocking(move || shared.query(&statement, rows, limit))
            .await
            .map_err(|_| DbErr::Query(RuntimeErr::SqlxError(Arc::new(sqlx::Error::WorkerCrashed))))?
    }

    async fn permit<'a>(&self, semaphore: &'a Semaphore) -> Result<tokio::sync::SemaphorePermit<'a>, DbErr> {
        let failure = match tokio::time::timeout(self.limits.timeout, semaphore.acquire()).await {
            Ok(Ok(permit)) => return Ok(permit),
            Ok(Err(_)) => sqlx::Error::PoolClosed,
            Err(_) => sqlx::Error::PoolTimedOut,
        };
        Err(DbErr::Query(RuntimeErr::SqlxError(Arc::new(failure))))
    }
}

impl Shared {
    fn query(&self, statement: &Statement, rows: Option<usize>, limit: Duration) -> Result<Vec<ProxyRow>, DbErr> {
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => Connection::open(&self.file, Mode::Read)?,
        };
        connection.interrupt_at(Some(Instant::now() + limit));
        let read = connection.query(statement, rows);
        if !self.free.is_closed() {
            self.idle.lock().push(connection);
        }
        read
    }
}

fn is_interrupt(failure: &DbErr) -> bool {
    matches!(failure, DbErr::Query(RuntimeErr::SqlxError(error))
        if error.as_database_error().and_then(|error| error.code()).as_deref() == Some("9"))
}
