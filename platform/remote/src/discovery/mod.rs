//! Which instances remote modules have.
//!
//! There are three kinds of [`Discovery`]; which of the instances are healthy, and which is called next, is decided by a
//! [`Balancer`](crate::balancing::Balancer). Discovery is independent of the protocol.

mod address;
mod dns;
#[cfg(feature = "etcd")]
mod etcd;
mod static_endpoints;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use async_trait::async_trait;
use banyan_core::refuse_zero;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use address::{Address, Instance};

/// An interface of a process.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    strum::Display,
    strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Interface {
    /// gRPC, by other modules.
    Rpc,
    /// REST, by gateways.
    Http,
}

impl Interface {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Knows the instances of every module.
#[async_trait]
pub trait Discovery: Send + Sync {
    /// The instances of a module as they are known now, sorted, each once; the receiver gets every change.
    fn watch(&self, module: &str, interface: Interface) -> watch::Receiver<Vec<Address>>;

    /// Registers this process until `stop`; kinds without a registry do nothing. Returns once it is registered, or, if the registry is
    /// unavailable, after a short time: registering is retried until `stop`.
    ///
    /// # Errors
    /// The instance cannot be called at any of its addresses.
    async fn register(&self, instance: Instance, stop: CancellationToken) -> anyhow::Result<()>;

    /// After the `stop` of [`register`](Discovery::register): waits until the registration is withdrawn.
    async fn withdrawn(&self) {}
}

/// How instances are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, strum::EnumString)]
#[serde(try_from = "String")]
#[strum(serialize_all = "snake_case")]
pub enum Kind {
    /// The endpoints in the settings.
    Static,
    /// The endpoints are names, and each address of a name is an instance.
    Dns,
    /// Instances register themselves.
    Etcd,
}

impl TryFrom<String> for Kind {
    type Error = String;

    fn try_from(text: String) -> Result<Kind, String> {
        text.parse()
            .map_err(|_| format!("{text:?} must be static, dns or etcd"))
    }
}

/// `[discovery]`; each setting is described in the file of defaults.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub kind: Kind,
    pub etcd_endpoints: Vec<String>,
    pub etcd_prefix: String,
    #[serde(default)]
    pub etcd_ca_file: Option<PathBuf>,
    pub etcd_lease_s: u64,
    pub probe_every_ms: u64,
    #[serde(skip)]
    pub timing: Timing,
}

/// How instances are probed.
#[derive(Clone, Copy, Debug)]
pub struct Probing {
    /// The interval between two probes of an instance.
    pub every: Duration,
    /// The timeout of a probe.
    pub timeout: Duration,
}

/// Times that are not settings.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The interval between two lookups of a name, and the timeout of one: the usual time to live of a DNS record in such networks.
    pub dns_refresh: Duration,
    /// The timeout of a request to etcd, after which the next of its URLs is tried; etcd itself elects a leader within about a second.
    pub etcd_timeout: Duration,
    /// The timeout of a probe. An instance that needs longer is too slow for its callers.
    pub probe_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            dns_refresh: Duration::from_secs(5),
            etcd_timeout: Duration::from_secs(2),
            probe_timeout: Duration::from_secs(1),
        }
    }
}

impl Settings {
    /// Whether the settings must name the instances, because they do not register themselves.
    pub fn needs_endpoints(&self) -> bool {
        self.kind != Kind::Etcd
    }

    /// The interval and the timeout of probes.
    pub fn probing(&self) -> Probing {
        Probing {
            every: Duration::from_millis(self.probe_every_ms),
            timeout: self.timing.probe_timeout,
        }
    }

    /// # Errors
    /// A number that cannot be 0 and is; names the key.
    pub fn check(&self) -> anyhow::Result<()> {
        let positive = [
            ("etcd_lease_s", self.etcd_lease_s),
            ("probe_every_ms", self.probe_every_ms),
        ];
        refuse_zero("discovery", &positive).map_err(anyhow::Error::msg)
    }
}

/// The addresses of modules in the settings.
pub type Endpoints = BTreeMap<(String, Interface), Vec<Address>>;

