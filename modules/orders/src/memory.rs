//! The orders that this process changed last, as it committed them.
//!
//! A checkout takes six decisions on an order within a second, and the events of payments and shipping come back meanwhile: each needs the order, and
//! this process wrote it just before. That another process has changed it since is found out because events are only appended to the version that is
//! stored.

use banyan_durable::{Remembered, Tx, Versioned};
use uuid::Uuid;

use crate::{
    stream::EventStream,
    views::{OrderView, ReadModel},
};

/// Cheap to clone; clones share what they remember.
#[derive(Clone, Default)]
pub struct Memory(Remembered<ReadModel>);

impl Versioned for ReadModel {
    fn version(&self) -> i64 {
        self.view.version
    }
}

impl Memory {
    /// As [`Remembered::recall`].
    pub fn recall(&self, tx: &Tx, id: Uuid) -> Option<EventStream> {
        let model = self.0.recall(tx, id)?;
        let progress = model.progress.clone()?;
        Some(EventStream::resume(model.view.clone(), progress, tx.clock().now()))
    }

    /// As [`Remembered::last`].
    pub fn view(&self, id: Uuid) -> Option<OrderView> {
        self.0.last(id).map(|model| model.view.clone())
    }

    /// Remembers the order with its new events, once they are committed.
    pub fn remember(&self, tx: &Tx, stream: &EventStream) {
        if let Some(model) = stream.read_model() {
            self.0.remember(tx, stream.id(), model);
        }
    }
}

#[cfg(test)]
mod tests {
    use banyan_core::{Call, Fault, Timestamp};
    use banyan_durable::Db;
    use banyan_durable_testing::on_both;

    use super::*;
    use crate::{
        event::{Canceller, OrderEvent},
        order::tests::placement,
        publish::store_and_publish,
        store,
    };

    const ORDER: Uuid = Uuid::from_u128(9);

    async fn place(db: &Db, memory: &Memory) {
        let placed = db.write(memory.clone(), |tx, memory| async move {
            let placed = OrderEvent::Placed(Box::new(placement()));
            let stream = EventStream::begin(ORDER, placed, Timestamp::from_ms(7))?;
            store_and_publish(&tx, &Call::by_module("test"), &memory, &stream).await
        });
        placed.await.unwrap();
    }

    fn facts(stream: &EventStream) -> (i64, bool, bool) {
        let order = stream.order();
        (order.version, order.capture_decided, order.cancel_requested.is_some())
    }

    /// Adds an event to the remembered order, or to the stored one. Returns whether it was remembered in the attempt that was committed.
    async fn add(db: &Db, memory: &Memory, event: OrderEvent) -> bool {
        let added = db.write((memory.clone(), event), |tx, (memory, event)| async move {
            let remembered = memory.recall(&tx, ORDER);
            let was_remembered = remembered.is_some();
            let mut stream = match remembered {
                Some(stream) => stream,
                None => store::lock_stream(tx.conn(), ORDER, tx.clock().now())
                    .await?
                    .ok_or_else(|| Fault::not_found("order"))?,
            };
            stream.record(event);
            store_and_publish(&tx, &Call::by_module("test"), &memory, &stream).await?;
            Ok(was_remembered)
        });
        added.await.unwrap()
    }

    #[tokio::test]
    async fn an_order_that_another_process_has_changed_is_read_again() {
        on_both(crate::SCHEMA, |db| async move {
            let (one, other) = (Memory::default(), Memory::default());
            place(&db, &one).await;
            assert!(!add(&db, &other, OrderEvent::CaptureDecided {}).await);
            let request = OrderEvent::CancelRequested {
                by: Canceller::Customer,
                reason: None,
            };
            assert!(!add(&db, &one, request).await, "what it remembered was out of date");
            assert!(add(&db, &one, OrderEvent::Confirmed {}).await);
            let stored = store::find_stream(db.read(), ORDER, Timestamp::from_ms(8))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(facts(&stored), (4, true, true));
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_rolled_back_is_not_remembered() {
        on_both(crate::SCHEMA, |db| async move {
            let memory = Memory::default();
            place(&db, &memory).await;
            let failed: Result<(), Fault> = db
                .write(memory.clone(), |tx, memory| async move {
                    let mut stream = memory.recall(&tx, ORDER).expect("it was placed by this process");
                    stream.record(OrderEvent::CaptureDecided {});
                    store_and_publish(&tx, &Call::by_module("test"), &memory, &stream).await?;
                    Err(Fault::internal("test", "rolled back"))
                })
                .await;
            assert!(failed.is_err());
            let remembered = db.write(memory, |tx, memory| async move { Ok(memory.recall(&tx, ORDER)) });
            let remembered = remembered.await.unwrap().expect("it was placed by this process");
            assert_eq!(facts(&remembered), (1, false, false));
        })
        .await;
    }
}
