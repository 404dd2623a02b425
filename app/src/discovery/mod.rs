//! Who is where: the instances of the modules that are not in this process.
//!
//! Which instances there are is [`Discovery`]'s matter, of which there are three kinds; which of them are well, and who is asked next, is that
//! of a [`Rotation`](rotation::Rotation). Nothing here knows what is asked of them.

mod address;
mod dns;
mod etcd;
mod fixed;
pub mod rotation;

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use address::{Address, Instance};

/// What a process is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interface {
    /// gRPC, by other modules.
    Rpc,
    /// REST, by gateways.
    Http,
}

impl Interface {
    pub fn name(self) -> &'static str {
        match self {
            Interface::Rpc => "rpc",
            Interface::Http => "http",
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Knows the instances of every module.
#[async_trait]
pub trait Discovery: Send + Sync {
    /// The instances of a module as they are known now, sorted, each once; the receiver hears of every change.
    fn watch(&self, module: &str, interface: Interface) -> watch::Receiver<Vec<Address>>;

    /// Says where this process answers, until `stop`; kinds that need not be told do nothing. Returns as soon as it is said, or, if who is to be
    /// told is away, after a moment: it goes on being tried until `stop`.
    ///
    /// # Errors
    /// What is to be said is of no use to anybody.
    async fn register(&self, instance: Instance, stop: CancellationToken) -> anyhow::Result<()>;

    /// After the `stop` of [`register`](Discovery::register): waits until nobody is told any more to come here.
    async fn withdrawn(&self) {}
}

/// How instances are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", try_from = "String")]
pub enum Kind {
    /// The endpoints in the settings.
    Static,
    /// The names in the endpoints, each of their addresses being an instance.
    Dns,
    /// Instances say themselves where they are.
    Etcd,
}

impl TryFrom<String> for Kind {
    type Error = String;

    fn try_from(text: String) -> Result<Kind, String> {
        match &*text {
            "static" => Ok(Kind::Static),
            "dns" => Ok(Kind::Dns),
            "etcd" => Ok(Kind::Etcd),
            _ => Err(format!("{text:?} must be static, dns or etcd")),
        }
    }
}

/// `[discovery]`; each is described in `config/default.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub kind: Kind,
    pub dns_refresh_ms: u64,
    pub etcd_endpoints: Vec<String>,
    pub etcd_prefix: String,
    pub etcd_ca_file: Option<PathBuf>,
    pub etcd_timeout_ms: u64,
    pub etcd_lease_s: u64,
    pub probe_every_ms: u64,
    pub probe_timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            kind: Kind::Static,
            dns_refresh_ms: 5_000,
            etcd_endpoints: Vec::new(),
            etcd_prefix: "/banyan".to_owned(),
            etcd_ca_file: None,
            etcd_timeout_ms: 2_000,
            etcd_lease_s: 10,
            probe_every_ms: 1_000,
            probe_timeout_ms: 1_000,
        }
    }
}

impl Settings {
    /// Whether instances must stand in the settings, because they do not say themselves where they are.
    pub fn needs_endpoints(&self) -> bool {
        self.kind != Kind::Etcd
    }

    fn probe_every(&self) -> Duration {
        Duration::from_millis(self.probe_every_ms)
    }

    fn probe_timeout(&self) -> Duration {
        Duration::from_millis(self.probe_timeout_ms)
    }

    fn check(&self) -> anyhow::Result<()> {
        let positive = [
            ("dns_refresh_ms", self.dns_refresh_ms),
            ("etcd_timeout_ms", self.etcd_timeout_ms),
            ("etcd_lease_s", self.etcd_lease_s),
            ("probe_every_ms", self.probe_every_ms),
            ("probe_timeout_ms", self.probe_timeout_ms),
        ];
        crate::config::refuse_zero("discovery", &positive)
    }
}

/// What the settings say about where modules are.
pub type Endpoints = BTreeMap<(String, Interface), Vec<Address>>;

