//! The orders that this process changed last, as it committed them.
//!
//! A checkout takes six decisions on an order within a second, and the events of payments and shipping come back meanwhile: each needs the order, and
//! this process wrote it just before. What is remembered may be out of date, because another process may have changed the order since. So it may serve
//! where that is found out: events are only appended to the version that is stored, and an attempt that lost a race gets nothing from here.

use std::{collections::HashMap, sync::Arc};

use banyan_durable::Tx;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{
    stream::EventStream,
    views::{OrderView, ReadModel},
};

/// The number of orders in a generation: more than are being checked out at a time.
const GENERATION: usize = 256;

/// Cheap to clone; clones share what they remember.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Generations>>);

/// When the young generation is full it becomes the old one, and the old one is forgotten.
#[derive(Default)]
struct Generations {
    young: HashMap<Uuid, Arc<ReadModel>>,
    old: HashMap<Uuid, Arc<ReadModel>>,
}

impl Memory {
    /// The order as this process last committed it. `None` if it did not, or if an earlier attempt of this transaction lost a race.
    pub fn recall(&self, tx: &Tx, id: Uuid) -> Option<EventStream> {
        let mut generations = self.0.lock();
        if tx.is_repeated() {
            generations.forget(id);
            return None;
        }
        let model = generations.find(id)?;
        let progress = model.progress.clone()?;
        Some(EventStream::resume(model.view.clone(), progress, tx.clock().now()))
    }

    /// The view of the order as this process last committed it. It may be out of date, but not before anything this process has done.
    pub fn view(&self, id: Uuid) -> Option<OrderView> {
        self.0.lock().find(id).map(|model| model.view.clone())
    }

    /// Remembers the order with its new events, once they are committed.
    pub fn remember(&self, tx: &Tx, stream: &EventStream) {
        if let Some(model) = stream.read_model() {
            let memory = self.clone();
            tx.after_commit(move || memory.0.lock().insert(model));
        }
    }
}

impl Generations {
    fn insert(&mut self, model: ReadModel) {
        let id = model.view.id;
        let is_older = |known: &Arc<ReadModel>| known.view.version > model.view.version;
        if self.young.get(&id).is_some_and(is_older) {
            return;
        }
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, Arc::new(model));
    }

    fn find(&self, id: Uuid) -> Option<&Arc<ReadModel>> {
        self.young.get(&id).or_else(|| self.old.get(&id))
    }

    fn forget(&mut self, id: Uuid) {
        self.young.remove(&id);
        self.old.remove(&id);
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

    #[test]
    fn the_oldest_orders_are_forgotten() {
        let mut generations = Generations::default();
        let placed = OrderEvent::Placed(Box::new(placement()));
        let model = |number| {
            let stream = EventStream::begin(Uuid::from_u128(number), placed.clone(), Timestamp::from_ms(7)).unwrap();
            stream.read_model().unwrap()
        };
        for number in 0..3 * GENERATION as u128 {
            generations.insert(model(number));
        }
        assert_eq!(generations.young.len() + generations.old.len(), 2 * GENERATION);
        assert!(generations.old.contains_key(&Uuid::from_u128(GENERATION as u128)));
    }
}
