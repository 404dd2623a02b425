//! Carries events between the modules of one process.
//!
//! Invariant: nothing is stored here. Publishing is confirmed when every subscribed module has committed its reaction, or a record to retry it;
//! until then the event stays in its producer's outbox, which publishes it again.

use std::sync::Arc;

use async_trait::async_trait;
use banyan_core::{Bus, Envelope, Fault, Subscriber};
use futures::future::join_all;
use parking_lot::RwLock;

use super::{BusState, Carrier};

/// The bus of the all-in-one binary.
#[derive(Default)]
pub struct InProcessBus {
    subscribers: RwLock<Vec<Arc<dyn Subscriber>>>,
}

impl InProcessBus {
    pub fn new() -> Self {
        InProcessBus::default()
    }

    fn subscribers_of(&self, topic: &str) -> Vec<Arc<dyn Subscriber>> {
        let subscribers = self.subscribers.read();
        subscribers
            .iter()
            .filter(|subscriber| subscriber.topics().iter().any(|subscribed| subscribed == topic))
            .cloned()
            .collect()
    }
}

#[async_trait]
impl Bus for InProcessBus {
    /// Delivers to all subscribers concurrently. If one fails, the event is published to all of them again, and those that have it recognise it.
    async fn publish(&self, envelope: &Envelope) -> Result<(), Fault> {
        let subscribers = self.subscribers_of(&envelope.topic());
        let delivered = join_all(
            subscribers
                .iter()
                .map(|subscriber| subscriber.deliver(envelope.clone())),
        )
        .await;
        delivered.into_iter().collect()
    }

    /// A module has one subscriber: a later one replaces the earlier one.
    async fn subscribe(&self, subscriber: Arc<dyn Subscriber>) -> Result<(), Fault> {
        let mut subscribers = self.subscribers.write();
        subscribers.retain(|existing| existing.module() != subscriber.module());
        subscribers.push(subscriber);
        Ok(())
    }
}

#[async_trait]
impl Carrier for InProcessBus {
    fn state(&self) -> BusState {
        BusState::in_process()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use banyan_core::Timestamp;
    use serde_json::value::to_raw_value;
    use uuid::Uuid;

    use super::*;

    /// Counts the events of `orders.order` that it receives; refuses them while `down`.
    struct RecordingSubscriber {
        module: &'static str,
        received: AtomicUsize,
        down: AtomicBool,
    }

    impl RecordingSubscriber {
        fn new(module: &'static str) -> Arc<Self> {
            Arc::new(RecordingSubscriber {
                module,
                received: AtomicUsize::new(0),
                down: AtomicBool::new(false),
            })
        }
    }

    #[async_trait]
    impl Subscriber for RecordingSubscriber {
        fn module(&self) -> &str {
            self.module
        }

        fn topics(&self) -> Vec<String> {
            vec!["orders.order".to_owned()]
        }

        async fn deliver(&self, _: Envelope) -> Result<(), Fault> {
            if self.down.load(Ordering::SeqCst) {
                return Err(Fault::unavailable("down"));
            }
            self.received.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        async fn reject(&self, _: &[u8], _: &Fault) -> Result<(), Fault> {
            Ok(())
        }

        fn catch_up(&self) {}
    }

    fn event(subject: &str) -> Envelope {
        Envelope {
            specversion: "1.0".to_owned(),
            id: Uuid::nil(),
            source: "orders".to_owned(),
            kind: "banyan.orders.v1.OrderPlaced".to_owned(),
            subject: subject.to_owned(),
            time: Timestamp::from_ms(0),
            datacontenttype: "application/json".to_owned(),
            version: 1,
            previousid: None,
            traceparent: None,
            data: to_raw_value(&()).unwrap(),
        }
    }

    #[tokio::test]
    async fn an_event_is_confirmed_only_when_every_subscriber_has_it() {
        let (bus, shipping, mails) = (
            InProcessBus::new(),
            RecordingSubscriber::new("shipping"),
            RecordingSubscriber::new("notifications"),
        );
        bus.subscribe(shipping.clone()).await.unwrap();
        bus.subscribe(mails.clone()).await.unwrap();
        mails.down.store(true, Ordering::SeqCst);
        assert!(bus.publish(&event("order/1")).await.is_err());
        assert_eq!(
            shipping.received.load(Ordering::SeqCst),
            1,
            "a subscriber that is down does not hold back the others"
        );
        mails.down.store(false, Ordering::SeqCst);
        assert!(bus.publish(&event("order/1")).await.is_ok());
        assert_eq!(mails.received.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_module_receives_the_aggregates_it_subscribes_to_and_each_event_once() {
        let (bus, first, second) = (
            InProcessBus::new(),
            RecordingSubscriber::new("shipping"),
            RecordingSubscriber::new("shipping"),
        );
        bus.subscribe(first.clone()).await.unwrap();
        bus.subscribe(second.clone()).await.unwrap();
        bus.publish(&event("cart/1")).await.unwrap();
        bus.publish(&event("order/1")).await.unwrap();
        assert_eq!(
            (
                first.received.load(Ordering::SeqCst),
                second.received.load(Ordering::SeqCst)
            ),
            (0, 1)
        );
    }
}
