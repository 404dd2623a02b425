//! Work that only one instance may do at a time.
//!
//! A lease is a row with an owner, a token that grows each time it passes to another owner, and the time at which it expires. It is stored in the
//! module's database and judged by that database's clock, which all instances share. A lease makes doing a thing twice rare; it cannot rule it out (an
//! instance may be suspended until its lease has expired), so the work itself must be harmless when done twice.

use std::{collections::BTreeMap, future::Future, panic::AssertUnwindSafe};

use banyan_core::Fault;
use futures::FutureExt;
use parking_lot::Mutex;
use sea_orm::{DbBackend, FromQueryResult, Value};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Db, changed, query, time};

/// Runs `work` whenever this instance holds the lease `name`, until `stop`. `work` gets a token that is cancelled when the lease is lost or on `stop`;
/// it must then return, and keeps the lease until it has. If it panics or returns early, the lease is released and acquired again.
pub async fn hold<F, Fut>(db: &Db, name: &'static str, stop: &CancellationToken, work: F)
where
    F: Fn(CancellationToken) -> Fut + Send,
    Fut: Future<Output = ()> + Send,
{
    let topic = topic(name);
    let mut changes = db.changes();
    while !stop.is_cancelled() {
        let claimed_at = Instant::now();
        let mut pause = db.settings().limits.poll;
        match claim(db, name).await {
            Ok(Some(lease)) => {
                tracing::debug!(
                    module = db.module(),
                    lease = name,
                    token = lease.token,
                    "lease acquired"
                );
                lease.work(claimed_at, stop, &work).await;
                lease.release().await;
            }
            // Another instance renews it at this interval; at its end that instance announces it, unless it crashes.
            Ok(None) => pause = pause.max(db.settings().lease_renewal()),
            Err(fault) => {
                tracing::debug!(module = db.module(), lease = name, %fault, "the lease cannot be acquired now")
            }
        }
        // An instance that releases the lease notifies the others; the lease of one that crashed expires.
        tokio::select! {
            () = changed(&mut changes, &topic) => {}
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// An SQLite file is open in one process at a time, so a lease found there at its start belongs to a process that crashed. The leases of sagas are
/// ended by their runner.
pub(crate) async fn clear(db: &Db) -> Result<(), Fault> {
    db.write((), |tx, ()| async move {
        tx.execute("update lease set until = 0", []).await.map(drop)
    })
    .await
}

/// The tables of the module that its login has not every right to: those of the owner of this one. Others in its schema are not the module's.
const DENIED: &str = "select string_agg(relname, ', ' order by relname) from pg_class
     where relnamespace = current_schema()::regnamespace and relkind in ('r', 'p')
       and relowner = (select relowner from pg_class where oid = 'mark'::regclass)
       and not (has_table_privilege(oid, 'select') and has_table_privilege(oid, 'insert')
                and has_table_privilege(oid, 'update') and has_table_privilege(oid, 'delete'))";

/// Writes a row that means nothing, to find out whether the database can be written to. A right to another table may be missing: on PostgreSQL those are
/// looked up.
pub(crate) async fn probe(db: &Db) -> Result<(), Fault> {
    db.write((), |tx, ()| async move {
        if tx.backend() == DbBackend::Postgres {
            let denied: Option<Option<String>> = query::scalar(tx.conn(), DENIED, []).await?;
            if let Some(tables) = denied.flatten() {
                let detail = format!(
                    "The login of {} lacks rights to the tables {tables}: grant select, insert, update and delete.",
                    tx.module()
                );
                return Err(Fault::unavailable(detail));
            }
        }
        // Every database has this table, further storage without leases too.
        let sql = "insert into mark (name, at_ms) values ('(probe)', 1) on conflict (name) do update set at_ms = mark.at_ms + 1";
        tx.execute(sql, []).await.map(drop)
    })
    .await
}

struct Lease<'a> {
    db: &'a Db,
    name: &'static str,
    token: i64,
}

impl Lease<'_> {
    /// Does the work and renews the lease at the same time. While the database does not respond, the lease counts as lost once it has expired, counted
    /// from the start of the last renewal that succeeded.
    async fn work<F, Fut>(&self, claimed_at: Instant, stop: &CancellationToken, work: F)
    where
        F: Fn(CancellationToken) -> Fut,
        Fut: Future<Output = ()>,
    {
        let held = stop.child_token();
        let key = (self.name, self.token);
        self.db.held().leases.lock().insert(key, claimed_at);
        let renewal = async {
            let settings = self.db.settings();
            while let Some(renewed_at) = self.db.held().renewed_at(key) {
                // It may be renewed meanwhile, together with another lease.
                let wait = settings.lease_renewal().saturating_sub(renewed_at.elapsed());
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                    continue;
                }
                let end = renewed_at + settings.lease();
                match tokio::time::timeout_at(end, self.db.held().renew(self.db, key)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) if Instant::now() < end => tokio::time::sleep(settings.lease_renewal()).await,
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
                    tracing::error!(module = self.db.module(), lease = self.name, "work under a lease panicked; it is restarted");
                }
            }
            () = renewal => {}
        }
        self.db.held().leases.lock().remove(&key);
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
        // A lease that cannot be released now expires.
        if let Err(fault) = released.await {
            tracing::debug!(module = self.db.module(), lease = name, %fault, "the lease could not be released; it will expire");
        }
    }
}

