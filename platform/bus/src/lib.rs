//! What carries events from the module they happened in to those that listen: this process, or a broker.

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

/// A bus that can say how it is, and that ends in order.
#[async_trait]
pub trait Carrier: Bus {
    /// Whether events get through now, for health and operators.
    fn state(&self) -> BusState;

    /// Receives nothing more, and returns when what was being handled is done, or after a few seconds; what is not done then comes again, to
    /// whoever listens next. After this nothing of the bus touches a module's database.
    async fn stop_receiving(&self) {}

    /// Ends publishing, when nobody publishes any more.
    async fn close(&self) {}
}

/// A module that subscribes, with the aggregates it subscribes to as `<module>.<aggregate>`.
pub type Subscription = (&'static str, &'static [&'static str]);

/// The bus that these settings describe: in process without `bus.url`, RabbitMQ with it. Events are received until `stop`; published ones are
/// taken until the bus is closed or dropped, because the outboxes are emptied last. An unavailable broker keeps nothing from starting.
/// `subscriptions` are those of all modules, wherever they run: whoever publishes declares the queues of modules that never ran.
///
/// # Errors
/// A setting of `[bus]` that is wrong; a URL in a binary without the feature `rabbitmq`.
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
