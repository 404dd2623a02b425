//! The section `[bus]`.

use std::{path::PathBuf, time::Duration};

use banyan_core::refuse_zero;
use secrecy::SecretString;
use serde::Deserialize;

/// How events are carried; each setting is described in the file of defaults. Without a URL they stay in this process, and the other settings
/// have no effect.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    #[serde(default)]
    pub url: Option<SecretString>,
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    pub exchange: String,
    pub queue_type: QueueType,
    pub prefetch: u16,
    #[serde(skip)]
    pub limits: Limits,
}

/// Limits that are not settings.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The timeout for the broker's confirmation of an event, after which it is published again. A healthy broker confirms within milliseconds.
    pub confirm_timeout: Duration,
    /// The maximum number of events that this process has published and that are not confirmed yet. Each has a channel to itself; 100 of them
    /// gave ten times the throughput of one, more gave little.
    pub publish_channels: usize,
    /// The timeout for making a connection and declaring the queues, after which everything is retried from the start.
    pub connect_timeout: Duration,
    /// The first delay before connecting again, and before offering an event again to a module that could not accept it; doubles up to ten times
    /// itself.
    pub reconnect: Duration,
    /// The interval at which the queues and their bindings are declared again, in case somebody removed one.
    pub declare_every: Duration,
    /// A consumer whose module accepted no event for this time (its database is unavailable) yields to the next process that consumes for the
    /// module.
    pub give_way: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            confirm_timeout: Duration::from_secs(5),
            publish_channels: 128,
            connect_timeout: Duration::from_secs(5),
            reconnect: Duration::from_millis(200),
            declare_every: Duration::from_secs(60),
            give_way: Duration::from_secs(5),
        }
    }
}

impl Settings {
    /// # Errors
    /// A number that cannot be 0 and is; names the key.
    pub fn check(&self) -> anyhow::Result<()> {
        refuse_zero("bus", &[("prefetch", self.prefetch.into())]).map_err(anyhow::Error::msg)
    }
}

/// How the broker keeps a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum QueueType {
    /// Replicated over the broker's nodes.
    Quorum,
    /// On one node.
    Classic,
}

impl QueueType {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn defaults() -> Settings {
        let file: toml::Table = include_str!("../../host/config/default.toml").parse().unwrap();
        file["bus"].clone().try_into().unwrap()
    }

    #[test]
    fn a_prefetch_of_zero_is_refused_with_its_key() {
        assert!(defaults().check().is_ok());
        let without_prefetch = Settings {
            prefetch: 0,
            ..defaults()
        };
        let error = without_prefetch.check().unwrap_err();
        assert_eq!(error.to_string(), "bus.prefetch must be at least 1");
    }
}
