//! Hashing passwords: argon2id, a few at a time, so that logging in cannot starve the shop.
//!
//! Whoever wants a hash first takes a [`Slot`]. There are as many as may be computed at the same time, and a queue of limited length before
//! them; who finds it full, or waits too long, is told to come back (503).

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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Settings;

pub struct Hasher {
    params: Params,
    /// What every hash made with these parameters starts with.
    prefix: String,
    /// A hash that no password has, made with the same parameters: verifying against it takes as long as against a real one.
    nobodys_hash: String,
    secrets: Arc<dyn Secrets>,
    /// One for each hash being computed or waited for.
    queue: Arc<Semaphore>,
    /// One for each hash being computed.
    running: Arc<Semaphore>,
    wait: Duration,
    computed: Arc<AtomicU64>,
}

/// The right to compute hashes, one after the other.
pub struct Slot<'h> {
    hasher: &'h Hasher,
    permits: Arc<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Hasher {
    /// # Errors
    /// If argon2 refuses the parameters.
    pub fn new(settings: &Settings, secrets: Arc<dyn Secrets>) -> anyhow::Result<Self> {
        let (memory_kib, iterations) = (settings.argon2_memory_kib, settings.argon2_iterations);
        let params = Params::new(memory_kib, iterations, 1, None)
            .map_err(|error| anyhow!("{error}"))
            .context("argon2 parameters")?;
        let prefix = format!("$argon2id$v=19$m={memory_kib},t={iterations},p=1$");
        // Any 16 and 32 bytes will do for salt and output; computing a real hash would only make the start slower.
        let nobodys_hash = format!("{prefix}{}${}", "A".repeat(22), "A".repeat(43));
        let running = settings.hashing_concurrency.max(1);
        Ok(Hasher {
            params,
            prefix,
            nobodys_hash,
            secrets,
            queue: Arc::new(Semaphore::new(running + settings.hashing_queue)),
            running: Arc::new(Semaphore::new(running)),
            wait: Duration::from_millis(settings.hashing_wait_ms),
            computed: Arc::default(),
        })
    }

    /// What to verify against for a user who does not exist.
    pub fn nobodys_hash(&self) -> &str {
        &self.nobodys_hash
    }

    /// How many hashes were computed so far. That an unknown user costs as many as a known one is tested by this.
    #[cfg(test)]
    pub fn computed(&self) -> u64 {
        self.computed.load(Ordering::SeqCst)
    }

    /// # Errors
    /// `unavailable` if the queue is full, or did not get there in time.
    pub async fn slot(&self) -> Result<Slot<'_>, Fault> {
        let busy = || {
            metrics::counter!("users_password_hashes_refused_total").increment(1);
            Fault::unavailable("Too many people are logging in right now.").retry_after(Duration::from_secs(2))
        };
        let place = self.queue.clone().try_acquire_owned().map_err(|_| busy())?;
        let turn = tokio::time::timeout(self.wait, self.running.clone().acquire_owned())
            .await
            .map_err(|_| busy())?;
        let turn = turn.map_err(|_| Fault::internal("hashing_closed", "the semaphore of the hasher was closed"))?;
        Ok(Slot {
            hasher: self,
            permits: Arc::new((place, turn)),
        })
    }
}

impl Slot<'_> {
    /// A PHC string with a salt of its own.
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

    /// Whether `hash` was made of this password, with whatever parameters it was made.
    ///
    /// # Errors
    /// `internal` for something that is no hash.
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

    /// Whether a hash should be made anew, because the settings ask for other parameters now.
    pub fn is_outdated(&self, hash: &str) -> bool {
        !hash.starts_with(&self.hasher.prefix)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
        let (permits, computed) = (self.permits.clone(), self.hasher.computed.clone());
        let running = tokio::task::spawn_blocking(move || {
            let result = work();
            computed.fetch_add(1, Ordering::SeqCst);
            metrics::counter!("users_password_hashes_total").increment(1);
            // Given back when the hash is done, not when a caller who hung up is gone.
            drop(permits);
            result
        });
        running
            .await
            .map_err(|error| Fault::internal("hashing_failed", error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banyan_core::{FaultKind, RandomSecrets};

    fn hasher(settings: Settings) -> Hasher {
        Hasher::new(
            &Settings {
                argon2_memory_kib: 64,
                ..settings
            },
            Arc::new(RandomSecrets),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn a_hash_knows_its_password_and_no_other() {
        let hasher = hasher(Settings::default());
        let slot = hasher.slot().await.unwrap();
        let hash = slot.hash(&"correct horse".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{hash}");
        assert!(slot.verify(&"correct horse".into(), &hash).await.unwrap());
        assert!(!slot.verify(&"Correct horse".into(), &hash).await.unwrap());
        assert_ne!(
            hash,
            slot.hash(&"correct horse".into()).await.unwrap(),
            "each has a salt of its own"
        );
    }

    #[tokio::test]
    async fn nobodys_hash_costs_as_much_and_fits_no_password() {
        let hasher = hasher(Settings::default());
        let slot = hasher.slot().await.unwrap();
        let real = slot.hash(&"correct horse".into()).await.unwrap();
        let parameters = |hash: &str| hash.rsplitn(3, '$').last().map(str::to_owned);
        assert_eq!(parameters(&real), parameters(hasher.nobodys_hash()));
        let before = hasher.computed();
        assert!(!slot.verify(&"".into(), hasher.nobodys_hash()).await.unwrap());
        assert_eq!(hasher.computed(), before + 1);
    }

    #[tokio::test]
    async fn a_hash_of_other_parameters_still_verifies_and_is_outdated() {
        let old = hasher(Settings::default());
        let hash = old.slot().await.unwrap().hash(&"correct horse".into()).await.unwrap();
        let new = hasher(Settings {
            argon2_iterations: 2,
            ..Settings::default()
        });
        let slot = new.slot().await.unwrap();
        assert!(slot.verify(&"correct horse".into(), &hash).await.unwrap());
        assert!(slot.is_outdated(&hash));
        assert!(!slot.is_outdated(&slot.hash(&"correct horse".into()).await.unwrap()));
    }

    #[tokio::test]
    async fn who_finds_the_queue_full_or_waits_too_long_is_told_to_come_back() {
        let settings = Settings {
            hashing_concurrency: 1,
            hashing_queue: 1,
            hashing_wait_ms: 50,
            ..Settings::default()
        };
        let hasher = hasher(settings);
        let first = hasher.slot().await.unwrap();
        let (waits, full) = tokio::join!(hasher.slot(), hasher.slot());
        for refused in [waits.err().unwrap(), full.err().unwrap()] {
            assert_eq!(refused.kind, FaultKind::Unavailable);
            assert!(refused.retry_after.is_some());
        }
        drop(first);
        assert!(hasher.slot().await.is_ok());
    }

    #[tokio::test]
    async fn a_caller_who_hangs_up_does_not_free_a_slot_that_still_computes() {
        let hasher = hasher(Settings {
            hashing_concurrency: 1,
            hashing_wait_ms: 20,
            ..Settings::default()
        });
        let slot = hasher.slot().await.unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let work = slot.run(move || held.recv().is_ok());
        // Polled once, so that the work has started, then dropped.
        assert!(tokio::time::timeout(Duration::from_millis(20), work).await.is_err());
        drop(slot);
        assert!(hasher.slot().await.is_err());
        release.send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(hasher.slot().await.is_ok());
    }
}
