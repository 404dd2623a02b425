//! The event stream of an order: where it stands, and what is about to be added.

use banyan_core::{Fault, Timestamp};
use uuid::Uuid;

use crate::{
    event::{OrderEvent, Recorded},
    order::{Order, Progress},
    views::{OrderView, ReadModel},
};

/// The stream of one order: the state its events fold to, and the events to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventStream {
    order: Order,
    /// `None` for a cart.
    view: Option<OrderView>,
    begun_at: Timestamp,
    fresh: Vec<Recorded>,
    stored: Stored,
    now: Timestamp,
}

/// What is known to be in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    /// The view's row, of this version.
    View(i64),
    /// The events at most; the view may be missing.
    Events,
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
        let mut stream = EventStream::of(id, std::slice::from_ref(&first), now)?;
        stream.fresh.push(first);
        Ok(stream)
    }

    /// One that is stored, by its events.
    ///
    /// # Errors
    /// `internal` for a stream whose first event cannot be the first of an order.
    pub fn of(id: Uuid, recorded: &[Recorded], now: Timestamp) -> Result<Self, Fault> {
        let order = Order::fold(id, recorded)
            .ok_or_else(|| Fault::internal("broken_stream", format!("order {id} has no beginning")))?;
        Ok(EventStream {
            order,
            view: OrderView::fold(id, recorded),
            begun_at: recorded.first().map(|first| first.at).unwrap_or_default(),
            fresh: Vec::new(),
            stored: Stored::Events,
            now,
        })
    }

    /// That of a placed order, by what was folded from its events and stored.
    pub fn resume(view: OrderView, progress: Progress, now: Timestamp) -> Self {
        EventStream {
            order: Order::resume(&view, progress),
            begun_at: view.created_at,
            fresh: Vec::new(),
            stored: Stored::View(view.version),
            view: Some(view),
            now,
        }
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
        self.view = OrderView::after(self.view.take(), self.order.id, &recorded);
        self.fresh.push(recorded);
    }

    pub fn record_all(&mut self, events: impl IntoIterator<Item = OrderEvent>) {
        events.into_iter().for_each(|event| self.record(event));
    }

    /// The events to store.
    pub fn fresh(&self) -> &[Recorded] {
        &self.fresh
    }

    /// Whether an event to store turns a cart into an order.
    pub fn ends_cart(&self) -> bool {
        let places = |recorded: &Recorded| matches!(recorded.event, OrderEvent::Placed(_)) && recorded.version > 1;
        self.fresh.iter().any(places)
    }

    /// When its first event was recorded; for a placed order, when it was placed.
    pub fn begun_at(&self) -> Timestamp {
        self.begun_at
    }

    /// The read model of it; `None` for a cart.
    pub fn view(&self) -> Option<&OrderView> {
        self.view.as_ref()
    }

    /// What is to be stored beside the events; `None` for a cart.
    pub fn read_model(&self) -> Option<ReadModel> {
        Some(ReadModel {
            view: self.view.clone()?,
            progress: Some(self.order.progress()),
        })
    }

    /// The version of the view's row, if the stream was loaded by it.
    pub fn stored_view(&self) -> Option<i64> {
        match self.stored {
            Stored::View(version) => Some(version),
            Stored::Events => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::Canceller,
        order::tests::{placement, recorded},
    };

    /// Every event once; the order of things does not matter here, only that nothing is forgotten between a row and the rules.
    #[test]
    fn an_order_resumed_from_its_row_is_the_fold_of_its_events_after_each_of_them() {
        let (payment_id, shipment_id) = (Uuid::from_u128(2), Uuid::from_u128(3));
        let total = placement().total;
        let events = recorded([
            OrderEvent::Placed(Box::new(placement())),
            OrderEvent::PaymentDeclined {
                payment_id: Uuid::from_u128(1),
                code: "no".to_owned(),
            },
            OrderEvent::PaymentAuthorised { payment_id },
            OrderEvent::ShipmentScheduled { shipment_id },
            OrderEvent::CaptureDecided {},
            OrderEvent::PaymentCaptured { payment_id },
            OrderEvent::CancelRequested {
                by: Canceller::Customer,
                reason: None,
            },
            OrderEvent::Confirmed {},
            OrderEvent::ShipmentReady {},
            OrderEvent::Shipped {
                shipment_id,
                tracking_number: "T1".to_owned(),
            },
            OrderEvent::CancelRefused {},
            OrderEvent::Delivered {},
            OrderEvent::PaymentRefunded {
                payment_id,
                amount: total.clone(),
                refunded: total,
            },
            OrderEvent::ShipmentCancelled { shipment_id },
            OrderEvent::PaymentVoided { payment_id },
        ]);
        let (id, now) = (Uuid::from_u128(9), Timestamp::from_ms(7));
        for length in 1..=events.len() {
            let folded = EventStream::of(id, &events[..length], now).unwrap();
            let ReadModel { view, progress } = folded.read_model().unwrap();
            let stored = serde_json::to_string(&progress).unwrap();
            let resumed = EventStream::resume(view, serde_json::from_str(&stored).unwrap(), now);
            assert_eq!(resumed.order(), folded.order(), "{:?}", events[length - 1].event);
            assert_eq!(resumed.view(), folded.view());
        }
    }
}
