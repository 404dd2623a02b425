//! How events get from the module that publishes them to the modules that subscribe to them, whatever the transport.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{Envelope, Fault};

/// Carries events from the module that publishes them to every module that subscribes to them.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Publishes one event. `Ok` means **confirmed**: every subscribed module has stored it (in process), or the broker has stored it in every bound
    /// queue. After an error the event may or may not have been delivered: publish it again.
    async fn publish(&self, envelope: &Envelope) -> Result<(), Fault>;

    /// Adds a subscribed module. Called while the modules are wired, before anything is published.
    async fn subscribe(&self, subscriber: Arc<dyn Subscriber>) -> Result<(), Fault>;
}

/// The receiving end of a module.
#[async_trait]
pub trait Subscriber: Send + Sync {
    /// The subscribed module's name.
    fn module(&self) -> &str;

    /// The topics it subscribes to, as `<source module>.<aggregate>`, for example `orders.order`. A subscriber receives every event of such an
    /// aggregate, also those it has no reaction to, so that it sees every version.
    fn topics(&self) -> Vec<String>;

    /// Takes one event. `Ok` once its effect, or a record to retry it, is committed.
    async fn deliver(&self, envelope: Envelope) -> Result<(), Fault>;

    /// Takes a frame that cannot be decoded as an event. `Ok` once it is stored as a dead letter, for an operator to look at.
    async fn reject(&self, frame: &[u8], why: &Fault) -> Result<(), Fault>;

    /// Says that events may have been missed: the transport was unavailable, or its queues are new. The subscriber then compares with the producers'
    /// feeds soon.
    fn catch_up(&self);
}
