//! How events leave a module and reach the others, whatever carries them.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{Envelope, Fault};

/// Carries events from the module where they became true to every module that listens.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Hands one event over. `Ok` means **confirmed**: every listening module has it durably (in process), or the
    /// broker has it in every bound queue. Anything else means "not known to be delivered": publish it again.
    async fn publish(&self, envelope: &Envelope) -> Result<(), Fault>;

    /// Adds a listening module. Called while the modules are wired, before anything is published.
    async fn subscribe(&self, subscriber: Arc<dyn Subscriber>) -> Result<(), Fault>;
}

/// The receiving end of a module.
#[async_trait]
pub trait Subscriber: Send + Sync {
    /// The listening module's name.
    fn module(&self) -> &str;

    /// What it listens to, as `<source module>.<aggregate>`, for example `orders.order`. A subscriber gets every
    /// event of such an aggregate, of interest or not, so that it sees every version.
    fn topics(&self) -> Vec<String>;

    /// Takes one event. `Ok` once the effect, or a durable note to retry it, is committed.
    async fn deliver(&self, envelope: Envelope) -> Result<(), Fault>;

    /// Takes a frame that cannot be read as an event. `Ok` once it is stored as a dead letter, for people to look at.
    async fn reject(&self, frame: &[u8], why: &Fault) -> Result<(), Fault>;

    /// Says that events may have been missed: the carrier was away, or its queues are new. The subscriber then asks the producers soon.
    fn catch_up(&self);
}
