//! Carries events through RabbitMQ.
//!
//! Invariants: the broker is transport, never memory; an event counts as published only when the broker has confirmed it and not returned it; after
//! a lost connection nothing is assumed, everything is declared, published and received again. lapin's own recovery is off: it has no timeout.

mod connection;
mod consuming;
mod declaring;
mod publishing;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use banyan_core::{Bus, Envelope, Fault, Subscriber};
use futures::future::join_all;
use parking_lot::{Mutex, MutexGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{BusState, Carrier, Settings, Topology};
use connection::{Broker, Link};
use consuming::Consuming;
use publishing::Publishing;

/// The bus between processes.
pub struct RabbitBus {
    settings: Settings,
    topology: Arc<Topology>,
    broker: Arc<Broker>,
    publishing: Arc<Publishing>,
    receivers: Arc<Receivers>,
    /// Stops receiving.
    stop: CancellationToken,
    receiving: Mutex<Vec<JoinHandle<()>>>,
    /// Stops publishing.
    closing: CancellationToken,
    /// The same, when the bus is dropped.
    _dropped: DropGuard,
}

/// The subscribed modules of this process.
#[derive(Default)]
pub(super) struct Receivers(Mutex<BTreeMap<String, Receiver>>);

struct Receiver {
    subscriber: Arc<dyn Subscriber>,
    link: Arc<Link>,
    stop: CancellationToken,
}

impl RabbitBus {
    /// Starts connecting, and retries until the broker is available.
    ///
    /// # Errors
    /// An invalid URL, a CA file that cannot be read, an invalid number.
    pub fn start(settings: Settings, topology: Topology, stop: &CancellationToken) -> anyhow::Result<Arc<RabbitBus>> {
        let broker = Arc::new(Broker::from_settings(&settings)?);
        let topology = Arc::new(topology);
        let receivers = Arc::new(Receivers::default());
        let closing = CancellationToken::new();
        let publishing = Publishing::start(
            &settings,
            broker.clone(),
            topology.clone(),
            receivers.clone(),
            closing.clone(),
        );
        let (stop, receiving, dropped) = (stop.child_token(), Mutex::default(), closing.clone().drop_guard());
        Ok(Arc::new(RabbitBus {
            settings,
            topology,
            broker,
            publishing,
            receivers,
            stop,
            receiving,
            closing,
            _dropped: dropped,
        }))
    }
}

#[async_trait]
impl Bus for RabbitBus {
    async fn publish(&self, envelope: &Envelope) -> Result<(), Fault> {
        self.publishing.publish(envelope).await
    }

    /// A module has one subscriber: a later one replaces the earlier one.
    async fn subscribe(&self, subscriber: Arc<dyn Subscriber>) -> Result<(), Fault> {
        let module = subscriber.module().to_owned();
        let topics = subscriber.topics();
        if topics.is_empty() {
            return Ok(());
        }
        let Some(queue) = self
            .topology
            .queue_of(&module)
            .filter(|queue| same(&queue.topics, &topics))
            .cloned()
        else {
            let known = self
                .topology
                .queue_of(&module)
                .map(|queue| queue.topics.join(", "))
                .unwrap_or_default();
            return Err(Fault::internal(
                "unknown_listener",
                format!(
                    "{module} subscribes to {}, but is registered with [{known}] under `subscribes`; its queue would miss events",
                    topics.join(", ")
                ),
            ));
        };
        let link = Arc::new(Link::new(&module, self.broker.clone()));
        let stop = self.stop.child_token();
        let consuming = Consuming {
            settings: self.settings.clone(),
            topology: self.topology.clone(),
            queue,
            subscriber: subscriber.clone(),
        };
        self.receivers.put(
            module,
            Receiver {
                subscriber,
                link: link.clone(),
                stop: stop.clone(),
            },
        );
        let receiving = tokio::spawn(async move { link.keep_connected(&consuming, stop).await });
        self.receiving.lock().push(receiving);
        Ok(())
    }
}

#[async_trait]
impl Carrier for RabbitBus {
    fn state(&self) -> BusState {
        let publishing = std::iter::once(self.publishing.state());
        let links = publishing
            .chain(self.receivers.lock().values().map(|receiver| receiver.link.state()))
            .collect();
        BusState {
            kind: "rabbitmq".to_owned(),
            links,
        }
    }

    async fn stop_receiving(&self) {
        self.stop.cancel();
        let receiving = std::mem::take(&mut *self.receiving.lock());
        join_all(receiving).await;
    }

    async fn close(&self) {
        self.closing.cancel();
        self.publishing.ended().await;
    }
}

impl Receivers {
    fn put(&self, module: String, receiver: Receiver) {
        if let Some(earlier) = self.lock().insert(module, receiver) {
            earlier.stop.cancel();
        }
    }

    /// The topology was incomplete: events that others published meanwhile may not have reached these modules.
    fn catch_up(&self) {
        self.lock().values().for_each(|receiver| receiver.subscriber.catch_up());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Receiver>> {
        self.0.lock()
    }
}

fn same(one: &[String], other: &[String]) -> bool {
    one.len() == other.len() && one.iter().all(|topic| other.contains(topic))
}
