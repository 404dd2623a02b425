//! Carries events from the module that publishes them to its subscribers: within this process, or through a broker.

mod in_process;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
mod settings;
mod state;
mod topology;

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use banyan_core::Bus;
use tokio_util::sync::CancellationToken;

pub use in_process::InProcessBus;
#[cfg(feature = "rabbitmq")]
pub use rabbitmq::RabbitBus;
pub use settings::{Limits, QueueType, Settings};
pub use state::{BusState, LinkState};
pub use topology::{Queue, Topology};

/// A bus that reports its state and shuts down in order.
#[async_trait]
pub trait Carrier: Bus {
    /// Whether events are delivered now, for health checks and operators.
    fn state(&self) -> BusState;

    /// Stops receiving, and returns when the events in progress are handled, or after a few seconds; those that are not handled by then are
    /// delivered again, to the next subscriber. After this the bus does not touch a module's database.
    async fn stop_receiving(&self) {}

    /// Stops publishing. Called when nothing publishes any more.
    async fn close(&self) {}
}

/// A module that subscribes, with the aggregates it subscribes to as `<module>.<aggregate>`.
pub type Subscription = (&'static str, &'static [&'static str]);

/// The bus that these settings describe: in process without `bus.url`, RabbitMQ with it. Events are received until `stop`; published ones are
/// accepted until the bus is closed or dropped, because the outboxes are emptied last. An unavailable broker does not prevent the start.
/// `subscriptions` are those of all modules, local and remote: a publisher also declares the queues of modules that have never run.
///
/// # Errors
/// An invalid setting of `[bus]`; a URL in a binary without the feature `rabbitmq`.
pub fn start(
    settings: Settings,
    subscriptions: &[Subscription],
    stop: &CancellationToken,
) -> anyhow::Result<Arc<dyn Carrier>> {
    if settings.url.is_none() {
        return Ok(Arc::new(InProcessBus::new()));
    }
    through_broker(settings, subscriptions, stop).context("a setting in [bus] is wrong")
}

#[cfg(feature = "rabbitmq")]
fn through_broker(
    settings: Settings,
    subscriptions: &[Subscription],
    stop: &CancellationToken,
) -> anyhow::Result<Arc<dyn Carrier>> {
    let topology = Topology::new(&settings, subscriptions);
    Ok(RabbitBus::start(settings, topology, stop)?)
}

#[cfg(not(feature = "rabbitmq"))]
fn through_broker(_: Settings, _: &[Subscription], _: &CancellationToken) -> anyhow::Result<Arc<dyn Carrier>> {
    anyhow::bail!(
        "bus.url is set, but this binary was built without the feature `rabbitmq`; build it with `--features rabbitmq`, or remove bus.url if every \
         module is in this process"
    )
}
