//! Forgets what need not be remembered any longer: answers that have expired, events sent and dead letters discarded long ago.

use std::{sync::Arc, time::Duration};

use banyan_core::Fault;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{Db, Tx, lease, machinery::Work, once};

/// Rows forgotten in one transaction, so that it never holds up the others for long.
const CHUNK: i64 = 500;
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
                tracing::debug!(module = db.module(), %fault, "cannot prune now");
                EVERY
            }
        };
        tokio::select! {
            () = held.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

/// Forgets one chunk of each; answers whether there may be more.
async fn prune(db: &Db) -> Result<bool, Fault> {
    let answers = db
        .write((), |tx, ()| async move { once::prune(&tx, CHUNK).await })
        .await?;
    let events = db.write((), |tx, ()| async move { events(&tx).await }).await?;
    let letters = db.write((), |tx, ()| async move { discarded(&tx).await }).await?;
    if answers + events + letters > 0 {
        tracing::debug!(module = db.module(), answers, events, letters, "pruned");
    }
    Ok([answers, events, letters].contains(&(CHUNK as u64)))
}

/// A subject's oldest events go first, so that its versions stay contiguous among those that are kept. In the order of the index on `sent_at`: the
/// outbox may be large, and what is to go stands at its beginning.
const EXPIRED_EVENTS: &str = "select id from outbox where state = 'sent' and sent_at < $1
     and not exists (select 1 from outbox earlier where earlier.subject = outbox.subject and earlier.version < outbox.version
                     and (earlier.state = 'pending' or earlier.sent_at > outbox.sent_at))
     order by sent_at, version limit $2";

async fn events(tx: &Tx) -> Result<u64, Fault> {
    let sql = format!("delete from outbox where id in ({EXPIRED_EVENTS})");
    tx.execute(&sql, [kept_since(tx).into(), CHUNK.into()]).await
}

/// Dead letters that somebody gave up stay as long as sent events do, to be looked at. Their lanes have gone past them.
async fn discarded(tx: &Tx) -> Result<u64, Fault> {
    let sql = "delete from retry where id in (select id from retry where state = 'discarded' and next_attempt_at < $1 limit $2)";
    tx.execute(sql, [kept_since(tx).into(), CHUNK.into()]).await
}

/// What was done with before this moment need not be kept.
fn kept_since(tx: &Tx) -> i64 {
    let keep = tx.settings().outbox_retention();
    tx.clock().now().minus(keep).as_ms()
}

#[cfg(test)]
mod tests {
    use super::EXPIRED_EVENTS;
    use crate::plan::steps;

    /// A module with very many sent events must find those to forget without going through all of them, or one day it will not be done in time
    /// and never forget anything again.
    #[tokio::test]
    async fn events_to_forget_are_found_by_when_they_were_sent() {
        let steps = steps(EXPIRED_EVENTS, [1_i64.into(), super::CHUNK.into()]).await;
        assert!(
            steps[0].contains("outbox USING INDEX outbox_sent (sent_at<?)"),
            "{steps:#?}"
        );
        assert!(steps.iter().all(|step| !step.starts_with("SCAN")), "{steps:#?}");
    }
}
