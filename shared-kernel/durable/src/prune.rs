//! Forgets what need not be remembered any longer: answers that have expired, and events sent long ago.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use shared_kernel::Fault;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{Db, Tx, lease, once};

/// Rows forgotten in one transaction, so that it never holds up the others for long.
const CHUNK: i64 = 500;
const EVERY: Duration = Duration::from_secs(600);
const BETWEEN_CHUNKS: Duration = Duration::from_millis(50);

pub(crate) fn work(db: Db) -> Arc<dyn Fn(CancellationToken) -> BoxFuture<'static, ()> + Send + Sync> {
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
    let answers = db.write(|tx| async move { once::prune(&tx, CHUNK).await }).await?;
    let events = db.write(|tx| async move { events(&tx).await }).await?;
    if answers + events > 0 {
        tracing::debug!(module = db.module(), answers, events, "pruned");
    }
    Ok([answers, events].contains(&(CHUNK as u64)))
}

/// A subject's oldest events go first, so that its versions stay contiguous among those that are kept.
async fn events(tx: &Tx) -> Result<u64, Fault> {
    let keep = Duration::from_secs(tx.settings().outbox_keep_days * 86_400);
    tx.execute(
        "delete from outbox where id in (
             select id from outbox where state = 'sent' and sent_at < $1
             and not exists (select 1 from outbox earlier where earlier.subject = outbox.subject and earlier.version < outbox.version
                             and (earlier.state = 'pending' or earlier.sent_at >= $1))
             order by subject, version limit $2)",
        [tx.clock().now().minus(keep).as_ms().into(), CHUNK.into()],
    )
    .await
}
