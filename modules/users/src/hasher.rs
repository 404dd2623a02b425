//! Password hashing: argon2id, with limited concurrency, so that log-ins cannot starve other requests.
//!
//! A caller first acquires a [`Slot`]. The number of slots is the number of hashes computed at the same time; a bounded [queue](FairQueue), in which
//! network addresses take turns, waits for them. If the queue is full or the wait times out, the request is refused with 503.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, anyhow};
use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use banyan_core::{Fault, Secrets};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    Settings,
    fair_queue::{FairQueue, Limits, Permit, Work},
};

/// The limits on waiting for a slot. Constants but for the concurrency: that is what costs memory and CPU.
fn limits(settings: &Settings) -> Limits {
    Limits {
        running: settings.hashing_concurrency.max(1),
        waiting: 64,
        waiting_per_address: 32,
        timeout: Duration::from_secs(5),
    }
}

pub struct Hasher {
    params: Params,
    /// The start of every hash computed with these parameters.
    prefix: String,
    /// A hash that matches no password, with the same parameters: verifying against it takes as long as against a real one.
    dummy_hash: String,
    secrets: Arc<dyn Secrets>,
    queue: Arc<FairQueue>,
    computed: Arc<AtomicU64>,
}

/// The permission to compute hashes, one after the other.
pub struct Slot<'h> {
    hasher: &'h Hasher,
    permit: Arc<Permit>,
}

impl Hasher {
    /// # Errors
    /// If argon2 refuses the parameters.
    pub fn new(settings: &Settings, secrets: Arc<dyn Secrets>) -> anyhow::Result<Self> {
        Hasher::with_limits(settings, secrets, limits(settings))
    }

    fn with_limits(settings: &Settings, secrets: Arc<dyn Secrets>, limits: Limits) -> anyhow::Result<Self> {
        let (memory_kib, iterations) = (settings.argon2_memory_kib, settings.argon2_iterations);
        let params = Params::new(memory_kib, iterations, 1, None)
            .map_err(|error| anyhow!("{error}"))
            .context("argon2 parameters")?;
        let prefix = format!("$argon2id$v=19$m={memory_kib},t={iterations},p=1$");
        // Any 16 and 32 bytes will do as salt and output; computing a real hash would only slow down the start.
        let dummy_hash = format!("{prefix}{}${}", "A".repeat(22), "A".repeat(43));
        Ok(Hasher {
            params,
            prefix,
            dummy_hash,
            secrets,
            queue: FairQueue::new(limits),
            computed: Arc::default(),
        })
    }

    /// The hash to verify against for a user who does not exist.
    pub fn dummy_hash(&self) -> &str {
        &self.dummy_hash
    }

    /// The number of hashes computed so far, for tests that compare the cost of two requests.
    #[cfg(test)]
    pub fn computed(&self) -> u64 {
        self.computed.load(Ordering::SeqCst)
    }

    /// The numbers of log-ins and registrations that wait for a slot.
    #[cfg(test)]
    pub fn waiting(&self) -> (usize, usize) {
        (self.queue.waiting(Work::LogIn), self.queue.waiting(Work::Registration))
    }

    /// `address` is the network address of the client.
    ///
    /// # Errors
    /// `unavailable` if the queue is full, or the wait for a slot times out.
    pub async fn slot(&self, work: Work, address: &str) -> Result<Slot<'_>, Fault> {
        let permit = self.queue.acquire(work, address).await.ok_or_else(|| {
            metrics::counter!("users_password_hashes_refused_total").increment(1);
            Fault::unavailable("Too many people are logging in right now.").retry_after(Duration::from_secs(2))
        })?;
        Ok(Slot {
            hasher: self,
            permit: Arc::new(permit),
        })
    }

    /// A slot for the users that the shop itself creates.
    ///
    /// # Errors
    /// As [`slot`](Self::slot).
    pub async fn own_slot(&self) -> Result<Slot<'_>, Fault> {
        self.slot(Work::LogIn, "").await
    }
}

