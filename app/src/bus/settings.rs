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
}
