//! The contracts between processes: the same traits, over gRPC.
//!
//! [`Remotes`] calls remote modules, [`serve`] serves local ones.

mod access;
mod channel;
mod connector;
mod health;
mod reflection;
mod remotes;
mod server;
mod wire;

use std::{net::SocketAddr, time::Duration};

use banyan_core::refuse_zero;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use access::{Callers, GATEWAY, TokenVerifier};
pub use channel::ModuleChannel;
pub use connector::GrpcConnector;
pub use remotes::{Callee, Remotes};
pub use server::{Served, ServedModule, Services, Serving, serve};

use crate::balancing::{BreakerRules, BreakerState, InstanceState};

/// The maximum size of a message, in both directions: gRPC's usual limit, which other languages' clients have too.
pub const MESSAGE_BYTES: usize = 4 * 1024 * 1024;

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

/// `[rpc]`; each setting is described in the file of defaults.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    #[serde(default)]
    pub advertise: Option<String>,
    pub timeout_ms: u64,
    pub concurrency: usize,
    pub queue: usize,
    pub breaker_open_ms: u64,
    #[serde(skip)]
    pub limits: Limits,
}

/// Limits that are not settings.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The timeout for making a connection, TLS included: between machines of one network it takes milliseconds.
    pub connect_timeout: Duration,
    /// The interval at which either side pings an idle connection, and the timeout for the reply: a peer that vanished without closing it is
    /// noticed within twice that.
    pub keep_alive: Duration,
    /// The maximum number of calls that one connection of another process may have in flight; it queues further calls itself.
    pub calls_per_connection: u32,
    /// When a breaker opens and closes; how long it stays open is the setting `breaker_open_ms`.
    pub breaker: BreakerRules,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connect_timeout: Duration::from_secs(1),
            keep_alive: Duration::from_secs(5),
            calls_per_connection: 256,
            breaker: BreakerRules::default(),
        }
    }
}

impl Settings {
    /// # Errors
    /// Names the key, and what would be valid.
    pub fn check(&self) -> anyhow::Result<()> {
        let limits = [
            ("timeout_ms", self.timeout_ms),
            ("concurrency", self.concurrency as u64),
            ("breaker_open_ms", self.breaker_open_ms),
        ];
        refuse_zero("rpc", &limits).map_err(anyhow::Error::msg)
    }

    fn breaker_rules(&self) -> BreakerRules {
        BreakerRules {
            open: Duration::from_millis(self.breaker_open_ms),
            ..self.limits.breaker
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_zero_is_refused_with_its_key() {
        let file: toml::Table = include_str!("../../../host/config/default.toml").parse().unwrap();
        let defaults: Settings = file["rpc"].clone().try_into().unwrap();
        assert!(defaults.check().is_ok());
        let without_permits = Settings {
            concurrency: 0,
            ..defaults
        };
        assert!(
            without_permits
                .check()
                .unwrap_err()
                .to_string()
                .contains("rpc.concurrency")
        );
    }
}
