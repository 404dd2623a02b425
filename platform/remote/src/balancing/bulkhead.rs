//! The bulkhead: the maximum number of calls to one module that run and that wait, so that a slow module ties up no more than its share of this
//! process.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

/// The permits of one module.
pub struct Bulkhead {
    permits: Semaphore,
    waiting: AtomicUsize,
    queue: usize,
}

/// The maximum number of calls is waiting already.
#[derive(Debug, PartialEq, Eq)]
pub struct QueueFull;

impl Bulkhead {
    /// At most `concurrency` calls at a time, and `queue` waiting ones.
    pub fn new(concurrency: usize, queue: usize) -> Self {
        Bulkhead {
            permits: Semaphore::new(concurrency.clamp(1, Semaphore::MAX_PERMITS)),
            waiting: AtomicUsize::new(0),
            queue,
        }
    }

    /// A permit, if one is free now.
    pub fn try_acquire(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.try_acquire().ok()
    }

    /// A permit, as soon as one is free and it is this caller's turn.
    ///
    /// # Errors
    /// At once, if the queue is full.
    pub async fn acquire(&self) -> Result<SemaphorePermit<'_>, QueueFull> {
        let _queueing = Queueing::begin(&self.waiting, self.queue).ok_or(QueueFull)?;
        // The semaphore is never closed.
        self.permits.acquire().await.map_err(|_| QueueFull)
    }

    /// The number of calls that wait for a permit.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A queued call, counted until dropped.
struct Queueing<'a>(&'a AtomicUsize);

impl<'a> Queueing<'a> {
    fn begin(waiting: &'a AtomicUsize, maximum: usize) -> Option<Self> {
        let more = |now: usize| (now < maximum).then_some(now + 1);
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
    fn a_full_queue_rejects_at_once_and_a_dropped_permit_is_free_again() {
        let bulkhead = Bulkhead::new(1, 1);
        let inside = bulkhead.try_acquire().unwrap();
        assert!(bulkhead.try_acquire().is_none());
        let mut waiting = Box::pin(bulkhead.acquire());
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(bulkhead.acquire().now_or_never().unwrap().err(), Some(QueueFull));
        drop(inside);
        let entered = waiting.now_or_never().unwrap().unwrap();
        assert_eq!(bulkhead.waiting(), 0);
        let given_up = Box::pin(bulkhead.acquire());
        assert!(given_up.now_or_never().is_none());
        assert_eq!(bulkhead.waiting(), 0, "a caller that gave up does not wait");
        drop(entered);
        assert!(bulkhead.try_acquire().is_some());
    }
}
