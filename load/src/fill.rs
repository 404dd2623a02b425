//! Stores copies of a stopped shop's orders, with all that belongs to them in every module.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use load::copies::{self, Column, Copies, Database, Table};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, raw_sql};

use crate::home::Postgres;

/// The table that has a row for each order.
const ORDERS: &str = "order_view";
/// The copies of a row that one statement makes at most.
const PART: i64 = 50;
/// The time between a copy and the next: the copies are older than the run, and all is young enough to be kept.
const APART: Duration = Duration::from_secs(60);

/// Fills the files of a data directory. Returns the number of orders then.
pub fn sqlite(directory: &Path, orders: u32) -> anyhow::Result<i64> {
    let entries = fs::read_dir(directory)?.map(|entry| anyhow::Ok(entry?.path()));
    let mut files = entries.collect::<anyhow::Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "db"));
    let count = |files: &[std::path::PathBuf]| -> anyhow::Result<i64> {
        let with_orders = files.iter().find(|path| path.ends_with("orders.db"));
        let file = rusqlite::Connection::open(with_orders.context("there is no orders.db")?)?;
        Ok(file.query_row(&format!("select count(*) from {ORDERS}"), [], |row| row.get(0))?)
    };
    let last = last_copy(count(&files)?, orders)?;
    for path in &files {
        let file = rusqlite::Connection::open(path)?;
        file.execute_batch("pragma foreign_keys = off; pragma synchronous = off; pragma cache_size = -500000")?;
        let mut described = file.prepare(&copies::columns(Database::Sqlite, ""))?;
        let columns = described.query_map([], |row| {
            let (name, kind, is_key) = (row.get(1)?, row.get(2)?, row.get(3)?);
            Ok((row.get::<_, String>(0)?, Column { name, kind, is_key }))
        })?;
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        for (table, confirm) in copies::confirmed(now_ms()) {
            if columns.iter().any(|(name, _)| name == table) {
                file.execute_batch(&confirm)?;
            }
        }
        for table in Table::all(columns) {
            file.execute_batch(&table.pattern())?;
            for copies in parts(last) {
                let filled = file.execute_batch(&table.copies(Database::Sqlite, copies));
                filled.with_context(|| format!("{} of {}", table.name, path.display()))?;
            }
        }
    }
    let stored = count(&files)?;
    // Or the disk would be busy with it while the shop is measured.
    for path in &files {
        fs::File::open(path)?.sync_all()?;
    }
    Ok(stored)
}

/// Fills the schemas of a database. Returns the number of orders then.
pub async fn postgres(postgres: &Postgres, database: &str, orders: u32) -> anyhow::Result<i64> {
    let mut connection = postgres.connect_to(database).await?;
    run(
        &mut connection,
        "set session_replication_role = replica; set synchronous_commit = off",
    )
    .await?;
    let query = "select distinct schemaname::text from pg_tables where schemaname !~ '^(pg_|information_schema)'";
    let schemas = sqlx::query(query).fetch_all(&mut connection).await?;
    let mut last = None;
    let count = format!("select count(*) from orders.{ORDERS}");
    for schema in schemas {
        let schema: String = schema.try_get(0)?;
        let last = match last {
            Some(last) => last,
            None => {
                let placed: i64 = sqlx::query_scalar(AssertSqlSafe(count.clone()))
                    .fetch_one(&mut connection)
                    .await?;
                *last.insert(last_copy(placed, orders)?)
            }
        };
        run(&mut connection, &format!("set search_path = {schema}")).await?;
        let described = sqlx::query(AssertSqlSafe(copies::columns(Database::Postgres, &schema)));
        let mut columns = Vec::new();
        for row in described.fetch_all(&mut connection).await? {
            let (name, kind, is_key) = (row.try_get("name")?, row.try_get("kind")?, row.try_get("is_key")?);
            columns.push((row.try_get::<String, _>("table")?, Column { name, kind, is_key }));
        }
        for (table, confirm) in copies::confirmed(now_ms()) {
            if columns.iter().any(|(name, _)| name == table) {
                run(&mut connection, &confirm).await?;
            }
        }
        for table in Table::all(columns) {
            run(&mut connection, &table.pattern()).await?;
            for copies in parts(last) {
                run(&mut connection, &table.copies(Database::Postgres, copies)).await?;
            }
            run(&mut connection, &format!("drop table template_{}", table.name)).await?;
        }
    }
    // As its own upkeep would by and by.
    run(&mut connection, "vacuum analyze").await?;
    run(&mut connection, "checkpoint").await?;
    let stored: i64 = sqlx::query_scalar(AssertSqlSafe(count))
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(stored)
}

async fn run(connection: &mut PgConnection, sql: &str) -> anyhow::Result<()> {
    let done = raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await;
    done.with_context(|| sql.to_owned()).map(drop)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}

/// The number of the last copy of each of the orders that were placed.
fn last_copy(placed: i64, orders: u32) -> anyhow::Result<i64> {
    ensure!(placed > 0, "--stored needs a stage that places orders");
    let missing = (i64::from(orders) - placed).max(0);
    Ok((missing + placed - 1) / placed)
}

fn parts(last: i64) -> impl Iterator<Item = Copies> {
    (0..last).step_by(PART as usize).map(move |before| Copies {
        first: before + 1,
        last: last.min(before + PART),
        apart: APART,
        heavy: None,
    })
}
