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

use crate::{config, local};

pub use in_process::InProcessBus;
#[cfg(feature = "rabbitmq")]
pub use rabbitmq::RabbitBus;
pub use settings::{QueueType, Settings};
pub use state::{BusState, LinkState};
pub use topology::{LISTENERS, Queue, Topology};

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

/// The bus these settings ask for: in process without `bus.url`, RabbitMQ with it. Events are received until `stop`; published ones are taken
/// until the bus is closed or dropped, because the outboxes are emptied last. A broker that is away keeps nothing from starting.
///
/// # Errors
/// A setting of `[bus]` that is wrong; a URL in a binary without the feature `rabbitmq`.
pub async fn start(settings: &config::Settings, stop: &CancellationToken) -> anyhow::Result<Arc<dyn Carrier>> {
    let own: Settings = settings.section("bus")?;
    // An edge without modules tells and hears nothing; that its settings are shared with others is no reason to need a broker.
    if own.url.is_none() || local::modules().is_empty() {
        return Ok(Arc::new(InProcessBus::new()));
    }
    through_broker(own, stop).context("a setting in [bus] is wrong")
}

#[cfg(feature = "rabbitmq")]
fn through_broker(settings: Settings, stop: &CancellationToken) -> anyhow::Result<Arc<dyn Carrier>> {
    let topology = Topology::of_the_shop(&settings);
    Ok(RabbitBus::start(settings, topology, stop)?)
}

#[cfg(not(feature = "rabbitmq"))]
fn through_broker(_: Settings, _: &CancellationToken) -> anyhow::Result<Arc<dyn Carrier>> {
    anyhow::bail!(
        "bus.url is set, but this binary was built without the feature `rabbitmq`; build it with `--features rabbitmq`, or remove bus.url if every \
         module is in this process"
    )
}
