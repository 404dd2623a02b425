//! `etcd`: instances register themselves.
//!
//! Each process writes `<prefix>/services/<module>/<instance>` with `{"rpc": ..., "http": ...}` for each of its modules under one lease, and all
//! read everything below `<prefix>/services/`: first all of it, then each change from that revision on. Whenever the watch breaks off, and once per
//! lease in any case (a silent connection looks like one on which nothing happens), all of it is read again, so no change is missed for long.

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
use registration::{Away, Registration};

/// How long until an etcd that is away is asked again.
const RETRY: Duration = Duration::from_millis(200);

pub struct Etcd {
    /// Modules whose place the settings say are there, whatever is registered.
    fixed: StaticEndpoints,
    client: Arc<Client>,
    directory: Arc<Directory>,
    prefix: String,
    lease_s: u64,
    within: Duration,
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
            within: settings.timing.etcd_timeout,
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
        let mut said = registration.said();
        // At a stop an endpoint that does not answer must leave time for the others.
        let running = tokio::spawn(registration.run(stop, self.client.longest()));
        self.registered.lock().push(running);
        if timeout(self.within, said.wait_for(|said| *said)).await.is_err() {
            warn!("etcd has not taken the registration of this process yet; it goes on being tried");
        }
        Ok(())
    }

    async fn withdrawn(&self) {
        let registered = std::mem::take(&mut *self.registered.lock());
        futures::future::join_all(registered).await;
    }
}

/// What is written for an instance: the same under a key for each of its modules.
fn entries(prefix: &str, instance: &Instance) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let Instance { id, modules, rpc, http } = instance;
    if modules.is_empty() {
        return Ok(BTreeMap::new());
    }
    if rpc.is_none() && http.is_none() {
        bail!(
            "{} cannot be registered in etcd: this process answers nobody; set rpc.listen or http.listen",
            modules.join(", ")
        );
    }
    for address in [rpc, http].into_iter().flatten() {
        if address.host().parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
            bail!(
                "{address} cannot be registered in etcd, as nobody can call it; set rpc.advertise and http.advertise"
            );
        }
    }
    if let (Some(rpc), Some(http)) = (rpc, http)
        && is_loopback(rpc) != is_loopback(http)
    {
        bail!(
            "{rpc} (rpc.listen or rpc.advertise) and {http} (http.listen or http.advertise) cannot be registered in etcd together: one is on \
             loopback, where other machines would look for this process in vain; let both listen where others can call, or say so by .advertise"
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
async fn keep_reading(client: &Client, directory: &Directory, prefix: &str, compare_every: Duration) {
    let mut away = Away::default();
    loop {
        let Err(why) = read(client, directory, prefix, compare_every, &mut away).await;
        away.because(&why);
        sleep(RETRY).await;
    }
}

/// Reads everything, and then each change, until that fails.
async fn read(
    client: &Client,
    directory: &Directory,
    prefix: &str,
    compare_every: Duration,
    away: &mut Away,
) -> anyhow::Result<std::convert::Infallible> {
    let from = directory.replace(client.range(prefix).await?);
    let mut watching = client.watch(prefix, from).await?;
    away.over();
    let mut compare = interval(compare_every);
    compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
    compare.reset();
    loop {
        tokio::select! {
            changes = watching.next() => directory.apply(changes?),
            _ = compare.tick() => drop(directory.replace(client.range(prefix).await?)),
        }
    }
}
