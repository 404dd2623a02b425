//! Real databases for tests: a module's own, migrated, deleted afterwards.
//!
//! SQLite in a directory of its own; PostgreSQL in a database of its own on the server that `BANYAN_TEST_POSTGRES` names (the URL of a login
//! that may create databases). `scripts/test.sh` starts such a server.

mod events;
mod statements;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use banyan_core::{Clock, Envelope, PageRequest, RandomIds, SystemClock, Timestamp};
use banyan_durable::{Connection, Db, Machinery, Schema, Settings, Storage, migrate};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, QueryResult, Statement};
use serde::de::DeserializeOwned;
use uuid::Uuid;

pub use events::{RecordingBus, envelope};
pub use statements::StatementLog;

/// Runs `test` on an SQLite file, then on a PostgreSQL schema. `test` may open further databases itself.
///
/// # Panics
/// If a database cannot be created; the message says how to start a server.
pub async fn on_both<F, Fut>(schema: impl Into<Schema>, test: F)
where
    F: Fn(Db) -> Fut,
    Fut: Future<Output = ()>,
{
    on_both_with(
        schema,
        Settings {
            pool: 4,
            ..self::settings()
        },
        test,
    )
    .await;
}

/// As [`on_both`], with settings of the test's own: short leases, small batches.
pub async fn on_both_with<F, Fut>(schema: impl Into<Schema>, settings: Settings, test: F)
where
    F: Fn(Db) -> Fut,
    Fut: Future<Output = ()>,
{
    let schema = schema.into();
    let sqlite = SqliteHome::new();
    let db = open(schema, &sqlite.storage(schema.module), settings.clone()).await;
    test(db.clone()).await;
    db.close().await;
    drop(sqlite);

    let postgres = PostgresHome::new().await;
    let db = open(schema, &postgres.storage(schema.module).await, settings).await;
    test(db.clone()).await;
    db.close().await;
    postgres.remove().await;
}

/// A migrated, open database in `storage`.
///
/// # Panics
/// If it cannot be opened.
pub async fn open(schema: impl Into<Schema>, storage: &Storage, settings: Settings) -> Db {
    open_with(schema, storage, settings, Arc::new(SystemClock)).await
}

/// As [`open`], in an instance with a clock of its own.
///
/// # Panics
/// If it cannot be opened.
pub async fn open_with(schema: impl Into<Schema>, storage: &Storage, settings: Settings, clock: Arc<dyn Clock>) -> Db {
    let schema = schema.into();
    let connection = Connection::open(storage, schema.module)
        .await
        .expect("a connection to migrate by");
    migrate::up(&connection, &schema).await.expect("the migrations run");
    connection.close().await;
    Db::open(schema.module, storage, settings, clock, Arc::new(RandomIds))
        .await
        .expect("the database opens")
}

/// The machinery's default settings.
pub fn settings() -> Settings {
    default_settings(include_str!("../../../host/config/default.toml"), "durable")
}

/// One section of a file of default settings, as a section's type: the defaults stand in that file alone.
///
/// # Panics
/// If there is no such section, or it does not fit the type.
pub fn default_settings<T: DeserializeOwned>(file: &str, section: &str) -> T {
    let mut all: toml::Table = file.parse().expect("a file of settings");
    let own = all
        .remove(section)
        .unwrap_or_else(|| panic!("there is no section [{section}]"));
    own.try_into().expect("the section fits its type")
}

/// A directory for SQLite files, removed when dropped.
pub struct SqliteHome(PathBuf);

impl SqliteHome {
    #[allow(
        clippy::new_without_default,
        reason = "it creates a directory, which is unexpected of a default"
    )]
    pub fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("banyan-test-{}", Uuid::new_v4().simple()));
        let mut private = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut private, 0o700);
        private.create(&directory).expect("a temporary directory");
        SqliteHome(directory)
    }

    pub fn path(&self) -> &std::path::Path {
        &self.0
    }

    pub fn storage(&self, module: &str) -> Storage {
        Storage::Sqlite {
            path: self.0.join(format!("{module}.db")),
        }
    }
}