impl Slot<'_> {
    /// Computes a PHC string with a new salt.
    ///
    /// # Errors
    /// `internal`.
    pub async fn hash(&self, password: &SecretString) -> Result<String, Fault> {
        let secret = self.hasher.secrets.new_secret()?;
        let password = password.clone();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, self.hasher.params.clone());
        let work = move || {
            let hash = argon2.hash_password_with_salt(password.expose_secret().as_bytes(), &secret[..16]);
            hash.map(|hash: PasswordHash| hash.to_string())
        };
        self.run(work)
            .await?
            .map_err(|error| Fault::internal("unhashable_password", error.to_string()))
    }

    /// Whether `hash` is a hash of this password, whatever its parameters.
    ///
    /// # Errors
    /// `internal` if `hash` is not a PHC string.
    pub async fn verify(&self, password: &SecretString, hash: &str) -> Result<bool, Fault> {
        let (password, hash) = (password.clone(), hash.to_owned());
        let work = move || {
            let hash = PasswordHash::new(&hash)?;
            match Argon2::default().verify_password(password.expose_secret().as_bytes(), &hash) {
                Ok(()) => Ok(true),
                Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.run(work)
            .await?
            .map_err(|error: argon2::password_hash::Error| Fault::internal("unreadable_hash", error.to_string()))
    }

    /// Whether a hash has other parameters than the settings require now and should be computed again.
    pub fn is_outdated(&self, hash: &str) -> bool {
        !hash.starts_with(&self.hasher.prefix)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
        let (permit, computed) = (self.permit.clone(), self.hasher.computed.clone());
        let computing = tokio::task::spawn_blocking(move || {
            let result = work();
            computed.fetch_add(1, Ordering::SeqCst);
            metrics::counter!("users_password_hashes_total").increment(1);
            // Released when the hash is computed, even if the caller has disconnected before.
            drop(permit);
            result
        });
        computing
            .await
            .map_err(|error| Fault::internal("hashing_failed", error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banyan_core::{FaultKind, RandomSecrets};

    fn settings() -> Settings {
        Settings {
            argon2_memory_kib: 64,
            ..crate::settings::default_settings()
        }
    }

    fn hasher(settings: Settings) -> Hasher {
        Hasher::new(&settings, Arc::new(RandomSecrets)).unwrap()
    }

    /// Computes one hash at a time.
    fn single(limits: Limits) -> Hasher {
        let limits = Limits { running: 1, ..limits };
        Hasher::with_limits(&settings(), Arc::new(RandomSecrets), limits).unwrap()
    }

    #[tokio::test]
    async fn a_hash_matches_its_password_and_no_other() {
        let hasher = hasher(settings());
        let slot = hasher.own_slot().await.unwrap();
        let hash = slot.hash(&"correct horse".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{hash}");
        assert!(slot.verify(&"correct horse".into(), &hash).await.unwrap());
        assert!(!slot.verify(&"Correct horse".into(), &hash).await.unwrap());
        assert_ne!(
            hash,
            slot.hash(&"correct horse".into()).await.unwrap(),
            "each has its own salt"
        );
    }

    #[tokio::test]
    async fn the_dummy_hash_costs_as_much_and_matches_no_password() {
        let hasher = hasher(settings());
        let slot = hasher.own_slot().await.unwrap();
        let real = slot.hash(&"correct horse".into()).await.unwrap();
        let parameters = |hash: &str| hash.rsplitn(3, '$').last().map(str::to_owned);
        assert_eq!(parameters(&real), parameters(hasher.dummy_hash()));
        let before = hasher.computed();
        assert!(!slot.verify(&"".into(), hasher.dummy_hash()).await.unwrap());
        assert_eq!(hasher.computed(), before + 1);
    }

    #[tokio::test]
    async fn a_hash_with_other_parameters_still_verifies_and_is_outdated() {
        let old = hasher(settings());
        let hash = old
            .own_slot()
            .await
            .unwrap()
            .hash(&"correct horse".into())
            .await
            .unwrap();
        let new = hasher(Settings {
            argon2_iterations: 2,
            ..settings()
        });
        let slot = new.own_slot().await.unwrap();
        assert!(slot.verify(&"correct horse".into(), &hash).await.unwrap());
        assert!(slot.is_outdated(&hash));
        assert!(!slot.is_outdated(&slot.hash(&"correct horse".into()).await.unwrap()));
    }

    #[tokio::test]
    async fn a_request_is_refused_when_the_queue_is_full_or_the_wait_times_out() {
        let hasher = single(Limits {
            waiting: 1,
            timeout: Duration::from_millis(50),
            ..limits(&settings())
        });
        let first = hasher.own_slot().await.unwrap();
        let (timed_out, full) = tokio::join!(hasher.own_slot(), hasher.own_slot());
        for refused in [timed_out.err().unwrap(), full.err().unwrap()] {
            assert_eq!(refused.kind, FaultKind::Unavailable);
            assert!(refused.retry_after.is_some());
        }
        drop(first);
        assert!(hasher.own_slot().await.is_ok());
    }

    #[tokio::test]
    async fn a_caller_that_disconnects_does_not_release_a_slot_that_is_still_computing() {
        let hasher = single(Limits {
            timeout: Duration::from_millis(20),
            ..limits(&settings())
        });
        let slot = hasher.own_slot().await.unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let work = slot.run(move || held.recv().is_ok());
        // Polled once, so that the work has started, then dropped.
        assert!(tokio::time::timeout(Duration::from_millis(20), work).await.is_err());
        drop(slot);
        assert!(hasher.own_slot().await.is_err());
        release.send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(hasher.own_slot().await.is_ok());
    }
}
