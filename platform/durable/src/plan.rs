//! For unit tests alone: how SQLite would run a query on the tables that every module has. The database is in memory, so that nothing but a mistake in
//! the query can fail.
#![cfg(test)]

use sea_orm::{DbBackend, QueryResult, Statement, Value};

use crate::{connection::sqlite::Connection, migrate::MACHINERY};

/// The steps of the query's plan.
pub(crate) async fn steps(query: &str, values: impl IntoIterator<Item = Value>) -> Vec<String> {
    let db = Connection::in_memory().expect("a database in memory");
    for migration in MACHINERY {
        db.execute_script(migration.up).expect("the migrations run");
    }
    let plan = Statement::from_sql_and_values(DbBackend::Sqlite, format!("explain query plan {query}"), values);
    let rows = db.query(&plan, None).expect("the query is valid");
    rows.into_iter()
        .map(|row| {
            QueryResult::from(row)
                .try_get("", "detail")
                .expect("a plan has this column")
        })
        .collect()
}
