//! The section `[bus]`.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// How events travel. Without a URL they stay in this process, and nothing else here matters.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    #[serde(skip_serializing)]
    pub url: Option<SecretString>,
    #[serde(skip_serializing)]
    pub ca_file: Option<PathBuf>,
    pub exchange: String,
    pub queue_type: QueueType,
    pub confirm_timeout_ms: u64,
    pub publish_channels: usize,
    pub connect_timeout_ms: u64,
    pub reconnect_ms: u64,
    pub declare_every_ms: u64,
    pub prefetch: u16,
    pub give_way_ms: u64,
}

impl Settings {
    /// # Errors
    /// A number that cannot be 0 and is; names the key.
    pub fn check(&self) -> anyhow::Result<()> {
        let limits = [
            ("confirm_timeout_ms", self.confirm_timeout_ms),
            ("publish_channels", self.publish_channels as u64),
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("reconnect_ms", self.reconnect_ms),
            ("declare_every_ms", self.declare_every_ms),
            ("prefetch", self.prefetch.into()),
            ("give_way_ms", self.give_way_ms),
        ];
        crate::config::refuse_zero("bus", &limits)
    }
}

/// How the broker keeps a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueType {
    /// Replicated over the broker's nodes.
    Quorum,
    /// On one node.
    Classic,
}

impl QueueType {
    pub fn as_str(self) -> &'static str {
        match self {
            QueueType::Quorum => "quorum",
            QueueType::Classic => "classic",
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            url: None,
            ca_file: None,
            exchange: "banyan.events".to_owned(),
            queue_type: QueueType::Quorum,
            confirm_timeout_ms: 5_000,
            publish_channels: 128,
            connect_timeout_ms: 5_000,
            reconnect_ms: 200,
            declare_every_ms: 60_000,
            prefetch: 100,
            give_way_ms: 5_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_stands_in_the_file() {
        let settings = crate::config::Settings::from_sources(None, []).unwrap();
        let in_file = serde_json::to_value(settings.section::<Settings>("bus").unwrap()).unwrap();
        assert_eq!(in_file, serde_json::to_value(Settings::default()).unwrap());
    }

    #[test]
    fn a_zero_that_would_stop_everything_is_named() {
        let numbers = serde_json::to_value(Settings::default()).unwrap();
        let numbers = numbers.as_object().unwrap().iter().filter(|(_, value)| value.is_u64());
        let keys: Vec<&String> = numbers.map(|(key, _)| key).collect();
        assert_eq!(keys.len(), 7, "{keys:?}");
        for key in keys {
            let variable = (format!("BANYAN__BUS__{}", key.to_uppercase()), "0".to_owned());
            let settings = crate::config::Settings::from_sources(None, [variable]).unwrap();
            let error = settings.section::<Settings>("bus").unwrap().check().unwrap_err();
            assert_eq!(error.to_string(), format!("bus.{key} must be at least 1"));
        }
    }
}
