//! How far this module has come with the events of others: a time of the producer's before which every event was handled, or is in the `retry` table.
//! So what happened before it need not be compared again, whatever the bus loses.

use std::collections::HashMap;

use banyan_core::Fault;
use sea_orm::{FromQueryResult, Value};

use crate::{Db, Tx, query};

#[derive(FromQueryResult)]
struct Compared {
    aggregate: String,
    before_ms: i64,
}

/// The times by aggregate. One that was never compared has none.
pub(super) async fn places(db: &Db, source: &str, aggregates: &[String]) -> Result<HashMap<String, i64>, Fault> {
    let sql = "select aggregate, before_ms from compared where source = $1";
    let rows: Vec<Compared> = query::all(db.read(), sql, [source.into()]).await?;
    let places = rows.into_iter().map(|row| (row.aggregate, row.before_ms));
    Ok(places.filter(|(aggregate, _)| aggregates.contains(aggregate)).collect())
}

/// Moves these aggregates forward to a time, never back.
pub(super) async fn move_to(tx: &Tx, source: &str, aggregates: &[String], before_ms: i64) -> Result<(), Fault> {
    let rows: Vec<String> = (0..aggregates.len())
        .map(|row| format!("($1, ${}, $2)", row + 3))
        .collect();
    let sql = format!(
        "insert into compared (source, aggregate, before_ms) values {}
         on conflict (source, aggregate) do update set before_ms = excluded.before_ms where compared.before_ms < excluded.before_ms",
        rows.join(", ")
    );
    let values = [source.into(), before_ms.into()].into_iter();
    let aggregates = aggregates.iter().map(|aggregate| Value::from(aggregate.as_str()));
    tx.execute(&sql, values.chain(aggregates)).await.map(drop)
}
