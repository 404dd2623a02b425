//! The contracts over real sockets: a module at one end, its callers at the other.

mod calls;
mod proxy;
mod refusals;
mod secure;
mod serving;
mod stock;

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use banyan::shop::{Contracts, SHOP};
use banyan_core::{Actor, Check, Checks, Fault};
use banyan_host::settings::Settings;
use banyan_remote::{
    balancing::BreakerState,
    discovery,
    grpc::{Callee, RemoteState, Remotes, Served, ServedModule, Serving, TokenVerifier, serve},
    mtls::Identity,
};
use inventory_contract::Inventory;
use shared_kernel::Role;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use stock::Stock;

/// The timeout at a stop for calls in flight.
const DRAIN: Duration = Duration::from_secs(25);

/// A process that serves inventory, until it is dropped.
struct InventoryServer {
    address: SocketAddr,
    stock: Arc<Stock>,
    serving: Option<Serving>,
    stop: CancellationToken,
    _stop_at_end: DropGuard,
}

impl InventoryServer {
    async fn start() -> Self {
        InventoryServer::start_with("127.0.0.1:0", &[]).await.unwrap()
    }

    async fn start_with(listen: &str, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        // TLS in a test needs a default crypto provider, as `main` installs one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let variables = [variables, &[("BANYAN__RPC__LISTEN", listen)]].concat();
        let stop = CancellationToken::new();
        let stock = Arc::new(Stock::default());
        // The other modules are remote, and have no instances.
        let mut contracts = Contracts::remote(&Client::without_instances().remotes);
        contracts.inventory = stock.clone();
        let feeds = HashMap::from([(
            "inventory".to_owned(),
            stock.clone() as Arc<dyn banyan_event_feed_contract::EventFeed>,
        )]);
        let mut inventory = served_module("inventory", contracts);
        // Nobody does in the shop.
        inventory.callers.subscribers = vec!["orders"];
        let served = Served {
            modules: vec![inventory],
            feeds,
            tokens: Some(Arc::new(Tokens)),
        };
        let settings = settings(&variables);
        let identity = Identity::load(&settings.mtls)?;
        let serving = serve(&settings.rpc, served, identity.as_ref(), DRAIN, stop.clone())
            .await?
            .expect("rpc.listen is set");
        let _stop_at_end = stop.clone().drop_guard();
        Ok(InventoryServer {
            address: serving.address,
            stock,
            serving: Some(serving),
            stop,
            _stop_at_end,
        })
    }

    /// Makes its reported health follow these checks.
    fn follow(&self, dependencies: Vec<Arc<dyn Check>>) {
        self.serving
            .as_ref()
            .expect("it is running")
            .follow(Checks::new(dependencies), self.stop.clone());
    }

    /// Stops as a process does, and waits until it has ended.
    async fn stop(mut self) {
        self.stop.cancel();
        self.serving.take().expect("it is stopped once").task.await.unwrap();
    }
}

/// A process that calls inventory.
struct Client {
    remotes: Remotes,
    _stop_at_end: DropGuard,
}

impl Client {
    fn without_instances() -> Self {
        Client::with(&[])
    }

    fn calling(addresses: &[SocketAddr], variables: &[(&str, &str)]) -> Self {
        let endpoints: Vec<String> = addresses.iter().map(|address| format!("http://{address}")).collect();
        Client::with(
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
        Client {
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

/// The token that is valid in these tests, and the user that it proves.
const TOKEN: &str = "eyJ0b2tlbg.of.staff";

fn staff() -> Actor {
    Actor::user(Uuid::from_u128(7), [Role::Staff])
}

struct Tokens;

#[async_trait::async_trait]
impl TokenVerifier for Tokens {
    async fn verify(&self, token: &str) -> Result<Actor, Fault> {
        if token == TOKEN {
            Ok(staff())
        } else {
            Err(Fault::unauthenticated("invalid_token", "The access token has expired."))
        }
    }
}

/// A module of the shop as it is served, with these contracts.
fn served_module(name: &str, contracts: Contracts) -> ServedModule {
    let module = SHOP.modules.iter().find(|module| module.name == name).unwrap();
    let serve = module.contract.serve;
    ServedModule {
        name: module.name,
        descriptors: module.contract.descriptors,
        callers: SHOP.layout().may_call(module.name),
        serve: Box::new(move |services| serve(&contracts, services)),
    }
}

fn settings(variables: &[(&str, &str)]) -> Settings {
    let given = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let mut settings = banyan::settings(None, given).unwrap();
    if settings.discovery.probe_every_ms >= 600_000 {
        // Where no second probe begins during a test, the first one does not time out either.
        settings.discovery.timing.probe_timeout = Duration::from_secs(600);
    }
    settings
}

/// An address on which nothing listens.
async fn unused_address() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Waits until it holds; fails the test after ten seconds.
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
