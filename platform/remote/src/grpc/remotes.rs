//! The channels to all remote modules.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use banyan_event_feed_contract::{EventFeed, RemoteEventFeed};
use tokio::{sync::watch, time::interval};
use tokio_util::sync::CancellationToken;

use super::{ModuleChannel, RemoteState, Settings, connector::GrpcConnector};
use crate::{
    balancing::Balancer,
    discovery::{Discovery, Interface, Probing},
    mtls::Identity,
};

/// The interval between two measurements of the breakers' states, which change with time alone.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);

/// A module as its callers know it.
#[derive(Clone, Copy, Debug)]
pub struct Callee {
    pub module: &'static str,
    /// The full name of its service.
    pub service: &'static str,
    /// Whether this process calls it remotely: only then its instances are probed.
    pub is_called: bool,
}

/// The channels to all modules. Only those that this process calls have instances; a call to another one, which nothing makes, would fail as
/// unavailable.
#[derive(Clone)]
pub struct Remotes {
    channels: BTreeMap<&'static str, ModuleChannel>,
    called: Vec<&'static str>,
}

impl Remotes {
    /// Must be called within a runtime; probes the instances of the modules that are called until `stop`.
    ///
    /// # Errors
    /// An invalid setting of `[rpc]`; names the key.
    pub fn start(
        settings: &Settings,
        callees: &[Callee],
        discovery: &Arc<dyn Discovery>,
        probing: Probing,
        identity: Option<&Identity>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Remotes> {
        settings.check()?;
        let channel = |callee: &Callee| {
            let connector = GrpcConnector::new(callee.service, identity.cloned(), settings);
            let balancer = if callee.is_called {
                let addresses = discovery.watch(callee.module, Interface::Rpc);
                Balancer::start(connector, addresses, probing, stop.clone()).measured_as(callee.module, Interface::Rpc)
            } else {
                Balancer::start(connector, watch::channel(Vec::new()).1, probing, stop.clone())
            };
            (callee.module, ModuleChannel::new(callee.module, balancer, settings))
        };
        let called = callees.iter().filter(|callee| callee.is_called);
        let remotes = Remotes {
            channels: callees.iter().map(channel).collect(),
            called: called.map(|callee| callee.module).collect(),
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(remotes.clone().keep_measuring()));
        Ok(remotes)
    }

    /// Never ends.
    async fn keep_measuring(self) {
        let mut ticks = interval(MEASURE_INTERVAL);
        loop {
            ticks.tick().await;
            self.measure();
        }
    }

    /// Records the states of the breakers.
    pub fn measure(&self) {
        self.called_channels().for_each(ModuleChannel::measure);
    }

    /// The channel to a module, for its contract's remote client.
    ///
    /// # Panics
    /// If there is no such module: their names are compiled in.
    pub fn channel(&self, module: &str) -> ModuleChannel {
        self.channels[module].clone()
    }

    /// The events that a module keeps.
    pub fn feed(&self, module: &str) -> Arc<dyn EventFeed> {
        Arc::new(RemoteEventFeed::new(self.channel(module)))
    }

    /// The states of the modules that this process calls.
    pub fn states(&self) -> Vec<RemoteState> {
        self.called_channels().map(ModuleChannel::state).collect()
    }

    fn called_channels(&self) -> impl Iterator<Item = &ModuleChannel> {
        let called = self.channels.iter().filter(|(module, _)| self.called.contains(module));
        called.map(|(_, channel)| channel)
    }
}
