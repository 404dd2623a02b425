//! For unit tests alone: how SQLite would run a query on the tables that every module has. The database is in memory, so that nothing but a mistake in
//! the query can fail.
#![cfg(test)]

use sea_orm::{ConnectionTrait, Database, DbBackend, Statement, Value};

use crate::migrate::MACHINERY;

/// The steps of the query's plan.
pub(crate) async fn steps(query: &str, values: impl IntoIterator<Item = Value>) -> Vec<String> {
    let db = Database::connect("sqlite::memory:")
        .await
        .expect("a database in memory");
    for migration in MACHINERY {
        db.execute_unprepared(migration.up).await.expect("the migrations run");
    }
    let plan = Statement::from_sql_and_values(DbBackend::Sqlite, format!("explain query plan {query}"), values);
    db.query_all_raw(plan)
        .await
        .expect("the query is valid")
        .iter()
        .map(|row| row.try_get("", "detail").expect("a plan has this column"))
        .collect()
}
