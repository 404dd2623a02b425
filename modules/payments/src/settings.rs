//! What an operator may set.

use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A command waits so long for the provider; the call itself goes on in the background.
    pub call_limit_ms: u64,
    /// A call to the provider is given up after so long; its outcome is then unknown and asked for again.
    pub call_give_up_ms: u64,
    /// Calls to the provider at the same time; more wait for their turn.
    pub calls_at_once: usize,
    /// Whoever is told `in_progress` asks again after so long.
    pub retry_after_ms: u64,
    /// How often the reconciler looks for commands without an outcome.
    pub reconcile_every_ms: u64,
    /// What has been open longer than this is asked about.
    pub reconcile_after_ms: u64,
    /// How often our ledger is compared with the provider's books.
    pub compare_books_every_ms: u64,
    /// A webhook signed longer ago, or further ahead, is refused.
    pub webhook_tolerance_ms: u64,
    /// What the provider signs its webhooks with. Absent: one is made at each start, which is enough for the sandbox in the same process.
    #[serde(skip_serializing)]
    pub webhook_secret: Option<SecretString>,
    pub sandbox: SandboxSettings,
}

/// How the sandbox provider behaves.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxSettings {
    /// `pm_card_slow` takes so long before it does anything.
    pub slow_ms: u64,
    /// `pm_card_timeout` takes effect at once and answers after so long.
    pub timeout_ms: u64,
    /// A webhook follows its answer after so long.
    pub webhook_delay_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            call_limit_ms: 2_000,
            call_give_up_ms: 30_000,
            calls_at_once: 64,
            retry_after_ms: 500,
            reconcile_every_ms: 60_000,
            reconcile_after_ms: 30_000,
            compare_books_every_ms: 600_000,
            webhook_tolerance_ms: 300_000,
            webhook_secret: None,
            sandbox: SandboxSettings::default(),
        }
    }
}

impl Default for SandboxSettings {
    fn default() -> Self {
        SandboxSettings {
            slow_ms: 3_000,
            timeout_ms: 2_500,
            webhook_delay_ms: 200,
        }
    }
}

impl Settings {
    pub(crate) fn call_limit(&self) -> Duration {
        Duration::from_millis(self.call_limit_ms)
    }

    pub(crate) fn call_give_up(&self) -> Duration {
        Duration::from_millis(self.call_give_up_ms)
    }

    pub(crate) fn reconcile_every(&self) -> Duration {
        Duration::from_millis(self.reconcile_every_ms)
    }

    pub(crate) fn reconcile_after(&self) -> Duration {
        Duration::from_millis(self.reconcile_after_ms)
    }

    pub(crate) fn compare_books_every(&self) -> Duration {
        Duration::from_millis(self.compare_books_every_ms)
    }

    pub(crate) fn webhook_tolerance(&self) -> Duration {
        Duration::from_millis(self.webhook_tolerance_ms)
    }
}
