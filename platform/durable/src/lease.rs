//! Work that only one instance may do at a time.
//!
//! A lease is a row with an owner, a token that grows with every change of hands, and a moment until which it holds. It lives in the module's
//! database and is judged by that database's clock, which all instances share. A lease makes doing a thing twice rare; it cannot rule it out (an
//! instance may sleep through its own lease), so the work itself must be harmless when done twice.

use std::{future::Future, panic::AssertUnwindSafe};

use banyan_core::Fault;
use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Db, Tx, changed};

/// Runs `work` whenever this instance holds the lease `name`, until `stop`. `work` gets a token that ends when the lease is lost or `stop`
/// comes; it must then return, and keeps the lease until it has. Should it panic or return early, the lease is given back and taken again.
pub async fn hold<F, Fut>(db: &Db, name: &'static str, stop: &CancellationToken, work: F)
where
    F: Fn(CancellationToken) -> Fut + Send,
    Fut: Future<Output = ()> + Send,
{
    let poll = db.settings().limits.poll;
    let topic = topic(name);
    let mut changes = db.changes();
    while !stop.is_cancelled() {
        let asked_at = Instant::now();
        match claim(db, name).await {
            Ok(Some(lease)) => {
                tracing::debug!(module = db.module(), lease = name, token = lease.token, "lease taken");
                lease.work(asked_at, stop, &work).await;
                lease.release().await;
            }
            Ok(None) => {}
            Err(fault) => {
                tracing::debug!(module = db.module(), lease = name, %fault, "the lease cannot be asked for now")
            }
        }
        // Another instance that gives it back says so; one that died says nothing, and its lease runs out.
        tokio::select! {
            () = changed(&mut changes, &topic) => {}
            () = tokio::time::sleep(poll) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// SQLite files belong to one process at a time, so a lease found there at its start is a dead process's. Those of sagas are their runner's to end.
pub(crate) async fn clear(db: &Db) -> Result<(), Fault> {
    db.write((), |tx, ()| async move {
        tx.execute("update lease set until = 0", []).await.map(drop)
    })
    .await
}

struct Lease<'a> {
    db: &'a Db,
    name: &'static str,
    token: i64,
}

impl Lease<'_> {
    /// Does the work and renews the lease beside it. Without an answer from the database the lease counts as lost when its time is over,
    /// reckoned from when the last renewal that succeeded was asked for.
    async fn work<F, Fut>(&self, claimed_at: Instant, stop: &CancellationToken, work: F)
    where
        F: Fn(CancellationToken) -> Fut,
        Fut: Future<Output = ()>,
    {
        let held = stop.child_token();
        let renewal = async {
            let mut renewed_at = claimed_at;
            loop {
                tokio::time::sleep(self.db.settings().lease_renewal()).await;
                let asked_at = Instant::now();
                let end = renewed_at + self.db.settings().lease();
                match tokio::time::timeout_at(end, renew(self.db, self.name, self.token)).await {
                    Ok(Ok(true)) => renewed_at = asked_at,
                    Ok(Ok(false)) => break,
                    Ok(Err(_)) if Instant::now() < end => {}
                    Ok(Err(_)) | Err(_) => break,
                }
            }
            tracing::warn!(module = self.db.module(), lease = self.name, "lease lost");
            held.cancel();
            std::future::pending::<()>().await;
        };
        let work = AssertUnwindSafe(work(held.clone())).catch_unwind();
        tokio::select! {
            done = work => {
                if done.is_err() {
                    tracing::error!(module = self.db.module(), lease = self.name, "work under a lease panicked; it starts again");
                }
            }
            () = renewal => {}
        }
    }

    async fn release(&self) {
        let (name, token) = (self.name, self.token);
        let released = self.db.write((), move |tx, ()| async move {
            tx.execute(
                "update lease set until = 0 where name = $1 and token = $2",
                [name.into(), token.into()],
            )
            .await?;
            tx.wake(topic(name));
            Ok(())
        });
        // What cannot be given back now runs out by itself.
        if let Err(fault) = released.await {
            tracing::debug!(module = self.db.module(), lease = name, %fault, "the lease runs out by itself");
        }
    }
}

fn topic(name: &str) -> String {
    format!("lease/{name}")
}

async fn claim<'a>(db: &'a Db, name: &'static str) -> Result<Option<Lease<'a>>, Fault> {
    let owner = Uuid::new_v4().to_string();
    let token = db.write(owner, move |tx, owner| async move {
            let (now, until) = span(&tx).await?;
            let row = tx
                .query_one(
                    "insert into lease (name, owner, token, until) values ($1, $2, 1, $4)
                     on conflict (name) do update set owner = excluded.owner, token = lease.token + 1, until = excluded.until
                     where lease.until <= $3
                     returning token",
                    [name.into(), owner.into(), now.into(), until.into()],
                )
                .await?;
            row.map(|row| row.try_get("", "token").map_err(crate::fault)).transpose()
        });
    Ok(token.await?.map(|token| Lease { db, name, token }))
}

async fn renew(db: &Db, name: &'static str, token: i64) -> Result<bool, Fault> {
    db.write((), move |tx, ()| async move {
        // A lease that ran out may be renewed as long as nobody else took it: the token says so.
        let (_, until) = span(&tx).await?;
        let rows = tx
            .execute(
                "update lease set until = $3 where name = $1 and token = $2",
                [name.into(), token.into(), until.into()],
            )
            .await?;
        Ok(rows == 1)
    })
    .await
}

/// From now until the end of a lease taken now, by the database's clock.
async fn span(tx: &Tx) -> Result<(i64, i64), Fault> {
    let now = tx.database_now().await?;
    Ok((now.as_ms(), now.plus(tx.settings().lease()).as_ms()))
}
