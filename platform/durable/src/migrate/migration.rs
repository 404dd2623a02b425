//! A migration as one SQL text that both databases read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};

use crate::Connection;

/// A migration: its name, which is recorded for ever, and the statements that make it.
///
/// The text keeps to what PostgreSQL and SQLite have in common. The one type they do not share is `uuid`: SQLite keeps the sixteen bytes
/// in a `blob`. What one database alone gets stands between the lines `-- postgres` or `-- sqlite` and `-- end`: what only several processes need, or what each
/// has a way of its own for.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    pub name: &'static str,
    pub up: &'static str,
}

/// The text as this database reads it.
pub(crate) fn text(backend: DbBackend, up: &str) -> String {
    match backend {
        DbBackend::Sqlite => without("-- postgres", up).replace(" uuid", " blob"),
        _ => without("-- sqlite", up),
    }
}

/// The text without the parts that begin with this line, of the other database.
fn without(beginning: &str, up: &str) -> String {
    let mut of_other = false;
    let kept = up.lines().filter(|line| {
        let skipped = of_other || *line == beginning;
        of_other = skipped && *line != "-- end";
        !skipped
    });
    kept.fold(String::new(), |text, line| text + line + "\n")
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
    fn a_part_for_one_database_is_left_out_on_the_other() {
        let up = "create table a (id uuid);\n-- postgres\ncreate function b() returns trigger;\n-- end\n-- sqlite\ncreate trigger c;\n-- end\ncreate table d (e text);\n";
        assert_eq!(
            text(DbBackend::Postgres, up),
            "create table a (id uuid);\n-- postgres\ncreate function b() returns trigger;\n-- end\ncreate table d (e text);\n"
        );
        assert_eq!(
            text(DbBackend::Sqlite, up),
            "create table a (id blob);\n-- sqlite\ncreate trigger c;\n-- end\ncreate table d (e text);\n"
        );
    }
}