/// Starts the discovery that the settings choose. Must be called within a runtime.
///
/// # Errors
/// An invalid setting; names the key.
pub fn start(
    settings: &Settings,
    endpoints: Endpoints,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<dyn Discovery>> {
    settings.check()?;
    Ok(match settings.kind {
        Kind::Static => Arc::new(static_endpoints::StaticEndpoints::new(endpoints)),
        Kind::Dns => Arc::new(dns::Dns::new(
            endpoints,
            Arc::new(dns::System),
            settings.timing.dns_refresh,
            stop,
        )),
        Kind::Etcd => through_etcd(settings, endpoints, stop)?,
    })
}

#[cfg(feature = "etcd")]
fn through_etcd(
    settings: &Settings,
    endpoints: Endpoints,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<dyn Discovery>> {
    Ok(Arc::new(etcd::Etcd::start(settings, endpoints, stop)?))
}

#[cfg(not(feature = "etcd"))]
fn through_etcd(_: &Settings, _: Endpoints, _: &CancellationToken) -> anyhow::Result<Arc<dyn Discovery>> {
    bail!(
        "discovery.kind is etcd, but this binary was built without the feature `etcd`; build it with `--features etcd`, or use static or dns"
    )
}

/// Sends the instances to those that watch them, if they changed.
fn publish(known_instances: &watch::Sender<Vec<Address>>, module: &str, interface: Interface, addresses: Vec<Address>) {
    known_instances.send_if_modified(|known| {
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

/// The settings key of a module's address.
pub fn endpoint_key(module: &str, interface: Interface) -> String {
    match interface {
        Interface::Rpc => format!("modules.{module}.endpoint"),
        Interface::Http => format!("modules.{module}.http_endpoint"),
    }
}

/// Reads one module's endpoint as the settings write it: addresses, comma-separated.
///
/// # Errors
/// One that is not an address; names the key.
pub fn read_endpoint(module: &str, interface: Interface, text: &str) -> anyhow::Result<Vec<Address>> {
    let key = endpoint_key(module, interface);
    let written = text.split(',').map(str::trim).filter(|endpoint| !endpoint.is_empty());
    let mut addresses: Vec<Address> = written
        .map(|endpoint| endpoint.parse().context(key.clone()))
        .collect::<anyhow::Result<_>>()?;
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() {
        bail!("{key} is set, but names no address; write http://host:port, or leave it out");
    }
    Ok(addresses)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The defaults, of this kind.
    pub fn settings(kind: Kind) -> Settings {
        let file: toml::Table = include_str!("../../../host/config/default.toml").parse().unwrap();
        let defaults: Settings = file["discovery"].clone().try_into().unwrap();
        Settings { kind, ..defaults }
    }

    #[tokio::test]
    async fn static_instances_are_the_endpoints_of_the_settings() {
        let endpoint = |interface, text| {
            let key = ("users".to_owned(), interface);
            (key, read_endpoint("users", interface, text).unwrap())
        };
        let endpoints = Endpoints::from([
            endpoint(
                Interface::Rpc,
                "http://users-2:9000, http://users-1:9000,http://users-2:9000",
            ),
            endpoint(Interface::Http, "https://users-1"),
        ]);
        let discovery = start(&settings(Kind::Static), endpoints, &CancellationToken::new()).unwrap();
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
    async fn an_invalid_setting_is_named_by_its_key() {
        let endpoint = |interface, text| format!("{:#}", read_endpoint("users", interface, text).unwrap_err());
        assert!(endpoint(Interface::Rpc, "http://users:9000,users-2").contains("modules.users.endpoint"));
        assert!(endpoint(Interface::Http, " , ").contains("modules.users.http_endpoint"));
        let error = |settings: &Settings| {
            let started = start(settings, Endpoints::new(), &CancellationToken::new());
            format!("{:#}", started.err().unwrap())
        };
        let never_probed = Settings {
            probe_every_ms: 0,
            ..settings(Kind::Static)
        };
        assert!(error(&never_probed).contains("discovery.probe_every_ms must be at least 1"));
        if cfg!(feature = "etcd") {
            assert!(error(&settings(Kind::Etcd)).contains("discovery.etcd_endpoints"));
        }
    }
}
