//! What an operator configures.

use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The interval at which the reconciler looks for commands without a known outcome.
    pub reconcile_every_ms: u64,
    /// The minimum age of such a command before the reconciler queries the provider for it.
    pub reconcile_after_ms: u64,
    /// The secret with which the provider signs its webhooks. Absent: a new one at each start, which is enough for the sandbox in the same process.
    #[serde(default)]
    pub webhook_secret: Option<SecretString>,
    /// Whether the sandbox provider may be used outside the profile `demo`.
    pub allow_sandbox: bool,
    pub sandbox: SandboxSettings,
}

/// How the sandbox provider behaves.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxSettings {
    /// The delay before `pm_card_slow` takes effect.
    pub slow_ms: u64,
}

impl Settings {
    pub(crate) fn reconcile_every(&self) -> Duration {
        Duration::from_millis(self.reconcile_every_ms)
    }

    pub(crate) fn reconcile_after(&self) -> Duration {
        Duration::from_millis(self.reconcile_after_ms)
    }
}
