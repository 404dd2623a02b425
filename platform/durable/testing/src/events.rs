//! Events in tests: a bus that keeps what passes through it, and the envelope of an event.

use std::sync::Arc;

use async_trait::async_trait;
use banyan_core::{Bus, Clock, Envelope, Event, Fault, Subscriber, SystemClock};
use banyan_durable::Machinery;
use parking_lot::Mutex;
use serde::Serialize;
use uuid::Uuid;

/// A bus that confirms every event and delivers none: a test reads what was published, and delivers events itself.
#[derive(Default)]
pub struct RecordingBus {
    subscribers: Mutex<Vec<Arc<dyn Subscriber>>>,
    published: Mutex<Vec<Envelope>>,
}

impl RecordingBus {
    /// A bus to which a module has subscribed.
    ///
    /// # Panics
    /// If it cannot subscribe.
    pub async fn of(machinery: &Machinery) -> Arc<Self> {
        let bus = Arc::new(RecordingBus::default());
        let connected: Arc<dyn Bus> = bus.clone();
        machinery.connect(&connected).await.expect("the module subscribes");
        bus
    }

    /// Delivers an event to the module.
    ///
    /// # Errors
    /// As the module's: the event is neither handled nor stored to be retried.
    ///
    /// # Panics
    /// If the module subscribes to nothing.
    pub async fn deliver(&self, envelope: Envelope) -> Result<(), Fault> {
        let subscriber = self.subscribers.lock().first().cloned();
        subscriber.expect("the module subscribes").deliver(envelope).await
    }

    /// What was published so far.
    pub fn published(&self) -> Vec<Envelope> {
        self.published.lock().clone()
    }
}

#[async_trait]
impl Bus for RecordingBus {
    async fn publish(&self, envelope: &Envelope) -> Result<(), Fault> {
        self.published.lock().push(envelope.clone());
        Ok(())
    }

    async fn subscribe(&self, subscriber: Arc<dyn Subscriber>) -> Result<(), Fault> {
        self.subscribers.lock().push(subscriber);
        Ok(())
    }
}

/// The trace of [`envelope`]: the example of W3C Trace Context.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// An event as its module publishes it, now and with a trace. Its id follows from source, subject and version: delivered again, it is the same event.
///
/// # Panics
/// If the event is not JSON.
pub fn envelope<E: Event + Serialize>(source: &str, subject: &str, version: i64, event: &E) -> Envelope {
    Envelope {
        specversion: "1.0".to_owned(),
        id: Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{source}/{subject}/{version}").as_bytes()),
        source: source.to_owned(),
        kind: E::TYPE.to_owned(),
        subject: subject.to_owned(),
        time: SystemClock.now(),
        datacontenttype: "application/json".to_owned(),
        version,
        previousid: None,
        traceparent: Some(TRACEPARENT.to_owned()),
        data: serde_json::value::to_raw_value(event).expect("the event is JSON"),
    }
}
