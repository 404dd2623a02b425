//! Registers the addresses of this process in etcd until it stops.
//!
//! The keys have a lease that is renewed every third of its time; then the keys are checked too, and one that somebody deleted is written again.
//! A process that stops renewing disappears when the lease expires; one whose lease no longer exists (etcd lost its data, the process was paused)
//! registers again; one that stops revokes the lease and disappears at once.

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
    /// Becomes true when the entries are visible for the first time.
    registered: watch::Sender<bool>,
}

impl Registration {
    pub fn new(client: Arc<Client>, entries: BTreeMap<String, Vec<u8>>, lease_s: u64) -> Registration {
        Registration {
            client,
            entries,
            lease_s,
            lease: Mutex::default(),
            registered: watch::channel(false).0,
        }
    }

    pub fn registered(&self) -> watch::Receiver<bool> {
        self.registered.subscribe()
    }

    /// The lease of the entries.
    pub fn lease(&self) -> Option<String> {
        self.lease.lock().clone()
    }

    /// Keeps the entries registered until `stop`, and then withdraws them, within `withdraw_timeout`.
    pub async fn run(self, stop: CancellationToken, withdraw_timeout: Duration) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep() => {}
        }
        let Some(lease) = self.lease() else { return };
        match timeout(withdraw_timeout, self.client.revoke(&lease)).await {
            Ok(Ok(())) => info!("this process is no longer registered in etcd"),
            Ok(Err(why)) => warn!(
                "this process stays registered in etcd for up to {} s: {why:#}",
                self.lease_s
            ),
            Err(_) => warn!(
                "this process stays registered in etcd for up to {} s: etcd does not respond",
                self.lease_s
            ),
        }
    }

    /// Never ends.
    pub async fn keep(&self) {
        let mut outage = Outage::default();
        loop {
            match self.announce().await {
                Ok((lease, ttl)) => {
                    outage.end();
                    info!(lease, "this process is registered in etcd");
                    self.registered.send_replace(true);
                    self.keep_alive(&lease, ttl).await;
                    warn!(lease, "the lease in etcd no longer exists; registering again");
                }
                Err(why) => {
                    outage.report(&why);
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn announce(&self) -> anyhow::Result<(String, Duration)> {
        let lease = self.client.grant(self.lease_s).await?;
        // Stored before any key has it, so that a stop in between withdraws everything.
        *self.lease.lock() = Some(lease.id.clone());
        self.client.put(&self.entries, &lease.id).await?;
        Ok((lease.id, lease.ttl))
    }

    /// Ends when the lease no longer exists. While etcd is unavailable that is unknown, so it is retried without a limit.
    async fn keep_alive(&self, lease: &str, mut ttl: Duration) {
        let mut outage = Outage::default();
        loop {
            sleep(if outage.is_ongoing() { RETRY } else { ttl / 3 }).await;
            match self.renew(lease).await {
                Ok(Some(left)) => {
                    outage.end();
                    ttl = left;
                }
                Ok(None) => return,
                Err(why) => outage.report(&why),
            }
        }
    }

    /// `None` if the lease no longer exists.
    async fn renew(&self, lease: &str) -> anyhow::Result<Option<Duration>> {
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

/// Whether etcd is unavailable; its beginning and its end are logged once.
#[derive(Default)]
pub struct Outage(bool);

impl Outage {
    pub fn is_ongoing(&self) -> bool {
        self.0
    }

    pub fn report(&mut self, why: &anyhow::Error) {
        if self.0 {
            debug!("etcd is still unavailable: {why:#}");
        } else {
            warn!("etcd is unavailable; the known instances stay in use: {why:#}");
        }
        self.0 = true;
    }

    pub fn end(&mut self) {
        if self.0 {
            info!("etcd is available again");
        }
        self.0 = false;
    }
}