/// Starts finding modules as the settings say. Must be called within a runtime.
///
/// # Errors
/// An endpoint that is no address, or a setting that is wrong; names the key.
pub fn start(settings: &crate::config::Settings, stop: &CancellationToken) -> anyhow::Result<Arc<dyn Discovery>> {
    let own: Settings = settings.section("discovery")?;
    own.check()?;
    let endpoints = endpoints(settings)?;
    Ok(match own.kind {
        Kind::Static => Arc::new(fixed::Fixed::new(endpoints)),
        Kind::Dns => Arc::new(dns::Dns::new(
            endpoints,
            Arc::new(dns::System),
            Duration::from_millis(own.dns_refresh_ms),
            stop,
        )),
        Kind::Etcd => Arc::new(etcd::Etcd::start(&own, endpoints, stop)?),
    })
}

/// Tells who listens, if something changed.
fn tell(told: &watch::Sender<Vec<Address>>, module: &str, interface: Interface, addresses: Vec<Address>) {
    told.send_if_modified(|known| {
        if *known == addresses {
            return false;
        }
        let shown = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        info!(
            module,
            interface = interface.name(),
            instances = shown,
            "the instances of a module changed"
        );
        *known = addresses;
        true
    });
}

/// The key under which the settings say where a module answers.
pub fn endpoint_key(module: &str, interface: Interface) -> String {
    match interface {
        Interface::Rpc => format!("modules.{module}.endpoint"),
        Interface::Http => format!("modules.{module}.http_endpoint"),
    }
}

/// The endpoints of all modules in the settings.
///
/// # Errors
/// One that is no address; names the key.
pub fn endpoints(settings: &crate::config::Settings) -> anyhow::Result<Endpoints> {
    let mut endpoints = Endpoints::new();
    for (module, placement) in &settings.modules {
        for (interface, text) in [
            (Interface::Rpc, &placement.endpoint),
            (Interface::Http, &placement.http_endpoint),
        ] {
            let (Some(text), key) = (text, endpoint_key(module, interface)) else {
                continue;
            };
            let written = text.split(',').map(str::trim).filter(|endpoint| !endpoint.is_empty());
            let mut addresses: Vec<Address> = written
                .map(|endpoint| endpoint.parse().context(key.clone()))
                .collect::<anyhow::Result<_>>()?;
            addresses.sort();
            addresses.dedup();
            if addresses.is_empty() {
                bail!("{key} is set, but names no address; write http://host:port, or leave it out");
            }
            endpoints.insert((module.clone(), interface), addresses);
        }
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> crate::config::Settings {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        crate::config::Settings::from_sources(None, variables).unwrap()
    }

    #[test]
    fn every_default_stands_in_the_file() {
        assert_eq!(
            settings(&[]).section::<Settings>("discovery").unwrap(),
            Settings::default()
        );
    }

    #[tokio::test]
    async fn static_instances_are_the_endpoints_of_the_settings() {
        let settings = settings(&[
            (
                "BANYAN__MODULES__USERS__ENDPOINT",
                "http://users-2:9000, http://users-1:9000,http://users-2:9000",
            ),
            ("BANYAN__MODULES__USERS__HTTP_ENDPOINT", "https://users-1"),
        ]);
        let discovery = start(&settings, &CancellationToken::new()).unwrap();
        let known = |module: &str, interface| -> Vec<String> {
            let addresses = discovery.watch(module, interface).borrow().clone();
            addresses.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            known("users", Interface::Rpc),
            ["http://users-1:9000", "http://users-2:9000"]
        );
        assert_eq!(known("users", Interface::Http), ["https://users-1:443"]);
        assert!(known("orders", Interface::Rpc).is_empty());
    }

    #[tokio::test]
    async fn a_wrong_endpoint_is_named_by_its_key() {
        let wrong = |variable: &str, value: &str| {
            let settings = settings(&[(variable, value)]);
            format!("{:#}", start(&settings, &CancellationToken::new()).err().unwrap())
        };
        assert!(
            wrong("BANYAN__MODULES__USERS__ENDPOINT", "http://users:9000,users-2").contains("modules.users.endpoint")
        );
        assert!(wrong("BANYAN__MODULES__USERS__HTTP_ENDPOINT", " , ").contains("modules.users.http_endpoint"));
        assert!(wrong("BANYAN__DISCOVERY__PROBE_EVERY_MS", "0").contains("discovery.probe_every_ms"));
        assert!(wrong("BANYAN__DISCOVERY__KIND", "etcd").contains("discovery.etcd_endpoints"));
    }
}
