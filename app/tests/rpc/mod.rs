//! Contracts over real sockets: a module at one end, its callers at the other.

mod cable;
mod calls;
mod refusals;
mod secure;
mod serving;
mod stock;

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use tokio_util::sync::{CancellationToken, DropGuard};

use inventory_contract::Inventory;

use super::{contracts::service_of, *};
use crate::{
    config, discovery,
    health::{Check, Checks},
};
use stock::Stock;

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
        let mut contracts = Shop::without_instances().remotes.contracts();
        contracts.inventory = stock.clone();
        let feeds = HashMap::from([(
            "inventory".to_owned(),
            stock.clone() as Arc<dyn banyan_event_feed_contract::EventFeed>,
        )]);
        let served = Served {
            contracts,
            feeds,
            modules: vec!["inventory"],
        };
        let serving = serve(&settings(&variables), served, stop.clone())
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
            .follow(Arc::new(Checks::new(dependencies)), self.stop.clone());
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
        let discovery = discovery::start(&settings, &stop).unwrap();
        let remotes = Remotes::start(&settings, discovery, vec!["inventory"], &stop).unwrap();
        Shop {
            remotes,
            _stop_at_end: stop.drop_guard(),
        }
    }

    fn inventory(&self) -> Arc<dyn Inventory> {
        self.remotes.contracts().inventory
    }

    fn state(&self) -> RemoteState {
        self.remotes
            .states()
            .into_iter()
            .find(|state| state.module == "inventory")
            .unwrap()
    }
}

fn settings(variables: &[(&str, &str)]) -> config::Settings {
    config::Settings::from_sources(
        None,
        variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
    .unwrap()
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

#[test]
fn every_default_stands_in_the_file() {
    let settings = settings(&[]);
    assert_eq!(Settings::read(&settings).unwrap(), Settings::default());
    assert_eq!(
        settings.section::<crate::mtls::Settings>("mtls").unwrap(),
        crate::mtls::Settings::default()
    );
}

#[test]
fn a_limit_of_nothing_is_refused_with_its_key() {
    let error = |variable: &str, value: &str| Settings::read(&settings(&[(variable, value)])).unwrap_err().to_string();
    assert!(error("BANYAN__RPC__CONCURRENCY", "0").contains("rpc.concurrency"));
    assert!(error("BANYAN__RPC__BREAKER_FAILURE_RATE", "1.5").contains("rpc.breaker_failure_rate"));
}
