//! Hands a saga that is started in this process to the process's own runner, already claimed.
//!
//! Otherwise the runner would have to be woken, look for the saga and claim it in a transaction of its own before it could send the first command.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{definition::Definitions, store::Row};
use crate::Tx;

/// The runner of a module in this process, if one is running.
#[derive(Clone, Default)]
pub(crate) struct Handover(Arc<Mutex<Option<Desk>>>);

/// Where a runner takes sagas.
#[derive(Clone)]
struct Desk {
    owner: Arc<str>,
    definitions: Definitions,
    places: Arc<Semaphore>,
    handed: mpsc::UnboundedSender<Handed>,
}

/// A claimed saga, and its place among those that run at the same time.
pub(super) struct Handed {
    pub row: Row,
    pub place: OwnedSemaphorePermit,
}

/// A place in the runner, kept until the transaction has ended.
pub(super) struct Reserved {
    pub owner: Arc<str>,
    place: OwnedSemaphorePermit,
    handed: mpsc::UnboundedSender<Handed>,
}

impl Handover {
    /// Registers the runner that holds its leases as `owner`, until the returned guard is dropped. What was reserved before may arrive after that.
    pub(super) fn open(
        &self,
        owner: &Arc<str>,
        definitions: &Definitions,
        places: &Arc<Semaphore>,
    ) -> (Open, mpsc::UnboundedReceiver<Handed>) {
        let (handed, received) = mpsc::unbounded_channel();
        *self.0.lock() = Some(Desk {
            owner: owner.clone(),
            definitions: definitions.clone(),
            places: places.clone(),
            handed,
        });
        let open = Open {
            handover: self.clone(),
            owner: owner.clone(),
        };
        (open, received)
    }

    /// A place for a saga of this kind and version; `None` if it must wait to be claimed.
    pub(super) fn reserve(&self, kind: &'static str, version: i64) -> Option<Reserved> {
        let desk = self.0.lock().clone()?;
        if !desk.definitions.known().contains(&(kind, version)) {
            return None;
        }
        let place = desk.places.try_acquire_owned().ok()?;
        Some(Reserved {
            owner: desk.owner,
            place,
            handed: desk.handed,
        })
    }
}

/// While it lives, the runner takes sagas.
pub(super) struct Open {
    handover: Handover,
    owner: Arc<str>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut desk = self.handover.0.lock();
        if desk.as_ref().is_some_and(|desk| desk.owner == self.owner) {
            *desk = None;
        }
    }
}

impl Reserved {
    /// Hands the saga over after the commit. If the runner has ended by then, the lease expires.
    pub fn hand_over(self, tx: &Tx, row: Row) {
        let Reserved { place, handed, .. } = self;
        tx.after_commit(move || {
            let _ = handed.send(Handed { row, place });
        });
    }
}
