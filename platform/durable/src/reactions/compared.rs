//! How far this module has come with the events of others: a time of the producer's before which every event was handled, or is in the `retry` table.
//! So what happened before it need not be compared again, whatever the bus loses.

use std::collections::HashMap;

use banyan_core::Fault;
use sea_orm::{FromQueryResult, Value};

use crate::{Db, Tx, query};

#[derive(FromQueryResult)]
struct Compared {
    aggregate: String,
    #[sea_orm(nested)]
    place: Place,
}

#[derive(Clone, Copy, Debug, Default, FromQueryResult)]
pub(super) struct Place {
    pub before_ms: i64,
    /// The last such time that the producer said to have stored. 0: none. Never later than `before_ms`.
    pub acknowledged_ms: i64,
}

/// The places by aggregate. One that was never compared has none.
pub(super) async fn places(db: &Db, source: &str, aggregates: &[String]) -> Result<HashMap<String, Place>, Fault> {
    let sql =
        "select aggregate, before_ms, coalesce(acknowledged_ms, 0) as acknowledged_ms from compared where source = $1";
    let rows: Vec<Compared> = query::all(db.read(), sql, [source.into()]).await?;
    let places = rows.into_iter().map(|row| (row.aggregate, row.place));
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

/// Stores that the producer has stored these times.
pub(super) async fn acknowledge(tx: &Tx, source: &str, aggregates: &[String], before_ms: i64) -> Result<(), Fault> {
    let sql = format!(
        "update compared set acknowledged_ms = $2 where source = $1 and before_ms >= $2 and aggregate in ({})",
        query::placeholders(3, aggregates.len())
    );
    let values = [source.into(), before_ms.into()].into_iter();
    let aggregates = aggregates.iter().map(|aggregate| Value::from(aggregate.as_str()));
    tx.execute(&sql, values.chain(aggregates)).await.map(drop)
}

/// The producer went back to a time at which it had stored `confirmed_ms`: what it dates later is compared again, and so is every lane.
pub(super) async fn go_back(tx: &Tx, source: &str, confirmed_ms: i64) -> Result<(), Fault> {
    let sql = "update compared set acknowledged_ms = $2, before_ms = case when before_ms > $2 then $2 else before_ms end where source = $1";
    tx.execute(sql, [source.into(), confirmed_ms.into()]).await?;
    let sql = "insert into restored (source, after_subject) values ($1, '')
         on conflict (source) do update set after_subject = excluded.after_subject";
    tx.execute(sql, [source.into()]).await.map(drop)
}

/// The subject up to which the lanes were compared with a producer that went back. None if it did not, or all were.
pub(super) async fn restored(db: &Db, source: &str) -> Result<Option<String>, Fault> {
    let sql = "select after_subject from restored where source = $1";
    query::scalar(db.read(), sql, [source.into()]).await
}

/// Moves the comparison of the lanes from one subject to another. None: it is done. If the producer went back again meanwhile, it began anew, and this
/// changes nothing.
pub(super) async fn lanes_compared(tx: &Tx, source: &str, from: &str, to: Option<&str>) -> Result<(), Fault> {
    let at = [source.into(), from.into()];
    match to {
        Some(to) => {
            let sql = "update restored set after_subject = $3 where source = $1 and after_subject = $2";
            tx.execute(sql, at.into_iter().chain([to.into()])).await.map(drop)
        }
        None => {
            let sql = "delete from restored where source = $1 and after_subject = $2";
            tx.execute(sql, at).await.map(drop)
        }
    }
}
