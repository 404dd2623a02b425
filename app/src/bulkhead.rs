//! How many calls to one module may be under way and how many may wait, so that a slow module holds up no more than its share of this process.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

/// The places of one module.
pub struct Bulkhead {
    places: Semaphore,
    waiting: AtomicUsize,
    queue: usize,
}

/// More are waiting than may.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Bulkhead {
    /// `concurrency` calls at the same time and `queue` waiting ones.
    pub fn new(concurrency: usize, queue: usize) -> Self {
        Bulkhead {
            places: Semaphore::new(concurrency.clamp(1, Semaphore::MAX_PERMITS)),
            waiting: AtomicUsize::new(0),
            queue,
        }
    }

    /// A place, if one is free now.
    pub fn try_enter(&self) -> Option<SemaphorePermit<'_>> {
        self.places.try_acquire().ok()
    }

    /// A place when it is this caller's turn.
    ///
    /// # Errors
    /// At once, if the queue is full.
    pub async fn enter(&self) -> Result<SemaphorePermit<'_>, Full> {
        let _queueing = Queueing::begin(&self.waiting, self.queue).ok_or(Full)?;
        // The semaphore is never closed.
        self.places.acquire().await.map_err(|_| Full)
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// One in the queue, as long as it lives.
struct Queueing<'a>(&'a AtomicUsize);

impl<'a> Queueing<'a> {
    fn begin(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let more = |now: usize| (now < most).then_some(now + 1);
        waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()
            .map(|_| Queueing(waiting))
    }
}

impl Drop for Queueing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn more_than_may_wait_are_refused_at_once_and_who_leaves_makes_room() {
        let bulkhead = Bulkhead::new(1, 1);
        let inside = bulkhead.try_enter().unwrap();
        assert!(bulkhead.try_enter().is_none());
        let mut waiting = Box::pin(bulkhead.enter());
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(bulkhead.enter().now_or_never().unwrap().err(), Some(Full));
        drop(inside);
        let entered = waiting.now_or_never().unwrap().unwrap();
        assert_eq!(bulkhead.waiting(), 0);
        let given_up = Box::pin(bulkhead.enter());
        assert!(given_up.now_or_never().is_none());
        assert_eq!(bulkhead.waiting(), 0, "who gave up waits no more");
        drop(entered);
        assert!(bulkhead.try_enter().is_some());
    }
}
