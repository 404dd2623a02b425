//! Everything outside this process that modules may ask.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use banyan_event_feed_contract::{EventFeed, RemoteEventFeed};
use catalog_contract::RemoteCatalog;
use inventory_contract::RemoteInventory;
use notifications_contract::RemoteNotifications;
use orders_contract::RemoteOrders;
use payments_contract::RemotePayments;
use shipping_contract::RemoteShipping;
use tokio::{sync::watch, time::interval};
use tokio_util::sync::CancellationToken;
use users_contract::RemoteUsers;

use super::{Contracts, Edge, RemoteState, Settings, contracts::service_of, instances::Instances};
use crate::{
    config::{self, MODULES},
    discovery::{self, Discovery, Interface, rotation::Rotation},
    mtls::Identity,
};

/// A breaker changes with the time alone, so how they are is written down so often.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// The ways to all modules. Only those that this process asks have instances, which are probed; a call to another one, which nobody makes, would
/// be answered that it is away.
#[derive(Clone)]
pub struct Remotes {
    edges: BTreeMap<&'static str, Edge>,
    asked: Vec<&'static str>,
}

impl Remotes {
    /// Must be called within a runtime; probes the instances of the modules that are `asked` until `stop`.
    ///
    /// # Errors
    /// A setting of `[rpc]`, `[discovery]` or `[mtls]` that is wrong; names the key.
    pub fn start(
        settings: &config::Settings,
        discovery: Arc<dyn Discovery>,
        asked: Vec<&'static str>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Remotes> {
        let own = Settings::read(settings)?;
        let probing: discovery::Settings = settings.section("discovery")?;
        let identity = Identity::load(settings)?;
        let edge = |module: &'static str| {
            let reach = Instances::new(service_of(module), identity.clone(), &own);
            let rotation = if asked.contains(&module) {
                let addresses = discovery.watch(module, Interface::Rpc);
                Rotation::start(reach, addresses, &probing, stop.clone()).measured_as(module, Interface::Rpc)
            } else {
                Rotation::start(reach, watch::channel(Vec::new()).1, &probing, stop.clone())
            };
            (module, Edge::new(module, rotation, &own))
        };
        let remotes = Remotes {
            edges: MODULES.into_iter().map(edge).collect(),
            asked,
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(remotes.clone().keep_measuring()));
        Ok(remotes)
    }

    /// Never ends.
    async fn keep_measuring(self) {
        let mut again = interval(MEASURE_EVERY);
        loop {
            again.tick().await;
            self.measure();
        }
    }

    pub(super) fn measure(&self) {
        self.asked_edges().for_each(Edge::measure);
    }

    /// Every module's contract, asked elsewhere. Whoever places modules puts those that are here in their place.
    pub fn contracts(&self) -> Contracts {
        Contracts {
            users: Arc::new(RemoteUsers::new(self.edge("users"))),
            catalog: Arc::new(RemoteCatalog::new(self.edge("catalog"))),
            inventory: Arc::new(RemoteInventory::new(self.edge("inventory"))),
            payments: Arc::new(RemotePayments::new(self.edge("payments"))),
            shipping: Arc::new(RemoteShipping::new(self.edge("shipping"))),
            orders: Arc::new(RemoteOrders::new(self.edge("orders"))),
            notifications: Arc::new(RemoteNotifications::new(self.edge("notifications"))),
        }
    }

    /// What a module tells about the events it keeps.
    pub fn feed(&self, module: &str) -> Arc<dyn EventFeed> {
        Arc::new(RemoteEventFeed::new(self.edge(module)))
    }

    /// How the ways to the modules that this process asks are.
    pub fn states(&self) -> Vec<RemoteState> {
        self.asked_edges().map(Edge::state).collect()
    }

    fn asked_edges(&self) -> impl Iterator<Item = &Edge> {
        self.edges
            .iter()
            .filter(|(module, _)| self.asked.contains(module))
            .map(|(_, edge)| edge)
    }

    /// # Panics
    /// If there is no such module: their names are compiled in.
    fn edge(&self, module: &str) -> Edge {
        self.edges[module].clone()
    }
}
