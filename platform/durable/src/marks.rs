//! Marks by which a process sees at its start that one of its databases is older than the others: restored from an earlier backup, alone.
//!
//! A database's own mark is a time that only grows. The others remember it, but only once it is committed; so, whenever a process is killed, none remembers
//! a mark that its owner does not have. One that does proves that the owner went back.

use std::collections::BTreeMap;

use banyan_core::Fault;
use sea_orm::{ConnectionTrait, FromQueryResult, Statement, Value};

use crate::{Connection, Db, fault::fault, migrate, query};

/// Milliseconds since the Unix epoch by the name of a database.
pub type Marks = BTreeMap<String, i64>;

pub(crate) const TABLE: &str = "mark";
pub(crate) const MADE_BY: &str = include_str!("../migrations/m0009_mark.sql");

#[derive(FromQueryResult)]
struct Mark {
    name: String,
    at_ms: i64,
}

/// The marks that a database has: its own, and those it remembers.
pub(crate) async fn read(connection: &Connection) -> Result<Marks, Fault> {
    let rows: Vec<Mark> = query::all(connection, "select name, at_ms from mark", []).await?;
    Ok(rows.into_iter().map(|row| (row.name, row.at_ms)).collect())
}

pub(crate) async fn prepare(connection: &Connection) -> Result<(), Fault> {
    let table = migrate::text(connection.get_database_backend(), MADE_BY);
    connection.execute_unprepared(&table).await.map(drop).map_err(fault)
}

/// Advances the own mark of a database, and remembers those of others: `committed` are marks that their owners have. Returns the own mark once it is
/// committed.
///
/// # Errors
/// As [`Db::write`].
pub async fn advance(db: &Db, committed: &Marks) -> Result<i64, Fault> {
    let context = std::sync::Arc::new((db.module().to_owned(), committed.clone()));
    let write = db.write(context, |tx, context| async move {
        let (own, committed) = &*context;
        let others: Vec<(&String, &i64)> = committed.iter().filter(|(name, _)| *name != own).collect();
        let rows: Vec<String> = (0..others.len())
            .map(|row| format!(", (${}, ${})", 2 * row + 3, 2 * row + 4))
            .collect();
        let sql = format!(
            "insert into mark (name, at_ms) values ($1, $2){}
             on conflict (name) do update set at_ms = case when excluded.at_ms > mark.at_ms then excluded.at_ms
                 when mark.name = $1 then mark.at_ms + 1 else mark.at_ms end
             returning name, at_ms",
            rows.concat()
        );
        let now = [Value::from(own.as_str()), tx.clock().now().as_ms().into()];
        let others = others
            .into_iter()
            .flat_map(|(name, at_ms)| [Value::from(name.as_str()), (*at_ms).into()]);
        let rows: Vec<Mark> = query::all(tx.conn(), &sql, now.into_iter().chain(others)).await?;
        let advanced = rows.into_iter().find(|row| row.name == *own);
        advanced.map_or_else(
            || {
                Err(Fault::internal(
                    "mark_not_written",
                    "a mark was neither inserted nor updated",
                ))
            },
            |row| Ok(row.at_ms),
        )
    });
    write.await
}

/// Gives a database a mark, its own or one that it remembers. None: it has none any more.
///
/// # Errors
/// `unavailable`.
pub async fn set(connection: &Connection, name: &str, at_ms: Option<i64>) -> Result<(), Fault> {
    prepare(connection).await?;
    let (sql, values) = match at_ms {
        Some(at_ms) => (
            "insert into mark (name, at_ms) values ($1, $2) on conflict (name) do update set at_ms = excluded.at_ms",
            vec![name.into(), at_ms.into()],
        ),
        None => ("delete from mark where name = $1", vec![Value::from(name)]),
    };
    let statement = Statement::from_sql_and_values(connection.get_database_backend(), sql, values);
    connection.execute_raw(statement).await.map(drop).map_err(fault)
}
