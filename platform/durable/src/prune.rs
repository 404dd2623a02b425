//! Deletes what need not be kept any longer: expired commands, events sent and dead letters discarded long ago, all of finished sagas but their
//! outcome, and what a module says of its own rows.
//!
//! Invariant: an event is kept until every subscriber has confirmed that it was handled, unless an operator gave that subscriber up. If one is away for
//! longer than events are usually kept, the outbox grows, and an operator is told.

use std::{sync::Arc, time::Duration};

use banyan_core::{Fault, Timestamp};
use futures::future::BoxFuture;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{Db, Tx, horizon, lease, machinery::Work, once, query, saga::fold::fold, subscribers};

/// Deletes some rows of a module that ended before a time; returns whether there may be more.
pub(crate) type Expire = Arc<dyn Fn(Tx, Timestamp) -> BoxFuture<'static, Result<bool, Fault>> + Send + Sync>;

/// The number of rows deleted in one transaction, so that other writes never wait long for it.
const CHUNK: i64 = 500;
/// The number of sagas folded in one transaction: each may have many entries in its log.
const FOLDED: i64 = 50;
/// The interval between prunings.
const EVERY: Duration = Duration::from_secs(600);
const BETWEEN_CHUNKS: Duration = Duration::from_millis(50);

pub(crate) fn work(db: Db, expiries: Vec<Expire>) -> Work {
    let expiries: Arc<[Expire]> = expiries.into();
    Arc::new(move |stop| {
        let (db, expiries) = (db.clone(), expiries.clone());
        Box::pin(async move { lease::hold(&db, "prune", &stop, |held| run(&db, &expiries, held)).await })
    })
}

async fn run(db: &Db, expiries: &[Expire], held: CancellationToken) {
    let mut told = Vec::new();
    loop {
        let pause = match prune(db, expiries).await {
            Ok(true) => BETWEEN_CHUNKS,
            Ok(false) => {
                tell_who_is_behind(db, &mut told).await;
                EVERY
            }
            Err(fault) => {
                tracing::debug!(module = db.module(), %fault, "pruning failed");
                EVERY
            }
        };
        tokio::select! {
            () = held.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

/// Deletes one chunk of each; returns whether there may be more.
async fn prune(db: &Db, expiries: &[Expire]) -> Result<bool, Fault> {
    let commands = db
        .write((), |tx, ()| async move { once::prune(&tx, CHUNK).await })
        .await?;
    let events = db.write((), |tx, ()| async move { events(&tx).await }).await?;
    let letters = db.write((), |tx, ()| async move { discarded(&tx).await }).await?;
    let sagas = db.write((), |tx, ()| async move { fold(&tx, FOLDED).await }).await?;
    if commands + events + letters + sagas > 0 {
        tracing::debug!(module = db.module(), commands, events, letters, sagas, "pruned");
    }
    let mut more = [commands, events, letters].contains(&(CHUNK as u64)) || sagas == FOLDED as u64;
    for expire in expiries {
        let expired = db.write(expire.clone(), |tx, expire| async move {
            let horizon = horizon::advance(&tx).await?;
            expire(tx, horizon).await
        });
        more |= expired.await?;
    }
    Ok(more)
}

/// A subject's oldest events go first, so that its versions stay contiguous among those that are kept. In the order of the index on `sent_at`: the
/// outbox may be large, and the expired events are the first in it.
const EXPIRED_EVENTS: &str = "select id from outbox where state = 'sent' and sent_at < $1 and created_at < $2
     and not exists (select 1 from outbox earlier where earlier.subject = outbox.subject and earlier.version < outbox.version
                     and (earlier.state = 'pending' or earlier.sent_at > outbox.sent_at))
     order by sent_at, version limit $3";

async fn events(tx: &Tx) -> Result<u64, Fault> {
    let handled_before = subscribers::all_handled_before(tx).await?.unwrap_or(i64::MAX);
    // An event is sent after it was created. So if a subscriber is far behind, this reads the events it has handled, not all that wait for it.
    let sent_before = kept_since(tx).min(handled_before);
    let sql = format!("delete from outbox where id in ({EXPIRED_EVENTS})");
    tx.execute(&sql, [sent_before.into(), handled_before.into(), CHUNK.into()])
        .await
}

/// Logs once which subscribers the outbox keeps events for that are older than events need be. `told`: those it named before.
async fn tell_who_is_behind(db: &Db, told: &mut Vec<String>) {
    let now = db.clock().now();
    let kept_since = now.minus(db.settings().outbox_retention() + EVERY).as_ms();
    let look = async {
        let sql = "select min(sent_at) from outbox where state = 'sent'";
        let oldest: Option<Option<i64>> = query::scalar(db.read(), sql, []).await?;
        let Some(oldest) = oldest.flatten().filter(|oldest| *oldest < kept_since) else {
            return Ok((0, Vec::new()));
        };
        Ok::<_, Fault>((kept_since - oldest, subscribers::behind(db, kept_since).await?))
    };
    let Ok((excess_ms, behind)) = look.await else { return };
    metrics::gauge!("banyan_outbox_held_seconds", "module" => db.module().to_owned()).set(excess_ms as f64 / 1_000.0);
    if behind != *told && !behind.is_empty() {
        tracing::error!(
            module = db.module(),
            behind = behind.join(", "),
            "the outbox grows: it keeps events for subscribers that have not handled them for longer than outbox_keep_days; start them, or give them up"
        );
    }
    *told = behind;
}

/// Discarded dead letters are kept as long as sent events, for operators to look at. Their lanes have moved past them.
async fn discarded(tx: &Tx) -> Result<u64, Fault> {
    let sql = "delete from retry where id in (select id from retry where state = 'discarded' and next_attempt_at < $1 limit $2)";
    tx.execute(sql, [kept_since(tx).into(), CHUNK.into()]).await
}

/// What was finished before this time need not be kept.
fn kept_since(tx: &Tx) -> i64 {
    let keep = tx.settings().outbox_retention();
    tx.clock().now().minus(keep).as_ms()
}

#[cfg(test)]
mod tests {
    use super::EXPIRED_EVENTS;
    use crate::plan::steps;

    /// A module with very many sent events must find the expired ones without reading all of them, or one day the job times out and nothing is deleted
    /// any more.
    #[tokio::test]
    async fn expired_events_are_found_by_the_index_on_when_they_were_sent() {
        let steps = steps(EXPIRED_EVENTS, [1_i64.into(), 1_i64.into(), super::CHUNK.into()]).await;
        assert!(
            steps[0].contains("outbox USING INDEX outbox_sent (sent_at<?)"),
            "{steps:#?}"
        );
        assert!(steps.iter().all(|step| !step.starts_with("SCAN")), "{steps:#?}");
    }
}
