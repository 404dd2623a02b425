//! Which requests may wait for their outcome (`Prefer: wait`).
//!
//! A request that waits holds a permit of its module for seconds. So all of them together get half of a module's permits, and each user a sixteenth; a
//! request beyond that is forwarded without the preference, which RFC 7240 (section 2) allows, and gets its response at once.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use uuid::Uuid;

/// The requests to one module that wait.
#[derive(Clone, Debug)]
pub struct Waits {
    all: usize,
    per_user: usize,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    all: usize,
    /// Requests without a user have one share together.
    by_user: HashMap<Option<Uuid>, usize>,
}

/// A request that waits; counted until dropped.
#[derive(Debug)]
pub struct WaitPermit {
    waits: Waits,
    user: Option<Uuid>,
}

impl Waits {
    /// For a module to which at most `concurrency` requests are forwarded at the same time.
    pub fn of(concurrency: usize) -> Self {
        Waits {
            all: (concurrency / 2).max(1),
            per_user: (concurrency / 16).max(1),
            waiting: Arc::default(),
        }
    }

    /// `None`: this request must not wait.
    pub fn try_acquire(&self, user: Option<Uuid>) -> Option<WaitPermit> {
        let mut waiting = self.waiting.lock();
        let of_user = waiting.by_user.get(&user).copied().unwrap_or_default();
        if waiting.all >= self.all || of_user >= self.per_user {
            return None;
        }
        waiting.all += 1;
        waiting.by_user.insert(user, of_user + 1);
        Some(WaitPermit {
            waits: self.clone(),
            user,
        })
    }
}

impl Drop for WaitPermit {
    fn drop(&mut self) {
        let mut waiting = self.waits.waiting.lock();
        waiting.all -= 1;
        if let Some(of_user) = waiting.by_user.get_mut(&self.user) {
            *of_user -= 1;
            if *of_user == 0 {
                waiting.by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_users_do_not_use_up_the_permits_of_a_module_by_waiting() {
        let (waits, user) = (Waits::of(256), |number| Some(Uuid::from_u128(number)));
        let mut permits: Vec<_> = (0..256)
            .filter_map(|number| waits.try_acquire(user(number % 3)))
            .collect();
        assert_eq!(permits.len(), 3 * 16);
        assert!(waits.try_acquire(user(4)).is_some(), "another user still waits");
        permits.extend((0..256).filter_map(|number| waits.try_acquire(user(10 + number))));
        assert_eq!(
            permits.len(),
            128,
            "half of the permits are left to requests that do not wait"
        );
        permits.clear();
        assert!(waits.waiting.lock().by_user.is_empty());
        assert!(waits.try_acquire(user(1)).is_some());
    }
}
