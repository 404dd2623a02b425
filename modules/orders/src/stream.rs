//! An order's stream while it is being decided upon: what was recorded, and what is about to be.

use banyan_core::{Fault, Timestamp};
use uuid::Uuid;

use crate::{
    event::{OrderEvent, Recorded},
    order::Order,
    views::OrderView,
};

/// The events of one order, with the state they fold to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    order: Order,
    recorded: Vec<Recorded>,
    /// So many of them are in the table.
    stored: usize,
    now: Timestamp,
}

impl Stream {
    /// A new order's, from its first event.
    ///
    /// # Errors
    /// `internal` for an event that begins no order.
    pub fn begin(id: Uuid, first: OrderEvent, now: Timestamp) -> Result<Self, Fault> {
        let first = Recorded {
            version: 1,
            at: now,
            event: first,
        };
        let mut stream = Stream::of(id, vec![first], now)?;
        stream.stored = 0;
        Ok(stream)
    }

    /// A stored one.
    ///
    /// # Errors
    /// `internal` for a stream that begins no order.
    pub fn of(id: Uuid, recorded: Vec<Recorded>, now: Timestamp) -> Result<Self, Fault> {
        let order = Order::fold(id, &recorded)
            .ok_or_else(|| Fault::internal("broken_stream", format!("order {id} has no beginning")))?;
        Ok(Stream {
            order,
            stored: recorded.len(),
            recorded,
            now,
        })
    }

    pub fn order(&self) -> &Order {
        &self.order
    }

    pub fn id(&self) -> Uuid {
        self.order.id
    }

    /// Adds what happens now.
    pub fn record(&mut self, event: OrderEvent) {
        let recorded = Recorded {
            version: self.order.version + 1,
            at: self.now,
            event,
        };
        self.order.apply(&recorded);
        self.recorded.push(recorded);
    }

    pub fn record_all(&mut self, events: impl IntoIterator<Item = OrderEvent>) {
        events.into_iter().for_each(|event| self.record(event));
    }

    /// What has to be stored.
    pub fn fresh(&self) -> &[Recorded] {
        &self.recorded[self.stored..]
    }

    /// When its first event was recorded.
    pub fn begun_at(&self) -> Timestamp {
        self.recorded.first().map(|first| first.at).unwrap_or_default()
    }

    /// The read model of it; `None` for a cart.
    pub fn view(&self) -> Option<OrderView> {
        OrderView::fold(self.order.id, &self.recorded)
    }
}
