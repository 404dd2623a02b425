//! `dns`: the endpoints are names, and each address of a name is an instance.
//!
//! Names are looked up again and again. A lookup that fails, or that finds nothing, changes nothing: the name server may be unavailable while
//! the instances are healthy, and unhealthy ones leave the rotation by themselves.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Address, Discovery, Endpoints, Instance, Interface, publish};

/// Looks up names.
#[async_trait]
pub trait Lookup: Send + Sync {
    async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<IpAddr>>;
}

/// As the operating system does it.
pub struct System;

#[async_trait]
impl Lookup for System {
    async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, port))
            .await?
            .map(|address| address.ip())
            .collect())
    }
}

/// The lookups that already run.
type Watched = HashMap<(String, Interface), watch::Receiver<Vec<Address>>>;

pub struct Dns {
    endpoints: Endpoints,
    lookup: Arc<dyn Lookup>,
    refresh: Duration,
    stop: CancellationToken,
    watched: Mutex<Watched>,
}

impl Dns {
    pub fn new(endpoints: Endpoints, lookup: Arc<dyn Lookup>, refresh: Duration, stop: &CancellationToken) -> Dns {
        Dns {
            endpoints,
            lookup,
            refresh,
            stop: stop.clone(),
            watched: Mutex::default(),
        }
    }

    fn start(&self, module: &str, interface: Interface) -> watch::Receiver<Vec<Address>> {
        let (publisher, receiver) = watch::channel(Vec::new());
        let named = self
            .endpoints
            .get(&(module.to_owned(), interface))
            .cloned()
            .unwrap_or_default();
        if !named.is_empty() {
            let names = Names {
                module: module.to_owned(),
                interface,
                found: named.into_iter().map(Name::new).collect(),
                lookup: self.lookup.clone(),
                refresh: self.refresh,
            };
            let stop = self.stop.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = names.run(publisher) => {}
                }
            });
        }
        receiver
    }
}

#[async_trait]
impl Discovery for Dns {
    fn watch(&self, module: &str, interface: Interface) -> watch::Receiver<Vec<Address>> {
        let mut watched = self.watched.lock();
        watched
            .entry((module.to_owned(), interface))
            .or_insert_with(|| self.start(module, interface))
            .clone()
    }

    async fn register(&self, _: Instance, _: CancellationToken) -> anyhow::Result<()> {
        Ok(())
    }
}

/// The names under which one module is found.
struct Names {
    module: String,
    interface: Interface,
    found: Vec<Name>,
    lookup: Arc<dyn Lookup>,
    refresh: Duration,
}

/// One name, with the result of its last successful lookup.
struct Name {
    name: Address,
    found: Vec<Address>,
    /// Why the last lookup failed, if it did.
    failure: Option<String>,
}

impl Name {
    fn new(name: Address) -> Name {
        Name {
            name,
            found: Vec::new(),
            failure: None,
        }
    }

    /// Returns whether this is to be logged: that lookups fail, why they do, or that they succeed again.
    fn apply(&mut self, result: Result<Vec<Address>, String>) -> bool {
        let failure = match result {
            Ok(addresses) => {
                self.found = addresses;
                None
            }
            Err(why) => Some(why),
        };
        let changed = failure != self.failure;
        self.failure = failure;
        changed
    }
}

impl Names {
    /// Never ends.
    async fn run(mut self, publisher: watch::Sender<Vec<Address>>) {
        loop {
            let results = futures::future::join_all(self.found.iter().map(|name| self.look_up(&name.name))).await;
            for (name, result) in self.found.iter_mut().zip(results) {
                let changed = name.apply(result);
                let (host, known) = (name.name.host(), name.found.len());
                match &name.failure {
                    Some(why) if changed => warn!(
                        module = self.module,
                        name = host,
                        known,
                        "lookups fail; the known instances stay in use: {why}"
                    ),
                    None if changed => info!(module = self.module, name = host, known, "lookups succeed again"),
                    _ => {}
                }
            }
            let all: BTreeSet<Address> = self.found.iter().flat_map(|name| &name.found).cloned().collect();
            publish(&publisher, &self.module, self.interface, all.into_iter().collect());
            // A name that was never found is looked up at a shorter interval.
            let never = self.found.iter().any(|name| name.found.is_empty());
            sleep(if never { self.refresh / 10 } else { self.refresh }).await;
        }
    }

