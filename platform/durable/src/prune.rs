//! Deletes what need not be kept any longer: expired commands, events sent and dead letters discarded long ago, and all but the outcome of finished sagas.

use std::{sync::Arc, time::Duration};

use banyan_core::Fault;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{Db, Tx, lease, machinery::Work, once, saga::fold::fold};

/// The number of rows deleted in one transaction, so that other writes never wait long for it.
const CHUNK: i64 = 500;
/// The number of sagas folded in one transaction: each may have many entries in its log.
const FOLDED: i64 = 50;
/// The interval between prunings.
const EVERY: Duration = Duration::from_secs(600);
const BETWEEN_CHUNKS: Duration = Duration::from_millis(50);

pub(crate) fn work(db: Db) -> Work {
    Arc::new(move |stop| {
        let db = db.clone();
        Box::pin(async move { lease::hold(&db, "prune", &stop, |held| run(&db, held)).await })
    })
}

async fn run(db: &Db, held: CancellationToken) {
    loop {
        let pause = match prune(db).await {
            Ok(true) => BETWEEN_CHUNKS,
            Ok(false) => EVERY,
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
async fn prune(db: &Db) -> Result<bool, Fault> {
    let commands = db
        .write((), |tx, ()| async move { once::prune(&tx, CHUNK).await })
        .await?;
    let events = db.write((), |tx, ()| async move { events(&tx).await }).await?;
    let letters = db.write((), |tx, ()| async move { discarded(&tx).await }).await?;
    let sagas = db.write((), |tx, ()| async move { fold(&tx, FOLDED).await }).await?;
    if commands + events + letters + sagas > 0 {
        tracing::debug!(module = db.module(), commands, events, letters, sagas, "pruned");
    }
    Ok([commands, events, letters].contains(&(CHUNK as u64)) || sagas == FOLDED as u64)
}

/// A subject's oldest events go first, so that its versions stay contiguous among those that are kept. In the order of the index on `sent_at`: the
/// outbox may be large, and the expired events are the first in it.
const EXPIRED_EVENTS: &str = "select id from outbox where state = 'sent' and sent_at < $1
     and not exists (select 1 from outbox earlier where earlier.subject = outbox.subject and earlier.version < outbox.version
                     and (earlier.state = 'pending' or earlier.sent_at > outbox.sent_at))
     order by sent_at, version limit $2";

async fn events(tx: &Tx) -> Result<u64, Fault> {
    let sql = format!("delete from outbox where id in ({EXPIRED_EVENTS})");
    tx.execute(&sql, [kept_since(tx).into(), CHUNK.into()]).await
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
        let steps = steps(EXPIRED_EVENTS, [1_i64.into(), super::CHUNK.into()]).await;
        assert!(
            steps[0].contains("outbox USING INDEX outbox_sent (sent_at<?)"),
            "{steps:#?}"
        );
        assert!(steps.iter().all(|step| !step.starts_with("SCAN")), "{steps:#?}");
    }
}