fn topic(name: &str) -> String {
    format!("lease/{name}")
}

async fn claim<'a>(db: &'a Db, name: &'static str) -> Result<Option<Lease<'a>>, Fault> {
    let owner = Uuid::new_v4().to_string();
    let now = time::now(db.backend());
    // Also one that ends later than any lease: the clock was set back since.
    let expired = time::passed(db.backend(), "lease.until", time::longest_lease(db.settings()));
    let sql = format!(
        "insert into lease (name, owner, token, until) values ($1, $2, 1, {now} + $3)
         on conflict (name) do update set owner = excluded.owner, token = lease.token + 1, until = excluded.until
         where {expired} returning token"
    );
    let token = db.write((owner, sql), move |tx, (owner, sql)| async move {
        let lease_ms = time::ms_of(tx.settings().lease());
        query::scalar(tx.conn(), &sql, [name.into(), owner.into(), lease_ms.into()]).await
    });
    Ok(token.await?.map(|token| Lease { db, name, token }))
}

/// The leases that this process holds on one database, by name and token, with the beginning of their last renewal. They are renewed together.
#[derive(Default)]
pub(crate) struct Held {
    leases: Mutex<BTreeMap<(&'static str, i64), Instant>>,
    /// Held during a renewal.
    renewing: tokio::sync::Mutex<()>,
}

#[derive(FromQueryResult)]
struct Renewed {
    name: String,
    token: i64,
}

impl Held {
    /// `None` for a lease that was lost.
    fn renewed_at(&self, lease: (&'static str, i64)) -> Option<Instant> {
        self.leases.lock().get(&lease).copied()
    }

    /// Renews all of them by one statement, and drops those that were lost, unless this one was renewed meanwhile. An expired lease may be renewed if no
    /// other instance has acquired it since: the token shows it.
    async fn renew(&self, db: &Db, lease: (&'static str, i64)) -> Result<(), Fault> {
        let _turn = self.renewing.lock().await;
        let is_due = |renewed_at: Instant| renewed_at.elapsed() >= db.settings().lease_renewal();
        if !self.renewed_at(lease).is_some_and(is_due) {
            return Ok(());
        }
        let begun_at = Instant::now();
        let leases: Vec<(&'static str, i64)> = self.leases.lock().keys().copied().collect();
        let rows: Vec<String> = (0..leases.len())
            .map(|at| format!("(cast(${} as text), cast(${} as bigint))", 2 * at + 2, 2 * at + 3))
            .collect();
        let now = time::now(db.backend());
        let sql = format!(
            "update lease set until = {now} + $1 where (name, token) in (values {}) returning name, token",
            rows.join(", ")
        );
        let these = leases.clone();
        let renewed: Vec<Renewed> = db
            .write((sql, these), |tx, (sql, these)| async move {
                let lease_ms: Value = time::ms_of(tx.settings().lease()).into();
                let keys = these.into_iter().flat_map(|(name, token)| [name.into(), token.into()]);
                query::all(tx.conn(), &sql, std::iter::once(lease_ms).chain(keys)).await
            })
            .await?;
        let mut held = self.leases.lock();
        for lease in leases {
            if renewed.iter().any(|row| (row.name.as_str(), row.token) == lease) {
                held.entry(lease).and_modify(|renewed_at| *renewed_at = begun_at);
            } else {
                held.remove(&lease);
            }
        }
        Ok(())
    }
}
