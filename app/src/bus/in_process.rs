//! Carries events between the modules of one process.
//!
//! Invariant: nothing is kept here. Publishing is confirmed when every listening module has committed its reaction, or a note to retry it; until
//! then the event stands in its producer's outbox, which publishes it again.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use banyan_core::{Bus, Envelope, Fault, Subscriber};
use futures::future::join_all;

use super::{BusState, Carrier};

/// The bus of the all-in-one binary.
#[derive(Default)]
pub struct InProcessBus {
    listeners: RwLock<Vec<Arc<dyn Subscriber>>>,
}

impl InProcessBus {
    pub fn new() -> Self {
        InProcessBus::default()
    }

    fn listening_to(&self, topic: &str) -> Vec<Arc<dyn Subscriber>> {
        let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
        listeners
            .iter()
            .filter(|listener| listener.topics().iter().any(|listened| listened == topic))
            .cloned()
            .collect()
    }
}

#[async_trait]
impl Bus for InProcessBus {
    /// All listeners at the same time. Should one fail, the event comes again to all of them, and those that have it recognise it.
    async fn publish(&self, envelope: &Envelope) -> Result<(), Fault> {
        let listening = self.listening_to(&envelope.topic());
        let delivered = join_all(listening.iter().map(|listener| listener.deliver(envelope.clone()))).await;
        delivered.into_iter().collect()
    }

    /// A module listens once: a later listener of the same module takes the place of the earlier one.
    async fn subscribe(&self, listener: Arc<dyn Subscriber>) -> Result<(), Fault> {
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|there| there.module() != listener.module());
        listeners.push(listener);
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

    /// Counts what it hears of `orders.order`; refuses it while `down`.
    struct Ear {
        module: &'static str,
        heard: AtomicUsize,
        down: AtomicBool,
    }

    impl Ear {
        fn new(module: &'static str) -> Arc<Self> {
            Arc::new(Ear {
                module,
                heard: AtomicUsize::new(0),
                down: AtomicBool::new(false),
            })
        }
    }

    #[async_trait]
    impl Subscriber for Ear {
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
            self.heard.fetch_add(1, Ordering::SeqCst);
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
            traceparent: None,
            data: to_raw_value(&()).unwrap(),
        }
    }

    #[tokio::test]
    async fn an_event_is_confirmed_only_when_every_listener_has_it() {
        let (bus, shipping, mails) = (InProcessBus::new(), Ear::new("shipping"), Ear::new("notifications"));
        bus.subscribe(shipping.clone()).await.unwrap();
        bus.subscribe(mails.clone()).await.unwrap();
        mails.down.store(true, Ordering::SeqCst);
        assert!(bus.publish(&event("order/1")).await.is_err());
        assert_eq!(
            shipping.heard.load(Ordering::SeqCst),
            1,
            "one that is down holds back no other"
        );
        mails.down.store(false, Ordering::SeqCst);
        assert!(bus.publish(&event("order/1")).await.is_ok());
        assert_eq!(mails.heard.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_module_hears_the_aggregates_it_listens_to_and_each_once() {
        let (bus, first, second) = (InProcessBus::new(), Ear::new("shipping"), Ear::new("shipping"));
        bus.subscribe(first.clone()).await.unwrap();
        bus.subscribe(second.clone()).await.unwrap();
        bus.publish(&event("cart/1")).await.unwrap();
        bus.publish(&event("order/1")).await.unwrap();
        assert_eq!(
            (first.heard.load(Ordering::SeqCst), second.heard.load(Ordering::SeqCst)),
            (0, 1)
        );
    }
}
