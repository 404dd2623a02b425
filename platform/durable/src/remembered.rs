//! What this process wrote last, as it was committed.
//!
//! A process across modules changes the same things several times within a second, each time from what the same process wrote just before. What is
//! remembered may be out of date, because another process may have changed it since. So it may serve where that is found out: by a write that asks for
//! the version that was remembered. An attempt that lost a race gets nothing from here, and reads.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use uuid::Uuid;

use crate::Tx;

/// The number of values in a generation: more than a busy process changes within a few seconds.
const GENERATION: usize = 256;

/// A value whose version grows with every change.
pub trait Versioned: Send + Sync + 'static {
    fn version(&self) -> i64;
}

/// The values that this process wrote last, at most 512, by id. Cheap to clone; clones share what they remember.
pub struct Remembered<V>(Arc<Mutex<Generations<V>>>);

/// When the young generation is full it becomes the old one, and the old one is forgotten.
struct Generations<V> {
    young: HashMap<Uuid, Arc<V>>,
    old: HashMap<Uuid, Arc<V>>,
}

impl<V: Versioned> Remembered<V> {
    /// The value as this process last committed it. `None` if it did not, or if an earlier attempt of this transaction lost a race.
    pub fn recall(&self, tx: &Tx, id: Uuid) -> Option<Arc<V>> {
        let mut generations = self.0.lock();
        if tx.is_repeated() {
            generations.forget(id);
            return None;
        }
        generations.find(id).cloned()
    }

    /// The value as this process last committed it: never older than anything this process has done, but maybe than what others did.
    pub fn last(&self, id: Uuid) -> Option<Arc<V>> {
        self.0.lock().find(id).cloned()
    }

    /// Remembers the value once it is committed.
    pub fn remember(&self, tx: &Tx, id: Uuid, value: V) {
        let remembered = self.clone();
        tx.after_commit(move || remembered.remember_committed(id, value));
    }

    /// Remembers a value that is committed.
    pub fn remember_committed(&self, id: Uuid, value: V) {
        self.0.lock().insert(id, value);
    }
}

impl<V: Versioned> Generations<V> {
    fn find(&self, id: Uuid) -> Option<&Arc<V>> {
        self.young.get(&id).or_else(|| self.old.get(&id))
    }

    fn insert(&mut self, id: Uuid, value: V) {
        let is_newer = |known: &Arc<V>| known.version() > value.version();
        if self.young.get(&id).is_some_and(is_newer) {
            return;
        }
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, Arc::new(value));
    }

    fn forget(&mut self, id: Uuid) {
        self.young.remove(&id);
        self.old.remove(&id);
    }
}

impl<V> Clone for Remembered<V> {
    fn clone(&self) -> Self {
        Remembered(self.0.clone())
    }
}

impl<V> Default for Remembered<V> {
    fn default() -> Self {
        Remembered(Arc::new(Mutex::new(Generations {
            young: HashMap::new(),
            old: HashMap::new(),
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Versioned for i64 {
        fn version(&self) -> i64 {
            *self
        }
    }

    fn id(number: usize) -> Uuid {
        Uuid::from_u128(number as u128)
    }

    #[test]
    fn the_oldest_are_forgotten_and_an_older_version_replaces_none() {
        let remembered = Remembered::<i64>::default();
        let mut generations = remembered.0.lock();
        for number in 0..3 * GENERATION {
            generations.insert(id(number), 2);
        }
        assert_eq!(generations.young.len() + generations.old.len(), 2 * GENERATION);
        assert!(generations.old.contains_key(&id(GENERATION)) && generations.find(id(0)).is_none());
        let last = id(3 * GENERATION - 1);
        generations.insert(last, 1);
        assert_eq!(generations.find(last).map(|value| **value), Some(2));
        generations.insert(last, 3);
        assert_eq!(generations.find(last).map(|value| **value), Some(3));
    }
}
