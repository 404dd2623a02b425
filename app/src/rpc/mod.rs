//! Contracts between processes: the same traits, over gRPC.
//!
//! [`Remotes`] calls modules that run elsewhere, [`serve`] answers for those that run here. What a call needs on its way (limits, balancing, the
//! breaker) is in [`Edge`]; modules know nothing of it, except that any call may end in `unavailable` or `timeout`.

mod breaker;
mod contracts;
mod edge;
mod health;
mod instances;
mod reflection;
mod remotes;
mod server;
#[cfg(test)]
mod tests;
mod wire;

use std::{net::SocketAddr, time::Duration};

use anyhow::bail;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use breaker::BreakerState;
pub use contracts::Contracts;
pub use edge::Edge;
pub use remotes::Remotes;
pub use server::{Served, Serving, serve};

use crate::{config, discovery::rotation::InstanceState};

/// The most a message may hold, in both directions; it is gRPC's usual limit, and other languages' clients have it too.
const MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// How the way to a module that runs elsewhere is now.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RemoteState {
    pub module: String,
    pub breaker: BreakerState,
    /// The share of recent calls that found the module away, 0 to 1.
    pub failure_rate: f64,
    /// Calls that wait for their turn.
    pub waiting: usize,
    pub instances: Vec<InstanceState>,
}

/// `[rpc]`; each is described in `config/default.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub listen: Option<SocketAddr>,
    pub advertise: Option<String>,
    pub timeout_ms: u64,
    pub connect_timeout_ms: u64,
    pub keep_alive_ms: u64,
    pub concurrency: usize,
    pub queue: usize,
    pub calls_per_connection: u32,
    pub breaker_window_ms: u64,
    pub breaker_calls: u32,
    pub breaker_failure_rate: f64,
    pub breaker_open_ms: u64,
    pub breaker_probes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: None,
            advertise: None,
            timeout_ms: 3_000,
            connect_timeout_ms: 1_000,
            keep_alive_ms: 5_000,
            concurrency: 64,
            queue: 128,
            calls_per_connection: 256,
            breaker_window_ms: 5_000,
            breaker_calls: 5,
            breaker_failure_rate: 0.5,
            breaker_open_ms: 2_000,
            breaker_probes: 2,
        }
    }
}

impl Settings {
    /// `[rpc]`, checked.
    ///
    /// # Errors
    /// Names the key and what would be right.
    pub fn read(settings: &config::Settings) -> anyhow::Result<Settings> {
        let own: Settings = settings.section("rpc")?;
        let limits = [
            ("timeout_ms", own.timeout_ms),
            ("connect_timeout_ms", own.connect_timeout_ms),
            ("keep_alive_ms", own.keep_alive_ms),
            ("concurrency", own.concurrency as u64),
            ("calls_per_connection", own.calls_per_connection.into()),
            ("breaker_window_ms", own.breaker_window_ms),
            ("breaker_calls", own.breaker_calls.into()),
            ("breaker_open_ms", own.breaker_open_ms),
            ("breaker_probes", own.breaker_probes.into()),
        ];
        config::refuse_zero("rpc", &limits)?;
        if !(own.breaker_failure_rate > 0.0 && own.breaker_failure_rate <= 1.0) {
            bail!(
                "rpc.breaker_failure_rate is {}, but must be above 0 and at most 1: 0.5 is one call in two",
                own.breaker_failure_rate
            );
        }
        Ok(own)
    }

    fn breaker_rules(&self) -> breaker::Rules {
        breaker::Rules {
            window: Duration::from_millis(self.breaker_window_ms),
            calls: self.breaker_calls,
            failure_rate: self.breaker_failure_rate,
            open: Duration::from_millis(self.breaker_open_ms),
            probes: self.breaker_probes,
        }
    }
}
