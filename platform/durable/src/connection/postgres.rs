//! PostgreSQL: a pool without pings, and connections whose every step has a limit on our side.
//!
//! A server that died, refuses to write or falls silent is found by the statement that meets it. That connection is thrown away before anybody uses it
//! again, and the next one is opened to whatever server answers now.

use std::time::Duration;

use deadpool::{
    Runtime,
    managed::{self, Metrics, Object, PoolError, RecycleError, RecycleResult, Timeouts},
};
use sea_orm::{DbBackend, DbErr, RuntimeErr, Statement};
use sea_query_sqlx::SqlxValues;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection,
    postgres::{PgQueryResult, PgRow},
    query::Query,
};
use tokio::{sync::Mutex, time::timeout};

use super::servers::Servers;
use crate::{Settings, fault};

/// The timeout for opening a connection, and for waiting for a free one.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The timeout of `begin` and `rollback`, and of the ping of a connection that was idle for long.
const CONTROL_LIMIT: Duration = Duration::from_secs(2);
/// The timeout of a commit and of a read. The outcome of a commit that times out is unknown.
const STATEMENT_LIMIT: Duration = Duration::from_secs(5);
/// A connection that was idle for longer is pinged before it is used: something on the way may have dropped it.
const PING_AFTER: Duration = Duration::from_secs(30);
/// The age at which a connection is replaced, so that load returns to a server that was added.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);
/// The number of prepared statements that a connection keeps: more than a module has.
const STATEMENTS: usize = 256;

/// How to connect. `limits`: the server also ends what takes too long; migrations have none, because they may take long.
pub(crate) fn options(url: &str, schema: &str, module: &str, limits: Option<&Settings>) -> Result<Servers, DbErr> {
    let application = format!("banyan-{module}");
    let servers = Servers::parse(url).map_err(failed)?;
    let servers = servers
        .map(|options| {
            options
                .application_name(&application)
                .statement_cache_capacity(STATEMENTS)
        })
        .schema(schema);
    let Some(settings) = limits else { return Ok(servers) };
    // A process that was suspended inside a transaction must not keep its locks for ever. The lock timeout is shorter than the job's, so that the job
    // can say why it failed.
    let job_ms = settings.limits.job_timeout.as_millis();
    let limits = [
        ("lock_timeout", job_ms * 4 / 5),
        ("statement_timeout", job_ms * 10),
        ("idle_in_transaction_session_timeout", job_ms * 10),
    ];
    Ok(limits
        .into_iter()
        .fold(servers, |servers, (name, ms)| servers.set(name, &ms.to_string())))
}

/// Refuses a pooler in front of PostgreSQL that does not keep sessions.
pub(crate) async fn refuse_transaction_pooling(url: &str) -> Result<(), DbErr> {
    let check = async { Servers::parse(url)?.refuse_transaction_pooling().await };
    let checked = timeout(CONNECT_LIMIT * 2, check).await;
    checked
        .unwrap_or_else(|_| Err(silent(CONNECT_LIMIT * 2)))
        .map_err(failed)
}

/// A session with the server.
pub(crate) struct Session {
    raw: PgConnection,
    /// A transaction is open.
    in_transaction: bool,
    /// A step did not end, or the server is of no more use after it.
    broken: bool,
}

impl Session {
    async fn open(servers: &Servers) -> Result<Self, sqlx::Error> {
        Ok(Session {
            raw: servers.connect().await?,
            in_transaction: false,
            broken: false,
        })
    }

    /// Runs one step within `limit`. After one that did not end, or after which the server is of no more use, the session is not used again.
    async fn step<T>(
        &mut self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let broken = std::mem::replace(&mut self.broken, true);
        let done = match timeout(limit, work(&mut self.raw)).await {
            Ok(done) => done,
            Err(_) => return Err(silent(limit)),
        };
        self.broken = broken || done.as_ref().is_err_and(fault::ends_session);
        done
    }

    fn is_usable(&self) -> bool {
        !self.broken && !self.in_transaction
    }
}

fn silent(limit: Duration) -> sqlx::Error {
    let text = format!("PostgreSQL did not respond within {} ms", limit.as_millis());
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
}

fn failed(error: sqlx::Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(error.into()))
}

pub(crate) struct Manager(Servers);