impl Drop for SqliteHome {
    fn drop(&mut self) {
        // What cannot be removed stays for the operating system to clear; no test depends on it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A PostgreSQL database of the test's own. Call [`remove`](PostgresHome::remove) at the end.
pub struct PostgresHome {
    server: String,
    name: String,
}

impl PostgresHome {
    /// # Panics
    /// Without a server; the message says how to start one.
    pub async fn new() -> Self {
        let server = std::env::var("BANYAN_TEST_POSTGRES").expect(
            "BANYAN_TEST_POSTGRES is not set: run scripts/test.sh, which starts a private PostgreSQL, or set it to the URL of a superuser",
        );
        PostgresHome::at(&server).await
    }

    /// On a server of the test's own.
    pub async fn at(server: &str) -> Self {
        let (server, name) = (server.to_owned(), format!("banyan_test_{}", Uuid::new_v4().simple()));
        let admin = connect(&server).await;
        admin
            .execute_unprepared(&format!("create database {name}"))
            .await
            .expect("a database of the test's own");
        admin.close().await.expect("the connection closes");
        PostgresHome { server, name }
    }

    /// The name of this database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL of this database, with the server's login.
    pub fn url(&self) -> String {
        let (base, _) = self
            .server
            .rsplit_once('/')
            .expect("the server's URL ends with a database");
        format!("{base}/{}", self.name)
    }

    /// A schema in it, created if necessary.
    pub async fn storage(&self, module: &str) -> Storage {
        let connection = connect(&self.url()).await;
        connection
            .execute_unprepared(&format!("create schema if not exists {module}"))
            .await
            .expect("a schema");
        connection.close().await.expect("the connection closes");
        Storage::Postgres {
            url: self.url(),
            schema: module.to_owned(),
        }
    }

    pub async fn remove(self) {
        let admin = connect(&self.server).await;
        admin
            .execute_unprepared(&format!("drop database {} with (force)", self.name))
            .await
            .expect("the database is dropped");
        // Logins belong to the server; those of an installation are named after its database.
        let logins = format!(
            "do $$ declare login text; begin
                for login in select rolname from pg_roles where starts_with(rolname, '{}_') loop
                    execute format('drop role %I', login);
                end loop;
            end $$",
            self.name
        );
        admin.execute_unprepared(&logins).await.expect("its logins are dropped");
        admin.close().await.expect("the connection closes");
    }
}

async fn connect(url: &str) -> DatabaseConnection {
    Database::connect(url)
        .await
        .expect("PostgreSQL responds at BANYAN_TEST_POSTGRES; scripts/test.sh starts one")
}

/// Every event the module has published so far, oldest first.
///
/// # Panics
/// If its outbox cannot be read.
pub async fn published(db: &Db) -> Vec<Envelope> {
    let statement = Statement::from_string(db.backend(), "select body from outbox order by created_at, id");
    let rows = db
        .read()
        .query_all_raw(statement)
        .await
        .expect("the outbox can be read");
    let body = |row: &QueryResult| row.try_get::<String>("", "body").expect("a row has a body");
    rows.iter()
        .map(|row| Envelope::from_bytes(body(row).as_bytes()).expect("the outbox holds envelopes"))
        .collect()
}

/// The audit log of a module as its operators see it, oldest first: action, target, reason and comment.
///
/// # Panics
/// If it cannot be read.
pub async fn audited(machinery: &Machinery) -> Vec<(String, String, String, Option<String>)> {
    let log = machinery.ops().list_audit(&PageRequest::default()).await;
    let entries = log.expect("the audit log can be read").items.into_iter().rev();
    entries
        .map(|entry| (entry.action, entry.target, entry.reason, entry.comment))
        .collect()
}

/// A clock the test moves.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    pub fn at(now: Timestamp) -> Arc<Self> {
        Arc::new(ManualClock(AtomicI64::new(now.as_ms())))
    }

    /// Steps to a time, also back.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_ms(), Ordering::SeqCst);
    }

    pub fn advance(&self, by: Duration) {
        self.0
            .fetch_add(i64::try_from(by.as_millis()).expect("a test's span"), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.0.load(Ordering::SeqCst))
    }
}

/// The clock of another machine, 40 s ahead of this one.
#[derive(Debug)]
pub struct AheadClock;

impl Clock for AheadClock {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus(Duration::from_secs(40))
    }
}

/// Waits until `holds` returns true; polls every 10 ms.
///
/// # Panics
/// After `limit`, naming `what`.
pub async fn eventually<F, Fut>(what: &str, limit: Duration, holds: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = bool>,
{
    let end = tokio::time::Instant::now() + limit;
    while !holds().await {
        assert!(tokio::time::Instant::now() < end, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
