//! SQLite in a plain loop: one connection, as durable as the shop's.

use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::OrderCounts;

const ROWS: i64 = 10_000;
/// About the size of a row of the shop.
const BODY_BYTES: usize = 300;

/// Orders in a second if an order were only its statements, half of them reads, in its transactions.
pub async fn orders_per_second(counts: OrderCounts, duration: Duration) -> anyhow::Result<f64> {
    tokio::task::spawn_blocking(move || measure(counts, duration)).await?
}

fn measure(counts: OrderCounts, duration: Duration) -> anyhow::Result<f64> {
    let directory = tempfile::tempdir()?;
    let mut database = Connection::open(directory.path().join("yardstick.db"))?;
    // As `platform/durable/src/connection/sqlite.rs` opens the writer's.
    database.pragma_update(None, "journal_mode", "wal")?;
    database.pragma_update(None, "synchronous", "full")?;
    database
        .execute_batch("create table kept (id integer primary key, body text not null, version integer not null)")?;
    let body = "b".repeat(BODY_BYTES);
    let filling = database.transaction()?;
    for id in 0..ROWS {
        filling.execute("insert into kept values (?1, ?2, 1)", params![id, body])?;
    }
    filling.commit()?;
    let (begun, mut orders, mut at) = (Instant::now(), 0.0, 0_i64);
    while begun.elapsed() < duration {
        for statements in counts.split() {
            let transaction = database.transaction()?;
            for _ in 0..statements {
                // Steps through the rows so that neighbours in time are not on the same page.
                at += 1;
                let id = at * 7_919 % ROWS;
                if at % 2 == 0 {
                    let mut write =
                        transaction.prepare_cached("update kept set version = version + 1, body = ?2 where id = ?1")?;
                    write.execute(params![id, body])?;
                } else {
                    let mut read = transaction.prepare_cached("select body, version from kept where id = ?1")?;
                    read.query_row(params![id], |row| row.get::<_, String>(0))?;
                }
            }
            transaction.commit()?;
        }
        orders += 1.0;
    }
    Ok(orders / begun.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_transactions_make_the_loop_slower() {
        let rate = |transactions| {
            let counts = OrderCounts {
                statements: 100,
                transactions,
            };
            measure(counts, Duration::from_millis(200)).expect("a rate")
        };
        assert!(rate(1) > rate(100));
    }
}
