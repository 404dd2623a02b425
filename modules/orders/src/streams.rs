//! Following orders: waiting for an outcome, and streams of what happens.
//!
//! A commit wakes whoever follows; should that get lost, the order is looked at again: every 100 ms by who waits, every second by a stream. So it
//! does not matter which process carries the order on.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use banyan_core::{Call, Fault, FaultKind};
use banyan_durable::{Change, changed};
use banyan_http::Stopping;
use futures::{Stream, stream};
use tokio::sync::broadcast::Receiver;
use uuid::Uuid;

use crate::{
    announce::subject,
    event::{OrderEvent, Recorded},
    service::Service,
    store,
    views::OrderView,
};

/// How often an order is looked at when nothing says that it changed.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The same for streams, which last long and are many.
const LOOK_AT_STREAM_EVERY: Duration = Duration::from_secs(1);

/// How many streams each user follows in this process, or how many requests of theirs wait.
#[derive(Clone, Debug)]
pub struct Streams {
    per_user: usize,
    open: Arc<Mutex<HashMap<Uuid, usize>>>,
}

/// One of a user's streams; given back when dropped.
#[derive(Debug)]
pub struct Seat {
    streams: Streams,
    user_id: Uuid,
}

impl Streams {
    pub fn new(per_user: usize) -> Self {
        Streams {
            per_user,
            open: Arc::default(),
        }
    }

    /// # Errors
    /// `too_many_streams` (429).
    pub fn take_seat(&self, user_id: Uuid) -> Result<Seat, Fault> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = open.entry(user_id).or_default();
        if *taken >= self.per_user {
            let detail = format!("At most {} streams at a time.", self.per_user);
            return Err(Fault::new(FaultKind::TooMany, "too_many_streams", detail).retry_after(Duration::from_secs(5)));
        }
        *taken += 1;
        Ok(Seat {
            streams: self.clone(),
            user_id,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = open.get_mut(&self.user_id) {
            *taken = taken.saturating_sub(1);
            if *taken == 0 {
                open.remove(&self.user_id);
            }
        }
    }
}

impl Service {
    /// The order as soon as `is_outcome` holds of it; as it then is when the wait is over or the server stops.
    ///
    /// # Errors
    /// `not_found`, as any query.
    pub async fn wait_for(
        &self,
        call: &Call,
        id: Uuid,
        wait: Duration,
        stopping: &Stopping,
        is_outcome: fn(&OrderView) -> bool,
    ) -> Result<OrderView, Fault> {
        let mut changes = self.db.changes();
        let topic = subject(id);
        let outcome = async {
            loop {
                let order = self.load(call, id).await?;
                if is_outcome(&order) {
                    return Ok(order);
                }
                // Either way the order is looked at again.
                let _ = tokio::time::timeout(LOOK_EVERY, changed(&mut changes, &topic)).await;
            }
        };
        tokio::select! {
            outcome = outcome => outcome,
            () = tokio::time::sleep(wait) => self.load(call, id).await,
            () = stopping.0.cancelled() => self.load(call, id).await,
        }
    }

    /// What happens to the order after `version`, until it is delivered or cancelled and all was told that happened until then.
    pub fn follow(
        self: Arc<Self>,
        id: Uuid,
        version: i64,
        seat: Seat,
    ) -> impl Stream<Item = Result<Recorded, Fault>> + 'static {
        let changes = self.db.changes();
        let following = Following {
            topic: subject(id),
            service: self,
            id,
            version,
            changes,
            ready: VecDeque::new(),
            is_final: None,
            failed: false,
            _seat: seat,
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
    topic: String,
    version: i64,
    changes: Receiver<Change>,
    ready: VecDeque<Recorded>,
    /// Whether the order is delivered or cancelled as far as it was told; not known before the first look.
    is_final: Option<bool>,
    failed: bool,
    _seat: Seat,
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
                let _ = tokio::time::timeout(LOOK_AT_STREAM_EVERY, changed(&mut self.changes, &self.topic)).await;
            }
        }
    }

    /// Asked before the events are, so that those that made the order final are found by then. A client may have seen them long ago, and
    /// others may have followed, such as a refund: the last event alone says nothing.
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
    fn a_user_has_so_many_streams_and_a_closed_one_makes_room() {
        let streams = Streams::new(2);
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let first = streams.take_seat(one).unwrap();
        let _second = streams.take_seat(one).unwrap();
        assert_eq!(streams.take_seat(one).unwrap_err().code, "too_many_streams");
        assert!(streams.take_seat(other).is_ok(), "the limit is each user's own");
        drop(first);
        assert!(streams.take_seat(one).is_ok());
    }
}
