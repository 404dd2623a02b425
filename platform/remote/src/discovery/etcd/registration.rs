//! Says where this process answers, as long as it lives.
//!
//! The keys hang on a lease that is kept alive every third of its time, and are looked after as often: one that somebody deleted is written again.
//! Whoever falls silent is gone when the lease ends; whoever finds its lease gone (etcd lost its data, the process was paused) registers anew;
//! whoever stops revokes the lease and is gone at once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{RETRY, client::Client};

pub struct Registration {
    client: Arc<Client>,
    entries: BTreeMap<String, Vec<u8>>,
    lease_s: u64,
    /// The lease that was granted last, to be revoked at the end.
    lease: Mutex<Option<String>>,
    /// Becomes true when everybody can see the entries for the first time.
    said: watch::Sender<bool>,
}

impl Registration {
    pub fn new(client: Arc<Client>, entries: BTreeMap<String, Vec<u8>>, lease_s: u64) -> Registration {
        Registration {
            client,
            entries,
            lease_s,
            lease: Mutex::default(),
            said: watch::channel(false).0,
        }
    }

    pub fn said(&self) -> watch::Receiver<bool> {
        self.said.subscribe()
    }

    /// The lease on which the entries hang.
    pub fn lease(&self) -> Option<String> {
        self.lease.lock().clone()
    }

    /// Keeps the entries visible until `stop`, and then takes them back, within `within`.
    pub async fn run(self, stop: CancellationToken, within: Duration) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep() => {}
        }
        let Some(lease) = self.lease() else { return };
        match timeout(within, self.client.revoke(&lease)).await {
            Ok(Ok(())) => info!("this process is no longer registered in etcd"),
            Ok(Err(why)) => warn!(
                "this process stays registered in etcd for up to {} s: {why:#}",
                self.lease_s
            ),
            Err(_) => warn!(
                "this process stays registered in etcd for up to {} s: etcd does not answer",
                self.lease_s
            ),
        }
    }

    /// Never ends.
    pub async fn keep(&self) {
        let mut away = Away::default();
        loop {
            match self.announce().await {
                Ok((lease, ttl)) => {
                    away.over();
                    info!(lease, "this process is registered in etcd");
                    self.said.send_replace(true);
                    self.keep_alive(&lease, ttl).await;
                    warn!(lease, "the lease in etcd is gone; registering anew");
                }
                Err(why) => {
                    away.because(&why);
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn announce(&self) -> anyhow::Result<(String, Duration)> {
        let lease = self.client.grant(self.lease_s).await?;
        // Known before anything hangs on it, so that a stop in between takes everything back.
        *self.lease.lock() = Some(lease.id.clone());
        self.client.put(&self.entries, &lease.id).await?;
        Ok((lease.id, lease.ttl))
    }

    /// Ends when the lease is gone. While etcd is away nobody knows, so it is tried for as long as that takes.
    async fn keep_alive(&self, lease: &str, mut ttl: Duration) {
        let mut away = Away::default();
        loop {
            sleep(if away.is_so() { RETRY } else { ttl / 3 }).await;
            match self.stay(lease).await {
                Ok(Some(left)) => {
                    away.over();
                    ttl = left;
                }
                Ok(None) => return,
                Err(why) => away.because(&why),
            }
        }
    }

    /// None: there is no such lease any more.
    async fn stay(&self, lease: &str) -> anyhow::Result<Option<Duration>> {
        let Some(left) = self.client.keep_alive(lease).await? else {
            return Ok(None);
        };
        if self.client.put_missing(&self.entries, lease).await? {
            warn!(
                lease,
                "somebody had deleted this process from etcd; it is registered again"
            );
        }
        Ok(Some(left))
    }
}

/// Whether etcd is away; said once, and once when it is over.
#[derive(Default)]
pub struct Away(bool);

impl Away {
    pub fn is_so(&self) -> bool {
        self.0
    }

    pub fn because(&mut self, why: &anyhow::Error) {
        if self.0 {
            debug!("etcd is still away: {why:#}");
        } else {
            warn!("etcd is away; what is known stays in use: {why:#}");
        }
        self.0 = true;
    }

    pub fn over(&mut self) {
        if self.0 {
            info!("etcd is back");
        }
        self.0 = false;
    }
}
