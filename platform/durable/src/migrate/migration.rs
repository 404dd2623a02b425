//! A migration as one SQL text that both databases read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};

use crate::Connection;

/// A migration: its name, which is recorded for ever, and the statements that make it.
///
/// The text keeps to what PostgreSQL and SQLite have in common. The one type they do not share is `uuid`: SQLite keeps the sixteen bytes
/// in a `blob`.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    pub name: &'static str,
    pub up: &'static str,
}

/// The text as this database reads it.
pub(crate) fn text(backend: DbBackend, up: &str) -> String {
    match backend {
        DbBackend::Sqlite => up.replace(" uuid", " blob"),
        _ => up.to_owned(),
    }
}

impl Migration {
    /// Makes and records it in one transaction: half a migration is worse than none.
    pub(super) async fn apply(&self, connection: &Connection) -> anyhow::Result<()> {
        let backend = connection.get_database_backend();
        let sql = text(backend, self.up);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let record = Statement::from_sql_and_values(
            backend,
            "insert into seaql_migrations (version, applied_at) values ($1, $2)",
            [self.name.into(), i64::try_from(now.as_secs())?.into()],
        );
        connection.execute_unprepared("begin").await?;
        let made = async {
            connection.execute_unprepared(&sql).await?;
            connection.execute_raw(record).await?;
            connection.execute_unprepared("commit").await
        };
        let made: Result<_, DbErr> = made.await;
        if made.is_err() {
            connection.execute_unprepared("rollback").await?;
        }
        made?;
        Ok(())
    }
}
