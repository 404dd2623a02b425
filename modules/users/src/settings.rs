//! What an operator may decide about users. The defaults are those of the reliability design.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `iss` of access tokens: who signs them. Every verifying service must be told the same.
    pub issuer: String,
    /// `aud` of access tokens: whom they are meant for.
    pub audience: String,
    /// An access token is believed so long; nothing can take it back earlier.
    pub access_token_seconds: u64,
    /// A refresh token that is not used for so long logs its user out.
    pub refresh_token_days: u64,
    /// The Ed25519 key that signs, PEM (PKCS#8, as `openssl genpkey -algorithm ed25519` writes it). Without it the module makes one at its
    /// first start and keeps it in its own database.
    pub signing_key_file: Option<PathBuf>,
    /// Keys, PEM, private or public, that are believed besides. To rotate: make the new key known here on every instance, let it sign, and
    /// keep the old one here for as long as its access tokens live.
    pub verifying_key_files: Vec<PathBuf>,
    /// argon2id: memory of one hash, in KiB.
    pub argon2_memory_kib: u32,
    /// argon2id: passes over that memory.
    pub argon2_iterations: u32,
    /// Hashes computed at the same time, so that logging in cannot starve the shop.
    pub hashing_concurrency: usize,
    /// Requests that may wait for a hash; more are refused with 503.
    pub hashing_queue: usize,
    /// How long one may wait for a hash before it is refused with 503.
    pub hashing_wait_ms: u64,
    /// Failed log-ins of one account within a minute, after which the account's next ones are refused with 429. 0: no limit.
    pub account_failures_per_minute: u64,
    /// The same for one network address, whatever accounts it tries. 0: no limit.
    pub address_failures_per_minute: u64,
    /// Made at start if nobody has this email: whoever grants the first roles in a shop without demo data.
    pub first_operator: Option<FirstOperator>,
}

/// A user with the role `ops` that exists before anybody could grant it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstOperator {
    pub email: String,
    /// A file with the password alone; a line end after it is no part of it.
    pub password_file: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            issuer: "http://localhost:8080".to_owned(),
            audience: "banyan".to_owned(),
            access_token_seconds: 900,
            refresh_token_days: 30,
            signing_key_file: None,
            verifying_key_files: Vec::new(),
            argon2_memory_kib: 46 * 1_024,
            argon2_iterations: 1,
            hashing_concurrency: 2,
            hashing_queue: 64,
            hashing_wait_ms: 5_000,
            account_failures_per_minute: 10,
            address_failures_per_minute: 100,
            first_operator: None,
        }
    }
}

impl Settings {
    pub(crate) fn access_token_life(&self) -> Duration {
        Duration::from_secs(self.access_token_seconds)
    }

    pub(crate) fn refresh_token_life(&self) -> Duration {
        Duration::from_secs(self.refresh_token_days.saturating_mul(24 * 60 * 60))
    }
}
