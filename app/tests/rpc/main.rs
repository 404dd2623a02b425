//! Contracts over real sockets: a module at one end, its callers at the other.

mod cable;
mod calls;
mod refusals;
mod secure;
mod serving;
mod stock;

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use banyan::shop::{Contracts, SHOP};
use banyan_core::{Check, Checks};
use banyan_host::settings::Settings;
use banyan_remote::{
    balancing::BreakerState,
    discovery,
    grpc::{Callee, RemoteState, Remotes, Served, ServedModule, Serving, serve},
    mtls::Identity,
};
use inventory_contract::Inventory;
use tokio_util::sync::{CancellationToken, DropGuard};

use stock::Stock;

/// The timeout for calls that are under way at a stop.
const DRAIN: Duration = Duration::from_secs(25);

/// A process that serves inventory, until it is dropped.
struct Warehouse {
    address: SocketAddr,
    stock: Arc<Stock>,
    serving: Option<Serving>,
    stop: CancellationToken,
    _stop_at_end: DropGuard,
}

impl Warehouse {
    async fn open() -> Self {
        Warehouse::open_with("127.0.0.1:0", &[]).await.unwrap()
    }

    async fn open_with(listen: &str, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        // TLS of a test must find a provider chosen, as `main` chooses one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let variables = [variables, &[("BANYAN__RPC__LISTEN", listen)]].concat();
        let stop = CancellationToken::new();
        let stock = Arc::new(Stock::default());
        // The others are not here: they are asked nowhere.
        let mut contracts = Contracts::remote(&Shop::without_instances().remotes);
        contracts.inventory = stock.clone();
        let feeds = HashMap::from([(
            "inventory".to_owned(),
            stock.clone() as Arc<dyn banyan_event_feed_contract::EventFeed>,
        )]);
        let served = Served {
            modules: vec![served_module("inventory", contracts)],
            feeds,
        };
        let settings = settings(&variables);
        let identity = Identity::load(&settings.mtls)?;
        let serving = serve(&settings.rpc, served, identity.as_ref(), DRAIN, stop.clone())
            .await?
            .expect("rpc.listen is set");
        let _stop_at_end = stop.clone().drop_guard();
        Ok(Warehouse {
            address: serving.address,
            stock,
            serving: Some(serving),
            stop,
            _stop_at_end,
        })
    }

    /// Lets its health follow these checks.
    fn follow(&self, dependencies: Vec<Arc<dyn Check>>) {
        self.serving
            .as_ref()
            .expect("it is open")
            .follow(Checks::new(dependencies), self.stop.clone());
    }

    /// Stops as a process does, and waits for the end.
    async fn close(mut self) {
        self.stop.cancel();
        self.serving.take().expect("it is closed once").task.await.unwrap();
    }
}

/// A process that asks inventory.
struct Shop {
    remotes: Remotes,
    _stop_at_end: DropGuard,
}

impl Shop {
    fn without_instances() -> Self {
        Shop::with(&[])
    }

    fn asking(addresses: &[SocketAddr], variables: &[(&str, &str)]) -> Self {
        let endpoints: Vec<String> = addresses.iter().map(|address| format!("http://{address}")).collect();
        Shop::with(
            &[
                &[("BANYAN__MODULES__INVENTORY__ENDPOINT", &*endpoints.join(","))],
                variables,
            ]
            .concat(),
        )
    }

    fn with(variables: &[(&str, &str)]) -> Self {
        let stop = CancellationToken::new();
        let settings = settings(variables);
        let endpoints = settings.endpoints().unwrap();
        let discovery = discovery::start(&settings.discovery, endpoints, &stop).unwrap();
        let callees = SHOP.layout().modules.into_iter().map(|module| Callee {
            module: module.name,
            service: module.service,
            is_called: module.name == "inventory",
        });
        let remotes = Remotes::start(
            &settings.rpc,
            &callees.collect::<Vec<_>>(),
            &discovery,
            settings.discovery.probing(),
            Identity::load(&settings.mtls).unwrap().as_ref(),
            &stop,
        )
        .unwrap();
        Shop {
            remotes,
            _stop_at_end: stop.drop_guard(),
        }
    }

    fn inventory(&self) -> Arc<dyn Inventory> {
        Contracts::remote(&self.remotes).inventory
    }

    fn state(&self) -> RemoteState {
        self.remotes
            .states()
            .into_iter()
            .find(|state| state.module == "inventory")
            .unwrap()
    }
}

/// How a module of the shop is served, with these contracts.
fn served_module(name: &str, contracts: Contracts) -> ServedModule {
    let module = SHOP.modules.iter().find(|module| module.name == name).unwrap();
    let serve = module.contract.serve;
    ServedModule {
        name: module.name,
        descriptors: module.contract.descriptors,
        serve: Box::new(move |services| serve(&contracts, services)),
    }
}

fn settings(variables: &[(&str, &str)]) -> Settings {
    let given = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let mut settings = banyan::settings(None, given).unwrap();
    if settings.discovery.probe_every_ms >= 600_000 {
        // Where no further probe begins during a test, the first one does not end either.
        settings.discovery.timing.probe_timeout = Duration::from_secs(600);
    }
    settings
}

/// A place where nobody listens.
async fn nobody() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Waits until it holds; a test that waits ten seconds has failed.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}
