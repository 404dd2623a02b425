//! The settings of the module: the section `[users]`, whose defaults are in `config/default.toml`.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::throttle::Limits;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The claim `iss` of access tokens. Not part of this section, like the next two: it comes from `[auth]`, which every verifying service reads.
    #[serde(skip)]
    pub issuer: String,
    /// The claim `aud` of access tokens. From `[auth]`.
    #[serde(skip)]
    pub audience: String,
    /// The Ed25519 key that signs, PEM (PKCS#8, as `openssl genpkey -algorithm ed25519` writes it). From `[auth]`. Without it the module generates
    /// a key at its first start and stores it in its own database.
    #[serde(skip)]
    pub signing_key_file: Option<PathBuf>,
    /// The lifetime of an access token, in seconds. When its session ends, it is refused within 5 s.
    pub access_token_seconds: u64,
    /// The lifetime of an unused refresh token, in days. When it expires, its user is logged out.
    pub refresh_token_days: u64,
    /// The time after a log-in after which its session ends, however often it was refreshed, in days.
    pub session_days: u64,
    /// Further keys, PEM, private or public, whose signatures are accepted. To rotate keys: list the new key here on every instance, let it sign,
    /// and keep the old one listed until its access tokens have expired.
    pub verifying_key_files: Vec<PathBuf>,
    /// The memory of one argon2id hash, in KiB.
    pub argon2_memory_kib: u32,
    /// The number of passes of one argon2id hash over its memory.
    pub argon2_iterations: u32,
    /// The maximum number of password hashes computed at the same time, so that log-ins cannot starve other requests.
    pub hashing_concurrency: usize,
    /// The maximum number of registrations per network address and hour, half of them at once, and of requests for mails likewise; further ones are
    /// refused with 429. 0 selects the profile's default.
    pub address_registrations_per_hour: u32,
    /// The maximum number of failed log-ins per account and hour, from all network addresses together. Those that the account never logged in from
    /// can use up 3/5 of it. 0: no limit, and no delays of an account.
    pub account_failures_per_hour: u64,
    /// The number of failed log-ins of a network address within an hour, with accounts that never logged in from it, after which it waits between
    /// attempts with such accounts: 1 s, doubling, at most 30 s. 0: no delays of an address.
    pub address_failures_before_delay: u64,
    /// Whether a user must verify the email address before the first log-in. Registration then does not tell whether an address is known.
    pub verify_email: bool,
    /// A user created at start, if nobody has this email address, who grants the first roles in a shop without demo data.
    #[serde(default)]
    pub first_operator: Option<FirstOperator>,
}

/// A user with the role `ops` that exists before anybody could grant it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstOperator {
    pub email: String,
    /// A file with the password and nothing else; a trailing line end is ignored.
    pub password_file: PathBuf,
}

impl Settings {
    pub(crate) fn refresh_token_lifetime(&self) -> Duration {
        days(self.refresh_token_days)
    }

    pub(crate) fn session_lifetime(&self) -> Duration {
        days(self.session_days)
    }

    pub(crate) fn failure_limits(&self) -> Limits {
        Limits {
            account_per_hour: self.account_failures_per_hour,
            address_before_delay: self.address_failures_before_delay,
        }
    }
}

fn days(count: u64) -> Duration {
    Duration::from_secs(count.saturating_mul(24 * 60 * 60))
}

/// The defaults, with the issuer and the audience of the default `[auth]`.
#[cfg(test)]
pub(crate) fn default_settings() -> Settings {
    let file = include_str!("../config/default.toml");
    Settings {
        issuer: "http://localhost:8080".to_owned(),
        audience: "banyan".to_owned(),
        ..banyan_durable_testing::default_settings(file, "users")
    }
}