impl managed::Manager for Manager {
    type Type = Session;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<Session, sqlx::Error> {
        Session::open(&self.0).await
    }

    async fn recycle(&self, session: &mut Session, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if !session.is_usable() || metrics.age() > MAX_AGE {
            return Err(RecycleError::message("not usable any longer"));
        }
        if metrics.last_used() > PING_AFTER {
            session.step(CONTROL_LIMIT, async |raw| raw.ping().await).await?;
        }
        Ok(())
    }
}

/// The sessions of one module.
#[derive(Clone)]
pub(crate) struct Pool(managed::Pool<Manager>);

impl Pool {
    /// Opens one session, so that a wrong URL shows at once.
    pub async fn open(servers: Servers, connections: u32) -> Result<Self, DbErr> {
        let built = managed::Pool::builder(Manager(servers))
            .max_size(connections.max(1) as usize)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts {
                wait: Some(CONNECT_LIMIT),
                create: Some(CONNECT_LIMIT),
                recycle: Some(CONTROL_LIMIT),
            })
            .build();
        let pool = Pool(built.map_err(|error| DbErr::Custom(error.to_string()))?);
        pool.session().await.map_err(failed)?;
        Ok(pool)
    }

    pub fn close(&self) {
        self.0.close();
    }

    async fn session(&self) -> Result<Pooled, sqlx::Error> {
        match self.0.get().await {
            Ok(session) => Ok(Pooled(Some(session))),
            Err(PoolError::Backend(error)) => Err(error),
            Err(PoolError::Closed) => Err(sqlx::Error::PoolClosed),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }

    /// Runs a first step on a session. As nothing happened before it, it is run again on another session if the server had dropped this one, and the
    /// whole pool may have been dropped with it.
    async fn first(&self, limit: Duration, step: First<'_>) -> Result<(Pooled, Vec<PgRow>), DbErr> {
        let mut used_before = self.0.status().max_size;
        loop {
            let mut pooled = self.session().await.map_err(failed)?;
            let session = pooled.session().map_err(failed)?;
            match session.step(limit, async |raw| step.run(raw).await).await {
                Ok(rows) => return Ok((pooled, rows)),
                Err(error) if fault::was_dropped(&error) && pooled.was_used() && used_before > 0 => used_before -= 1,
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Begins a transaction.
    pub async fn begin(&self) -> Result<Connection, DbErr> {
        let (mut pooled, _) = self.first(CONTROL_LIMIT, First::Begin).await?;
        pooled.session().map_err(failed)?.in_transaction = true;
        Ok(Connection::on(Held::Pooled(pooled)))
    }

    pub async fn read_one(&self, statement: &Statement) -> Result<Option<PgRow>, DbErr> {
        let (_, rows) = self.first(STATEMENT_LIMIT, First::One(statement)).await?;
        Ok(rows.into_iter().next())
    }

    pub async fn read_all(&self, statement: &Statement) -> Result<Vec<PgRow>, DbErr> {
        Ok(self.first(STATEMENT_LIMIT, First::All(statement)).await?.1)
    }

    /// Fails if the server responds and would refuse to write.
    pub async fn check_writable(&self) -> Result<(), DbErr> {
        let sql = "select 1 where current_setting('transaction_read_only') = 'on'";
        let setting = Statement::from_string(DbBackend::Postgres, sql);
        let (mut pooled, read_only) = self.first(CONTROL_LIMIT, First::One(&setting)).await?;
        if read_only.is_empty() {
            return Ok(());
        }
        // Another server may have taken over: the next connection is a new one.
        pooled.session().map_err(failed)?.broken = true;
        Err(DbErr::Conn(RuntimeErr::Internal(
            "PostgreSQL is read-only; is it a standby, or default_transaction_read_only on?".to_owned(),
        )))
    }
}

/// The first step on a session.
#[derive(Clone, Copy)]
enum First<'a> {
    Begin,
    One(&'a Statement),
    All(&'a Statement),
}

impl First<'_> {
    async fn run(self, raw: &mut PgConnection) -> Result<Vec<PgRow>, sqlx::Error> {
        match self {
            First::Begin => sqlx::raw_sql("begin").execute(raw).await.map(|_| Vec::new()),
            First::One(statement) => Ok(query(statement).fetch_optional(raw).await?.into_iter().collect()),
            First::All(statement) => query(statement).fetch_all(raw).await,
        }
    }
}

fn query(statement: &Statement) -> Query<'_, sqlx::Postgres, SqlxValues> {
    let values = statement.values.clone().unwrap_or(sea_orm::Values(Vec::new()));
    sqlx::query_with(AssertSqlSafe(statement.sql.as_str()), SqlxValues(values))
}

/// A session on loan from the pool. One that is not usable does not go back: closing it ends its transaction and releases its locks.
struct Pooled(Option<Object<Manager>>);

impl Pooled {
    fn session(&mut self) -> Result<&mut Session, sqlx::Error> {
        self.0.as_deref_mut().ok_or(sqlx::Error::WorkerCrashed)
    }

    /// Whether it served before, so that the server may have dropped it meanwhile.
    fn was_used(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|session| Object::metrics(session).recycle_count > 0)
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(session) = self.0.take_if(|session| !session.is_usable()) {
            drop(Object::take(session));
        }
    }
}

enum Held {
    Pooled(Pooled),
    Own(Session),
}

impl Held {
    fn session(&mut self) -> Result<&mut Session, sqlx::Error> {
        match self {
            Held::Pooled(pooled) => pooled.session(),
            Held::Own(session) => Ok(session),
        }
    }
}

/// A session in exclusive use, and whether its transaction can still be committed.
pub(crate) struct Connection {
    held: Mutex<Held>,
    limit: Duration,
}

impl Connection {
    fn on(held: Held) -> Self {
        Connection {
            limit: if matches!(held, Held::Pooled(_)) {
                STATEMENT_LIMIT
            } else {
                Duration::MAX
            },
            held: Mutex::new(held),
        }
    }

    /// A connection outside of any pool. Its statements have no limit.
    pub async fn open(servers: Servers) -> Result<Self, DbErr> {
        let opening = timeout(CONNECT_LIMIT, Session::open(&servers)).await;
        let session = opening.unwrap_or_else(|_| Err(silent(CONNECT_LIMIT))).map_err(failed)?;
        Ok(Connection::on(Held::Own(session)))
    }

    pub async fn execute(&self, statement: &Statement) -> Result<PgQueryResult, DbErr> {
        self.run(async |raw| query(statement).execute(raw).await).await
    }

    /// Runs any number of statements without parameters.
    pub async fn execute_script(&self, sql: &str) -> Result<PgQueryResult, DbErr> {
        self.run(async |raw| sqlx::raw_sql(AssertSqlSafe(sql)).execute(raw).await)
            .await
    }

    pub async fn query_one(&self, statement: &Statement) -> Result<Option<PgRow>, DbErr> {
        self.run(async |raw| query(statement).fetch_optional(raw).await).await
    }

    pub async fn query_all(&self, statement: &Statement) -> Result<Vec<PgRow>, DbErr> {
        self.run(async |raw| query(statement).fetch_all(raw).await).await
    }

    async fn run<T>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>) -> Result<T, DbErr> {
        let mut held = self.held.lock().await;
        let session = held.session().map_err(failed)?;
        session.step(self.limit, work).await.map_err(failed)
    }

    /// Commits. After an error the outcome is unknown, unless the server says that it did not.
    pub async fn commit(self) -> Result<(), DbErr> {
        self.end("commit", STATEMENT_LIMIT).await
    }

    /// Rolls back. A connection that cannot even do that is closed, which does the same.
    pub async fn roll_back(mut self) {
        if self.held.get_mut().session().is_ok_and(|session| session.broken) {
            return;
        }
        if let Err(error) = self.end("rollback", CONTROL_LIMIT).await {
            tracing::debug!(%error, "a transaction was ended by closing its connection");
        }
    }

    async fn end(self, how: &'static str, limit: Duration) -> Result<(), DbErr> {
        let mut held = self.held.into_inner();
        let session = held.session().map_err(failed)?;
        session
            .step(limit, async |raw| sqlx::raw_sql(how).execute(raw).await)
            .await
            .map_err(failed)?;
        session.in_transaction = false;
        Ok(())
    }

    pub async fn close(self) {
        if let Held::Own(session) = self.held.into_inner() {
            // What the server does not hear, it notices when the socket closes.
            let _ = timeout(CONTROL_LIMIT, session.raw.close()).await;
        }
    }
}
