//! Who subscribes to this module's events, and how far each subscriber has come. The outbox keeps what a subscriber has not confirmed yet.
//!
//! A subscriber is known from the product's table of modules, so it counts before it ever ran; or because it confirmed something. One that will not come
//! back is given up by an operator: nothing else makes the producer forget it, because its events would then be lost without anybody knowing.

use std::sync::Arc;

use banyan_core::Fault;
use banyan_event_feed_contract::{ConfirmHandled, Confirmed};
use sea_orm::{ConnectionTrait, FromQueryResult, Value};
use tokio::time::sleep;

use crate::{Db, Tx, machinery::Work, query};

/// A module and an aggregate of ours that it subscribes to.
pub(crate) type Subscription = (String, String);

/// Lists the subscribers in the database, so that events are kept for them.
pub(crate) fn work(db: Db, subscribers: Vec<Subscription>) -> Work {
    let subscribers: Arc<[Subscription]> = subscribers.into();
    Arc::new(move |stop| {
        let (db, subscribers) = (db.clone(), subscribers.clone());
        Box::pin(async move {
            let register = async {
                while let Err(fault) = db
                    .write(subscribers.clone(), |tx, subscribers| async move {
                        register(&tx, &subscribers).await
                    })
                    .await
                {
                    tracing::warn!(module = db.module(), %fault, "the subscribers cannot be listed now; no event is deleted until they are");
                    sleep(db.settings().limits.poll).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = register => {}
            }
        })
    })
}

async fn register(tx: &Tx, subscribers: &[Subscription]) -> Result<(), Fault> {
    let begins_at = begins_at(tx).await?;
    tx.execute("delete from subscriber where module = ''", []).await?;
    if subscribers.is_empty() {
        return Ok(());
    }
    let rows: Vec<String> = (0..subscribers.len())
        .map(|row| format!("(${}, ${}, $1, 0, false)", 2 * row + 2, 2 * row + 3))
        .collect();
    let sql = format!(
        "insert into subscriber (module, aggregate, begins_at, confirmed_before, given_up) values {} on conflict (module, aggregate) do nothing",
        rows.join(", ")
    );
    let keys = subscribers
        .iter()
        .flat_map(|(module, aggregate)| [Value::from(module.as_str()), aggregate.as_str().into()]);
    tx.execute(&sql, std::iter::once(begins_at.into()).chain(keys))
        .await
        .map(drop)
}

/// Where a subscriber begins that is listed now: those of the first start are owed every event, a later one those from now on.
async fn begins_at(tx: &Tx) -> Result<i64, Fault> {
    let first: Option<i64> = query::scalar(tx.conn(), "select begins_at from subscriber where module = ''", []).await?;
    match first {
        Some(_) => Ok(0),
        None => now_ms(tx.conn(), tx.clock().now().as_ms()).await,
    }
}

/// The time by which changes are dated: the clock's, unless it went back.
pub(crate) async fn now_ms(conn: &impl ConnectionTrait, now: i64) -> Result<i64, Fault> {
    let last: Option<Option<i64>> = query::scalar(conn, "select max(changed_at) from subject", []).await?;
    Ok(last.flatten().map_or(now, |last| now.max(last)))
}

/// Stores what a subscriber confirmed; returns the time from which events are kept for it. If this module acknowledged more than it has, nothing is stored:
/// the subscriber would otherwise have no second chance to notice that this database went back.
pub(crate) async fn confirm(db: &Db, request: ConfirmHandled) -> Result<Confirmed, Fault> {
    if request.subscriber.is_empty() || request.handled.is_empty() {
        return Err(Fault::malformed(
            "invalid_confirmation",
            "It names no subscriber, or nothing that it handled.",
        ));
    }
    let write = db.write(
        Arc::new(request),
        |tx, request| async move { store(&tx, &request).await },
    );
    write.await
}

async fn store(tx: &Tx, request: &ConfirmHandled) -> Result<Confirmed, Fault> {
    if let Some(confirmed_ms) = lost(tx, request).await? {
        return Ok(Confirmed {
            went_back: true,
            confirmed_ms,
            since_ms: 0,
        });
    }
    // A database that was restored has handled less than its predecessor. What was deleted since then was meant for it.
    let progress = if request.resuming {
        "begins_at = case when excluded.confirmed_before < subscriber.confirmed_before then 0 else subscriber.begins_at end,
         confirmed_before = excluded.confirmed_before"
    } else {
        "confirmed_before = case when excluded.confirmed_before > subscriber.confirmed_before then excluded.confirmed_before
                            else subscriber.confirmed_before end"
    };
    let rows: Vec<String> = (0..request.handled.len())
        .map(|row| format!("($1, ${}, $2, ${}, false)", 2 * row + 3, 2 * row + 4))
        .collect();
    let sql = format!(
        "insert into subscriber (module, aggregate, begins_at, confirmed_before, given_up) values {}
         on conflict (module, aggregate) do update set given_up = false, {progress}",
        rows.join(", ")
    );
    let subscriber: Value = request.subscriber.as_str().into();
    let handled = request
        .handled
        .iter()
        .flat_map(|handled| [Value::from(handled.aggregate.as_str()), handled.before_ms.into()]);
    let values = [subscriber.clone(), begins_at(tx).await?.into()]
        .into_iter()
        .chain(handled);
    tx.execute(&sql, values).await?;

    let sql = format!(
        "select min(begins_at) from subscriber where module = $1 and aggregate in ({})",
        query::placeholders(2, request.handled.len())
    );
    let aggregates = request
        .handled
        .iter()
        .map(|handled| Value::from(handled.aggregate.as_str()));
    let begins_at: Option<Option<i64>> =
        query::scalar(tx.conn(), &sql, std::iter::once(subscriber).chain(aggregates)).await?;
    // A subscriber that is new also gets what happened shortly before, as far as it is kept.
    let kept = i64::try_from(tx.settings().outbox_retention().as_millis()).unwrap_or(i64::MAX);
    Ok(Confirmed {
        since_ms: begins_at.flatten().unwrap_or(0).saturating_sub(kept).max(0),
        ..Confirmed::default()
    })
}

/// What is stored of the confirmations, if that is less than what was acknowledged. One that was given up is kept, so it is not taken for lost.
async fn lost(tx: &Tx, request: &ConfirmHandled) -> Result<Option<i64>, Fault> {
    let acknowledged = request.handled.iter().map(|handled| handled.acknowledged_ms);
    if acknowledged.max().unwrap_or(0) == 0 {
        return Ok(None);
    }
    let sql = "select aggregate, confirmed_before from subscriber where module = $1";
    let rows: Vec<Confirmation> = query::all(tx.conn(), sql, [request.subscriber.as_str().into()]).await?;
    let stored = |aggregate: &str| {
        let row = rows.iter().find(|row| row.aggregate == aggregate);
        row.map_or(0, |row| row.confirmed_before)
    };
    let behind = request
        .handled
        .iter()
        .filter(|handled| stored(&handled.aggregate) < handled.acknowledged_ms);
    Ok(behind.map(|handled| stored(&handled.aggregate)).min())
}

#[derive(FromQueryResult)]
struct Confirmation {
    aggregate: String,
    confirmed_before: i64,
}

/// Whether this subscriber began later than the module itself, so that the deleted events of a subject it never heard of were not meant for it.
pub(crate) async fn began_later(db: &Db, subscriber: &str, subject: &str) -> Result<bool, Fault> {
    let aggregate = subject.split('/').next().unwrap_or_default();
    let sql = "select begins_at from subscriber where module = $1 and aggregate = $2";
    let begins_at: Option<i64> = query::scalar(db.read(), sql, [subscriber.into(), aggregate.into()]).await?;
    Ok(begins_at.is_some_and(|begins_at| begins_at > 0))
}

/// The time before which every subscriber has handled everything. None if nobody subscribes.
pub(crate) async fn all_handled_before(tx: &Tx) -> Result<Option<i64>, Fault> {
    let sql = "select min(confirmed_before) from subscriber where not given_up";
    let confirmed: Option<Option<i64>> = query::scalar(tx.conn(), sql, []).await?;
    Ok(confirmed.flatten())
}

/// The subscribers that have not handled everything that happened before `time`, as `<module> (<aggregate>)`.
pub(crate) async fn behind(db: &Db, time: i64) -> Result<Vec<String>, Fault> {
    let sql = "select module || ' (' || aggregate || ')' from subscriber where not given_up and confirmed_before < $1
         order by module, aggregate";
    query::scalars(db.read(), sql, [time.into()]).await
}