    async fn look_up(&self, name: &Address) -> Result<Vec<Address>, String> {
        if name.host().parse::<IpAddr>().is_ok() {
            return Ok(vec![name.clone()]);
        }
        match timeout(self.refresh, self.lookup.look_up(name.host(), name.port())).await {
            Ok(Ok(ips)) if ips.is_empty() => Err("it has no addresses".to_owned()),
            Ok(Ok(ips)) => Ok(ips.into_iter().map(|ip| name.at(ip)).collect()),
            Ok(Err(why)) => Err(why.to_string()),
            Err(_) => Err(format!("no response within {} ms", self.refresh.as_millis())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A name server in memory: an unknown name is an error.
    #[derive(Default)]
    struct InMemory(Mutex<BTreeMap<String, Vec<IpAddr>>>);

    impl InMemory {
        fn set(&self, host: &str, ips: &[&str]) {
            let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
            self.0.lock().insert(host.to_owned(), ips);
        }
    }

    #[async_trait]
    impl Lookup for InMemory {
        async fn look_up(&self, host: &str, _: u16) -> io::Result<Vec<IpAddr>> {
            self.0
                .lock()
                .get(host)
                .cloned()
                .ok_or_else(|| io::Error::other("no such name"))
        }
    }

    fn dns(endpoints: &[&str], lookup: Arc<dyn Lookup>, stop: &CancellationToken) -> Dns {
        let addresses = endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
        let endpoints = Endpoints::from([(("users".to_owned(), Interface::Rpc), addresses)]);
        Dns::new(endpoints, lookup, Duration::from_millis(20), stop)
    }

    async fn until(receiver: &mut watch::Receiver<Vec<Address>>, expected: &[&str]) {
        let is_expected = |known: &Vec<Address>| {
            known
                .iter()
                .map(ToString::to_string)
                .eq(expected.iter().map(ToString::to_string))
        };
        let found = timeout(Duration::from_secs(5), receiver.wait_for(is_expected))
            .await
            .is_ok();
        assert!(found, "{:?} instead of {expected:?}", receiver.borrow());
    }

    #[test]
    fn a_lookup_that_fails_as_before_is_not_logged_again() {
        let mut name = Name::new("http://users.internal:9000".parse().unwrap());
        let (unknown, silent) = (|| Err("no such name".to_owned()), || Err("no response".to_owned()));
        let found = || Ok(vec!["http://10.0.0.1:9000".parse().unwrap()]);
        let results = [
            unknown(),
            unknown(),
            unknown(),
            silent(),
            found(),
            found(),
            unknown(),
            unknown(),
        ];
        let changed: Vec<bool> = results.into_iter().map(|result| name.apply(result)).collect();
        assert_eq!(changed, [true, false, false, true, true, false, true, false]);
        assert_eq!(name.found, found().unwrap(), "what was found once stays");
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_an_instance_and_changes_are_picked_up() {
        let (names, stop) = (Arc::new(InMemory::default()), CancellationToken::new());
        names.set("users.internal", &["10.0.0.2", "10.0.0.1", "fd00::1"]);
        let dns = dns(
            &["https://users.internal:9000", "http://10.9.9.9:9000"],
            names.clone(),
            &stop,
        );
        let mut users = dns.watch("users", Interface::Rpc);
        until(
            &mut users,
            &[
                "http://10.9.9.9:9000",
                "https://10.0.0.1:9000",
                "https://10.0.0.2:9000",
                "https://[fd00::1]:9000",
            ],
        )
        .await;
        assert_eq!(users.borrow()[1].server_name(), "users.internal");
        names.set("users.internal", &["10.0.0.3"]);
        until(&mut users, &["http://10.9.9.9:9000", "https://10.0.0.3:9000"]).await;
        assert!(dns.watch("orders", Interface::Rpc).borrow().is_empty());
    }

    #[tokio::test]
    async fn a_lookup_that_fails_changes_nothing() {
        let (names, stop) = (Arc::new(InMemory::default()), CancellationToken::new());
        names.set("users-1.internal", &["10.0.0.1"]);
        let dns = dns(
            &["http://users-1.internal:9000", "http://users-2.internal:9000"],
            names.clone(),
            &stop,
        );
        let mut users = dns.watch("users", Interface::Rpc);
        until(&mut users, &["http://10.0.0.1:9000"]).await;
        names.0.lock().clear();
        names.set("users-2.internal", &["10.0.0.2"]);
        until(&mut users, &["http://10.0.0.1:9000", "http://10.0.0.2:9000"]).await;
        names.set("users-2.internal", &[]);
        names.set("users-1.internal", &["10.0.0.9"]);
        until(&mut users, &["http://10.0.0.2:9000", "http://10.0.0.9:9000"]).await;
    }

    #[tokio::test]
    async fn the_system_knows_localhost() {
        let stop = CancellationToken::new();
        let dns = dns(&["http://localhost:9000"], Arc::new(System), &stop);
        let mut users = dns.watch("users", Interface::Rpc);
        timeout(Duration::from_secs(5), users.wait_for(|known| !known.is_empty()))
            .await
            .unwrap()
            .unwrap();
        assert!(
            users
                .borrow()
                .iter()
                .all(|address| ["127.0.0.1", "::1"].contains(&address.host()))
        );
        assert!(
            users
                .borrow()
                .iter()
                .all(|address| address.server_name() == "localhost")
        );
    }
}
