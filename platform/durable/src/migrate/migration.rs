//! A migration as one SQL text that both databases read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};

use crate::Connection;

/// A migration: its name, which is recorded for ever, and the statements that make it.
///
/// The text keeps to what PostgreSQL and SQLite have in common. The one type they do not share is `uuid`: SQLite keeps the sixteen bytes
/// in a `blob`. What only several processes need stands between the lines `-- postgres` and `-- end`, and SQLite does not get it.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    pub name: &'static str,
    pub up: &'static str,
}

/// The text as this database reads it.
pub(crate) fn text(backend: DbBackend, up: &str) -> String {
    match backend {
        DbBackend::Sqlite => without_postgres(up).replace(" uuid", " blob"),
        _ => up.to_owned(),
    }
}

fn without_postgres(up: &str) -> String {
    let mut of_postgres = false;
    let both = up.lines().filter(|line| {
        let begins = *line == "-- postgres";
        let skipped = of_postgres || begins;
        of_postgres = skipped && *line != "-- end";
        !skipped
    });
    both.fold(String::new(), |text, line| text + line + "\n")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_for_postgresql_is_left_out_on_sqlite() {
        let up = "create table a (id uuid);\n-- postgres\ncreate function b() returns trigger;\n-- end\ncreate table c (d text);\n";
        assert_eq!(text(DbBackend::Postgres, up), up);
        assert_eq!(
            text(DbBackend::Sqlite, up),
            "create table a (id blob);\ncreate table c (d text);\n"
        );
    }
}
