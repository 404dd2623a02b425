//! Statements with `$1`-style parameters, which both databases read, and their rows as values.

use banyan_core::{Fault, Timestamp};
use sea_orm::{ConnectionTrait, DeriveValueType, FromQueryResult, Statement, TryGetable, Value};

use crate::fault::fault;

/// A time in a column: milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, DeriveValueType)]
pub(crate) struct StoredTime(i64);

impl From<Timestamp> for StoredTime {
    fn from(time: Timestamp) -> Self {
        StoredTime(time.as_ms())
    }
}

impl From<StoredTime> for Timestamp {
    fn from(StoredTime(ms): StoredTime) -> Self {
        Timestamp::from_ms(ms)
    }
}

/// The first row.
pub(crate) async fn one<R: FromQueryResult>(
    conn: &impl ConnectionTrait,
    sql: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<Option<R>, Fault> {
    R::find_by_statement(statement(conn, sql, values))
        .one(conn)
        .await
        .map_err(fault)
}

pub(crate) async fn all<R: FromQueryResult>(
    conn: &impl ConnectionTrait,
    sql: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<Vec<R>, Fault> {
    R::find_by_statement(statement(conn, sql, values))
        .all(conn)
        .await
        .map_err(fault)
}

/// The first column of the first row.
pub(crate) async fn scalar<T: TryGetable>(
    conn: &impl ConnectionTrait,
    sql: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<Option<T>, Fault> {
    let row = conn.query_one_raw(statement(conn, sql, values)).await.map_err(fault)?;
    row.map(|row| row.try_get_by_index(0)).transpose().map_err(fault)
}

/// The first column of every row.
pub(crate) async fn scalars<T: TryGetable>(
    conn: &impl ConnectionTrait,
    sql: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<Vec<T>, Fault> {
    let rows = conn.query_all_raw(statement(conn, sql, values)).await.map_err(fault)?;
    rows.iter().map(|row| row.try_get_by_index(0).map_err(fault)).collect()
}

fn statement(conn: &impl ConnectionTrait, sql: &str, values: impl IntoIterator<Item = Value>) -> Statement {
    Statement::from_sql_and_values(conn.get_database_backend(), sql, values)
}

/// `$first, $first+1, ...`: the placeholders of `count` parameters in an `in (...)`.
pub(crate) fn placeholders(first: usize, count: usize) -> String {
    let names: Vec<String> = (first..first + count).map(|number| format!("${number}")).collect();
    names.join(", ")
}

/// A limit as a parameter.
pub(crate) fn limit(rows: impl TryInto<i64>) -> Value {
    rows.try_into().unwrap_or(i64::MAX).into()
}
