//! `etcd`: instances register themselves.
//!
//! Each process writes `<prefix>/services/<module>/<instance>` with `{"rpc": ..., "http": ...}` for each of its modules under one lease, and all
//! read everything below `<prefix>/services/`: first all of it, then each change from that revision on. Whenever the watch ends, and once per lease
//! in any case (a dead connection looks like one on which nothing happens), all of it is read again, so no change is missed for long.

mod client;
mod directory;
mod registration;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Address, Discovery, Endpoints, Instance, Interface, Settings, static_endpoints::StaticEndpoints};
use client::Client;
use directory::{Directory, Entry};
use registration::{Outage, Registration};

/// The delay before an unavailable etcd is called again.
const RETRY: Duration = Duration::from_millis(200);

pub struct Etcd {
    /// Modules whose addresses are in the settings, which take precedence over what is registered.
    fixed: StaticEndpoints,
    client: Arc<Client>,
    directory: Arc<Directory>,
    prefix: String,
    lease_s: u64,
    timeout: Duration,
    registered: Mutex<Vec<JoinHandle<()>>>,
}

impl Etcd {
    pub fn start(settings: &Settings, endpoints: Endpoints, stop: &CancellationToken) -> anyhow::Result<Etcd> {
        let prefix = format!("{}/services/", settings.etcd_prefix.trim_end_matches('/'));
        let lease = Duration::from_secs(settings.etcd_lease_s);
        let client = Arc::new(Client::new(settings)?);
        let directory = Arc::new(Directory::new(prefix.clone(), lease));
        let (stop, reader) = (stop.clone(), (client.clone(), directory.clone(), prefix.clone()));
        tokio::spawn(async move {
            let (client, directory, prefix) = reader;
            tokio::select! {
                () = stop.cancelled() => {}
                () = keep_reading(&client, &directory, &prefix, lease) => {}
            }
        });
        Ok(Etcd {
            fixed: StaticEndpoints::new(endpoints),
            client,
            directory,
            prefix,
            lease_s: settings.etcd_lease_s,
            timeout: settings.timing.etcd_timeout,
            registered: Mutex::default(),
        })
    }
}

#[async_trait]
impl Discovery for Etcd {
    fn watch(&self, module: &str, interface: Interface) -> watch::Receiver<Vec<Address>> {
        if self.fixed.knows(module, interface) {
            return self.fixed.watch(module, interface);
        }
        self.directory.watch(module, interface)
    }

    async fn register(&self, instance: Instance, stop: CancellationToken) -> anyhow::Result<()> {
        let entries = entries(&self.prefix, &instance)?;
        if entries.is_empty() {
            return Ok(());
        }
        let registration = Registration::new(self.client.clone(), entries, self.lease_s);
        let mut registered = registration.registered();
        // At a stop an endpoint that does not respond must leave time for the others.
        let running = tokio::spawn(registration.run(stop, self.client.maximum_duration()));
        self.registered.lock().push(running);
        if timeout(self.timeout, registered.wait_for(|registered| *registered))
            .await
            .is_err()
        {
            warn!("this process is not registered in etcd yet; retrying");
        }
        Ok(())
    }

    async fn withdrawn(&self) {
        let registered = std::mem::take(&mut *self.registered.lock());
        futures::future::join_all(registered).await;
    }
}

/// The entries of an instance: the same value under a key for each of its modules.
fn entries(prefix: &str, instance: &Instance) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let Instance { id, modules, rpc, http } = instance;
    if modules.is_empty() {
        return Ok(BTreeMap::new());
    }
    if rpc.is_none() && http.is_none() {
        bail!(
            "{} cannot be registered in etcd: this process serves neither gRPC nor HTTP; set rpc.listen or http.listen",
            modules.join(", ")
        );
    }
    for address in [rpc, http].into_iter().flatten() {
        if address.host().parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
            bail!(
                "{address} cannot be registered in etcd, as others cannot call it; set rpc.advertise and http.advertise"
            );
        }
    }
    if let (Some(rpc), Some(http)) = (rpc, http)
        && is_loopback(rpc) != is_loopback(http)
    {
        bail!(
            "{rpc} (rpc.listen or rpc.advertise) and {http} (http.listen or http.advertise) cannot be registered in etcd together: one is on \
             loopback, which other machines cannot reach; listen on addresses that others can call, or set .advertise"
        );
    }
    let value = serde_json::to_vec(&Entry {
        rpc: rpc.clone(),
        http: http.clone(),
    })
    .context("writing an instance for etcd")?;
    Ok(modules
        .iter()
        .map(|module| (format!("{prefix}{module}/{id}"), value.clone()))
        .collect())
}

fn is_loopback(address: &Address) -> bool {
    address.host() == "localhost" || address.host().parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Never ends.
async fn keep_reading(client: &Client, directory: &Directory, prefix: &str, reread_interval: Duration) {
    let mut outage = Outage::default();
    loop {
        let Err(why) = read(client, directory, prefix, reread_interval, &mut outage).await;
        outage.report(&why);
        sleep(RETRY).await;
    }
}

/// Reads everything, and then each change, until this fails.
async fn read(
    client: &Client,
    directory: &Directory,
    prefix: &str,
    reread_interval: Duration,
    outage: &mut Outage,
) -> anyhow::Result<std::convert::Infallible> {
    let from = directory.replace(client.range(prefix).await?);
    let mut watching = client.watch(prefix, from).await?;
    outage.end();
    let mut reread = interval(reread_interval);
    reread.set_missed_tick_behavior(MissedTickBehavior::Delay);
    reread.reset();
    loop {
        tokio::select! {
            changes = watching.next() => directory.apply(changes?),
            _ = reread.tick() => drop(directory.replace(client.range(prefix).await?)),
        }
    }
}
