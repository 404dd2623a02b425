//! Following orders: requests that wait for an outcome, and streams of events for clients.
//!
//! A commit wakes the followers, whichever process works on the order. In case a wake-up is lost, they also poll.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use banyan_core::{Call, Fault, FaultKind};
use banyan_durable::Watcher;
use banyan_http::Stopping;
use futures::{Stream, stream};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{
    event::{OrderEvent, Recorded},
    publish::{status_topic, subject},
    service::Service,
    store,
    views::OrderView,
};

/// The interval at which they poll.
const POLL_EVERY: Duration = Duration::from_secs(3);

/// Limits what each user holds open in this process: streams, or requests that wait.
#[derive(Clone, Debug)]
pub struct UserLimiter {
    per_user: usize,
    open: Arc<Mutex<HashMap<Uuid, usize>>>,
}

/// The permit of one stream or request; returned when dropped.
#[derive(Debug)]
pub struct Permit {
    limiter: UserLimiter,
    user_id: Uuid,
}

impl UserLimiter {
    pub fn new(per_user: usize) -> Self {
        UserLimiter {
            per_user,
            open: Arc::default(),
        }
    }

    /// # Errors
    /// `too_many_streams` (429).
    pub fn acquire(&self, user_id: Uuid) -> Result<Permit, Fault> {
        let mut open = self.open.lock();
        let taken = open.entry(user_id).or_default();
        if *taken >= self.per_user {
            let detail = format!("At most {} streams at a time.", self.per_user);
            return Err(Fault::new(FaultKind::TooMany, "too_many_streams", detail).retry_after(Duration::from_secs(5)));
        }
        *taken += 1;
        Ok(Permit {
            limiter: self.clone(),
            user_id,
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.limiter.open.lock();
        if let Some(taken) = open.get_mut(&self.user_id) {
            *taken = taken.saturating_sub(1);
            if *taken == 0 {
                open.remove(&self.user_id);
            }
        }
    }
}

impl Service {
    /// The order as soon as `is_outcome` holds for its status, or as it is when the timeout has passed or the server stops.
    ///
    /// # Errors
    /// `not_found`, as any query.
    pub async fn wait_for(
        &self,
        call: &Call,
        id: Uuid,
        timeout: Duration,
        stopping: &Stopping,
        is_outcome: fn(&OrderView) -> bool,
    ) -> Result<OrderView, Fault> {
        let status = self.watchers.watch(status_topic(id));
        let outcome = async {
            // What this process has committed need not be loaded.
            let mut known = self.remembered(call, id);
            loop {
                let order = match known.take() {
                    Some(order) => order,
                    None => self.load(call, id).await?,
                };
                if is_outcome(&order) {
                    return Ok(order);
                }
                // When the interval has passed, or an outcome came from another process, it is in the database.
                if tokio::time::timeout(POLL_EVERY, status.changed()).await.is_ok() {
                    known = self.remembered(call, id).filter(is_outcome);
                }
            }
        };
        tokio::select! {
            outcome = outcome => outcome,
            () = tokio::time::sleep(timeout) => self.load(call, id).await,
            () = stopping.0.cancelled() => self.load(call, id).await,
        }
    }

    /// The events of the order after `version`. The stream ends once the order is delivered or cancelled and all events until then were sent.
    pub fn follow(
        self: Arc<Self>,
        id: Uuid,
        version: i64,
        permit: Permit,
    ) -> impl Stream<Item = Result<Recorded, Fault>> + 'static {
        let following = Following {
            changes: self.watchers.watch(subject(id)),
            service: self,
            id,
            version,
            ready: VecDeque::new(),
            is_final: None,
            failed: false,
            _permit: permit,
        };
        stream::unfold(following, |mut following| async move {
            let next = following.next().await.transpose()?;
            following.failed |= next.is_err();
            Some((next, following))
        })
    }
}

struct Following {
    service: Arc<Service>,
    id: Uuid,
    version: i64,
    changes: Watcher,
    ready: VecDeque<Recorded>,
    /// Whether the order was delivered or cancelled, as far as its events were sent; unknown before the first query.
    is_final: Option<bool>,
    failed: bool,
    _permit: Permit,
}

impl Following {
    async fn next(&mut self) -> Result<Option<Recorded>, Fault> {
        loop {
            if self.failed {
                return Ok(None);
            }
            if let Some(recorded) = self.ready.pop_front() {
                self.version = recorded.version;
                if is_final(&recorded.event) {
                    self.is_final = Some(true);
                }
                return Ok(Some(recorded));
            }
            let is_final = self.is_final().await?;
            self.ready = store::events_after(self.service.db.read(), self.id, self.version)
                .await?
                .into();
            if self.ready.is_empty() {
                if is_final {
                    return Ok(None);
                }
                let _ = tokio::time::timeout(POLL_EVERY, self.changes.changed()).await;
            }
        }
    }

    /// Queried before the events are, so that the event that made the order final is among them. A client may have received it long ago, and others,
    /// such as a refund, may have followed: the last event alone says nothing.
    async fn is_final(&mut self) -> Result<bool, Fault> {
        if let Some(known) = self.is_final {
            return Ok(known);
        }
        let view = store::find_view(self.service.db.read(), self.id).await?;
        let is_final = view.is_some_and(|view| view.status.is_final());
        self.is_final = Some(is_final);
        Ok(is_final)
    }
}

fn is_final(event: &OrderEvent) -> bool {
    matches!(event, OrderEvent::Delivered {} | OrderEvent::Cancelled { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_limited_number_of_streams_and_a_closed_one_frees_its_permit() {
        let limiter = UserLimiter::new(2);
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let first = limiter.acquire(one).unwrap();
        let _second = limiter.acquire(one).unwrap();
        assert_eq!(limiter.acquire(one).unwrap_err().code, "too_many_streams");
        assert!(limiter.acquire(other).is_ok(), "the limit is each user's own");
        drop(first);
        assert!(limiter.acquire(one).is_ok());
    }
}
