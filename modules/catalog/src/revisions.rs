//! Which state of the products is current.
//!
//! On SQLite this process is the only one that writes, so it knows. On PostgreSQL others write too, perhaps of an earlier version of the shop, so a
//! trigger gives the table a new revision in every transaction that changes it, and each request compares it. Requests that wait at the same time
//! share a query.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use banyan_core::Fault;
use banyan_durable::{Db, Tx};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::store;

/// A state of the products: equal revisions are equal states. On PostgreSQL it is random, so that a commit that the database lost is not taken for the
/// one that came in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision(pub u128);

pub enum Revisions {
    Own(Own),
    Shared(Shared),
}

impl Revisions {
    pub fn of(db: &Db) -> Self {
        if db.has_other_writers() {
            Revisions::Shared(Shared::of(db.clone()))
        } else {
            Revisions::Own(Own::default())
        }
    }

    /// The revision at a moment after this call began. A read that begins later sees this state or a later one. `None` if a change is under way: then only
    /// the database knows.
    ///
    /// # Errors
    /// As any query.
    pub async fn current(&self) -> Result<Option<Revision>, Fault> {
        match self {
            Revisions::Own(own) => Ok(own.current()),
            Revisions::Shared(shared) => shared.current().await,
        }
    }

    /// Announces that `tx` changes products. What the store changes them with: see [`Writing`].
    pub fn writing(&self, tx: &Tx) -> Writing {
        if let Revisions::Own(own) = self {
            let change = own.begin();
            // Dropped after the commit, and also if the transaction is rolled back.
            tx.after_commit(move || drop(change));
        }
        Writing(())
    }
}

/// Shows that a transaction announced its change of products.
pub struct Writing(());

/// The revisions of a database that only this process writes to.
#[derive(Default)]
pub struct Own(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    revision: u128,
    /// The number of transactions that change products and have not ended.
    changes: usize,
}

/// A transaction that changes products, until it ends.
struct Change(Arc<Mutex<State>>);

impl Own {
    /// None between the first change and the end of its transaction: whether it is committed already is not known here.
    fn current(&self) -> Option<Revision> {
        let state = self.0.lock();
        (state.changes == 0).then_some(Revision(state.revision))
    }

    fn begin(&self) -> Change {
        self.0.lock().changes += 1;
        Change(self.0.clone())
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.changes -= 1;
        state.revision += 1;
    }
}

/// The revisions of a database that others write to.
pub struct Shared {
    db: Db,
    /// The number of queries begun.
    begun: AtomicU64,
    running: tokio::sync::Mutex<()>,
    last: watch::Sender<Seen>,
}

/// The result of a query.
struct Seen {
    /// 1 for the first.
    number: u64,
    result: Result<Option<Revision>, Fault>,
}

impl Shared {
    fn of(db: Db) -> Self {
        let none = Seen {
            number: 0,
            result: Ok(None),
        };
        Shared {
            db,
            begun: AtomicU64::new(0),
            running: tokio::sync::Mutex::default(),
            last: watch::Sender::new(none),
        }
    }

    /// By the first query that begins after this call. One runs at a time, for all that wait.
    async fn current(&self) -> Result<Option<Revision>, Fault> {
        let begun_before = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.subscribe();
        let _running = tokio::select! {
            biased;
            Ok(seen) = last.wait_for(|seen| seen.number > begun_before) => return seen.result.clone(),
            running = self.running.lock() => running,
        };
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let result = store::revision(self.db.read()).await;
        self.last.send_replace(Seen {
            number,
            result: result.clone(),
        });
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_while_a_change_is_under_way() {
        let own = Own::default();
        let before = own.current();
        assert!(before.is_some() && before == own.current());
        let (first, second) = (own.begin(), own.begin());
        assert_eq!(own.current(), None);
        drop(first);
        assert_eq!(own.current(), None);
        drop(second);
        assert!(own.current().is_some() && own.current() != before);
    }
}
