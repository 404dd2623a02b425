//! The event stream of an order: what was recorded, and what is about to be.

use banyan_core::{Fault, Timestamp};
use uuid::Uuid;

use crate::{
    event::{OrderEvent, Recorded},
    order::Order,
    views::OrderView,
};

/// The events of one order, with the state they fold to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventStream {
    order: Order,
    recorded: Vec<Recorded>,
    /// How many of them are in the table.
    stored: usize,
    now: Timestamp,
}

impl EventStream {
    /// That of a new order, from its first event.
    ///
    /// # Errors
    /// `internal` for an event that cannot be the first of an order.
    pub fn begin(id: Uuid, first: OrderEvent, now: Timestamp) -> Result<Self, Fault> {
        let first = Recorded {
            version: 1,
            at: now,
            event: first,
        };
        let mut stream = EventStream::of(id, vec![first], now)?;
        stream.stored = 0;
        Ok(stream)
    }

    /// One that is stored.
    ///
    /// # Errors
    /// `internal` for a stream whose first event cannot be the first of an order.
    pub fn of(id: Uuid, recorded: Vec<Recorded>, now: Timestamp) -> Result<Self, Fault> {
        let order = Order::fold(id, &recorded)
            .ok_or_else(|| Fault::internal("broken_stream", format!("order {id} has no beginning")))?;
        Ok(EventStream {
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

    /// Adds an event that happens now.
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

    /// The events to store.
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
