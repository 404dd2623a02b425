//! Where every module is: in this binary, or at an address. Read this file first.
//!
//! Which modules a binary contains is decided by its features ([`local`]); where the others are is configuration. Whoever asks a module
//! cannot tell the difference: it holds the same contract.

use std::{net::SocketAddr, sync::Arc};

use anyhow::bail;
use banyan_core::{Clock, Ids, RandomIds, SystemClock};
use serde::Serialize;

use crate::{
    bus::{self, LISTENERS},
    config::{MODULES, Settings},
    discovery::{self, Address, Instance, Interface},
    gateway, local, mtls, rpc,
};

/// What all modules are given alike.
#[derive(Clone)]
pub struct Ground {
    pub settings: Settings,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
}

impl Ground {
    pub fn new(settings: Settings) -> Self {
        Ground {
            settings,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
        }
    }
}

/// Who asks whom. Besides, whoever checks tokens asks users for the keys they are signed with.
const ASKS: &[(&str, &[&str])] = &[
    ("orders", &["catalog", "inventory", "payments", "shipping"]),
    ("notifications", &["users"]),
];

/// The modules that the gateway's pages are composed of.
const PAGES_ASK: &[&str] = &["users", "catalog", "payments", "shipping", "orders"];

/// The modules that `module` asks through their contracts.
fn asked_by(module: &str) -> &'static [&'static str] {
    ASKS.iter()
        .find(|(asking, _)| *asking == module)
        .map_or(&[], |(_, asked)| asked)
}

/// The aggregates that `module` hears, as `<source>.<aggregate>`.
pub fn topics_of(module: &str) -> &'static [&'static str] {
    LISTENERS
        .iter()
        .find(|(listener, _)| *listener == module)
        .map_or(&[], |(_, topics)| topics)
}

/// The modules whose events `module` hears.
fn heard_by(module: &str) -> impl Iterator<Item = &'static str> {
    topics_of(module)
        .iter()
        .filter_map(|topic| topic.split_once('.'))
        .map(|(source, _)| source)
}

/// The modules that are not in this binary.
pub fn elsewhere() -> Vec<&'static str> {
    let here = local::modules();
    MODULES.into_iter().filter(|module| !here.contains(module)).collect()
}

/// The modules that this process asks and that are not in it.
pub fn asked_elsewhere() -> Vec<&'static str> {
    let here = local::modules();
    elsewhere()
        .into_iter()
        .filter(|module| !askers_of(module, &here, gateway::IS_HERE).is_empty())
        .collect()
}

/// Why a binary of these modules, and of the gateway or not, asks `module`, in words.
fn askers_of(module: &str, here: &[&str], edge: bool) -> Vec<String> {
    let mut reasons = Vec::new();
    for here in here {
        if asked_by(here).contains(&module) {
            reasons.push(format!("{here} asks"));
        }
        if heard_by(here).any(|source| source == module) {
            reasons.push(format!("{here} follows the events of"));
        }
    }
    if edge && PAGES_ASK.contains(&module) {
        reasons.push("the gateway's pages ask".to_owned());
    }
    if module == "users" {
        reasons.push("whoever checks tokens asks".to_owned());
    }
    reasons
}

/// Whether everything that the modules of this binary need has an address, and whether they can be reached themselves.
///
/// # Errors
/// What is missing, all of it, each with the setting that would be right.
pub fn check(settings: &Settings) -> anyhow::Result<()> {
    let missing = Missing {
        here: local::modules(),
        edge: gateway::IS_HERE,
        settings,
    }
    .sentences()?;
    for module in local::modules() {
        let at = settings.modules.get(module);
        if at.is_some_and(|at| at.endpoint.is_some() || at.http_endpoint.is_some()) {
            // As where all processes are given the same list of endpoints.
            tracing::info!(
                module,
                "the settings name an endpoint of a module that is in this binary; the one in this binary is used"
            );
        }
    }
    if missing.is_empty() {
        Ok(())
    } else {
        bail!("{}", missing.join("\n"))
    }
}

/// Whether what connects processes can be read, in whichever of them.
///
/// # Errors
/// Names the key and where it stands.
pub fn check_sections(settings: &Settings) -> anyhow::Result<()> {
    settings.section::<discovery::Settings>("discovery")?;
    settings.section::<bus::Settings>("bus")?;
    settings.section::<rpc::Settings>("rpc")?;
    Ok(())
}

/// Finds what a binary with these modules lacks.
struct Missing<'a> {
    here: Vec<&'static str>,
    edge: bool,
    settings: &'a Settings,
}

impl Missing<'_> {
    fn sentences(&self) -> anyhow::Result<Vec<String>> {
        let mut missing = Vec::new();
        if self.here.is_empty() && !self.edge {
            missing.push(
                "this binary contains neither a module nor the gateway; build it with --features, for example payments,rabbitmq".to_owned(),
            );
        }
        missing.extend(self.unsigned());
        missing.extend(self.unspeakable()?);
        // Instances in etcd say themselves where they are.
        let must_be_named = self
            .settings
            .section::<discovery::Settings>("discovery")?
            .needs_endpoints();
        let bus: bus::Settings = self.settings.section("bus")?;
        let rpc: rpc::Settings = self.settings.section("rpc")?;
        if must_be_named {
            missing.extend(self.unknown_addresses());
        }
        if bus.url.is_none() {
            missing.extend(self.unheard());
        }
        if rpc.listen.is_none() {
            missing.extend(self.unreachable());
        }
        Ok(missing)
    }

    /// A key to sign tokens with. Only users signs; the others ask it for the public keys.
    fn unsigned(&self) -> Option<String> {
        let has_key = self.settings.is_demo() || self.settings.auth.signing_key_file.is_some();
        (!has_key && self.here.contains(&"users")).then(|| {
            "the profile prod needs auth.signing_key_file (BANYAN__AUTH__SIGNING_KEY_FILE): an Ed25519 key in PEM, for example by \
             `openssl genpkey -algorithm ed25519`"
                .to_owned()
        })
    }

    /// Endpoints that could never be called: between two processes it is either plaintext or [mtls].
    fn unspeakable(&self) -> anyhow::Result<Vec<String>> {
        let secured = self.settings.section::<mtls::Settings>("mtls")? != mtls::Settings::default();
        let mut sentences = Vec::new();
        for ((module, interface), addresses) in discovery::endpoints(self.settings)? {
            let is_called = match interface {
                Interface::Rpc => !askers_of(&module, &self.here, self.edge).is_empty(),
                Interface::Http => self.edge,
            };
            let Some(wrong) = addresses.iter().find(|address| address.is_tls() != secured) else {
                continue;
            };
            if !is_called || !self.is_elsewhere(&module) {
                continue;
            }
            let key = discovery::endpoint_key(&module, interface);
            sentences.push(if secured {
                format!("{key} names {wrong}, which is plaintext, but [mtls] is set: write https://")
            } else {
                format!(
                    "{key} names {wrong}, which needs certificates: set ca_file, certificate_file and key_file in [mtls], or write http://"
                )
            });
        }
        Ok(sentences)
    }

    fn is_elsewhere(&self, module: &str) -> bool {
        !self.here.contains(&module)
    }

    /// Modules that are asked and have no address.
    fn unknown_addresses(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        for module in MODULES.into_iter().filter(|module| self.is_elsewhere(module)) {
            let at = self.settings.modules.get(module);
            let key = module.to_uppercase();
            let askers = askers_of(module, &self.here, self.edge);
            if !askers.is_empty() && at.is_none_or(|at| at.endpoint.is_none()) {
                sentences.push(format!(
                    "{} {module}, which is not in this binary and has no address: set BANYAN__MODULES__{key}__ENDPOINT=http://host:port, where it \
                     answers gRPC, or build with --features {module}",
                    askers.join(", ")
                ));
            }
            if self.edge && at.is_none_or(|at| at.http_endpoint.is_none()) {
                sentences.push(format!(
                    "the gateway passes requests on to {module}, which is not in this binary and has no address: set \
                     BANYAN__MODULES__{key}__HTTP_ENDPOINT=http://host:port, where it answers REST, or build with --features {module}"
                ));
            }
        }
        sentences
    }

    /// Events that would have to travel between processes without anything that carries them.
    fn unheard(&self) -> Option<String> {
        let between = |(listener, topics): &(&'static str, &[&str])| {
            let crosses = |source: &str| self.is_elsewhere(listener) != self.is_elsewhere(source);
            topics
                .iter()
                .filter_map(|topic| topic.split_once('.'))
                .find(|(source, _)| crosses(source))
                .map(|(source, _)| (*listener, source.to_owned()))
        };
        let (listener, source) = LISTENERS.iter().find_map(between)?;
        Some(format!(
            "{listener} hears the events of {source}, but only one of them is in this binary, and there is no broker to carry them: set \
             BANYAN__BUS__URL=amqp://user:password@host:5672/%2f"
        ))
    }

    /// Modules that others must be able to ask.
    fn unreachable(&self) -> Option<String> {
        let whole_shop = MODULES.iter().all(|module| !self.is_elsewhere(module));
        let asked_from_afar = |module: &&&str| {
            let by_module = MODULES.iter().any(|other| {
                self.is_elsewhere(other)
                    && (asked_by(other).contains(module) || heard_by(other).any(|source| source == **module))
            });
            by_module || **module == "users" || (!self.edge && PAGES_ASK.contains(module))
        };
        let module = self.here.iter().find(asked_from_afar).filter(|_| !whole_shop)?;
        Some(format!(
            "{module} is in this binary and is asked by modules that are not: set BANYAN__RPC__LISTEN=host:port, where it shall answer gRPC"
        ))
    }
}

/// What others are told of this process: its modules, and where they answer.
///
/// # Errors
/// An address nobody could call.
pub fn instance(
    settings: &Settings,
    http: SocketAddr,
    http_scheme: &str,
    rpc: Option<SocketAddr>,
) -> anyhow::Result<Instance> {
    let over_mtls = mtls::Identity::load(settings)?.is_some();
    let own: rpc::Settings = settings.section("rpc")?;
    let rpc = rpc
        .map(|listen| Address::advertised("rpc", over_mtls, listen, own.advertise.as_deref()))
        .transpose()?;
    let http = Address::advertised("http", http_scheme == "https", http, settings.http.advertise.as_deref())?;
    Ok(Instance::new(&local::modules(), rpc, Some(http)))
}

/// How one module is placed and connected, for people.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Placement {
    pub name: String,
    /// `local`: in this binary; `remote`: in another.
    pub placement: String,
    /// Where its data is; null if that is the affair of another binary.
    pub data: Option<String>,
    /// Where it answers, if it is in another binary.
    pub address: Option<String>,
    /// The modules it asks through their contracts.
    pub asks: Vec<String>,
    /// The aggregates of other modules whose events it hears.
    pub hears: Vec<String>,
}

impl Placement {
    pub fn is_local(&self) -> bool {
        self.placement == "local"
    }
}

/// How the modules are placed by these settings.
///
/// # Errors
/// A database URL that is none.
pub fn placements(settings: &Settings) -> anyhow::Result<Vec<Placement>> {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let here = local::modules();
    let discovered = !settings.section::<discovery::Settings>("discovery")?.needs_endpoints();
    let place = |module: &str| {
        let (placement, data, address) = if here.contains(&module) {
            ("local", Some(local::data_of(settings, module)?), None)
        } else {
            let named = settings
                .modules
                .get(module)
                .and_then(|at| at.endpoint.clone().or_else(|| at.http_endpoint.clone()));
            (
                "remote",
                None,
                named.or_else(|| discovered.then(|| "found by discovery".to_owned())),
            )
        };
        let hears = owned(topics_of(module));
        Ok(Placement {
            name: module.to_owned(),
            placement: placement.to_owned(),
            data,
            address,
            asks: owned(asked_by(module)),
            hears,
        })
    };
    MODULES.into_iter().map(place).collect()
}

/// The same as a mermaid diagram: solid lines are questions, dotted ones events.
pub fn mermaid(placements: &[Placement]) -> String {
    let mut lines = vec!["flowchart LR".to_owned()];
    for module in placements {
        lines.push(format!(
            "    {}[\"{} ({})\"]",
            module.name, module.name, module.placement
        ));
    }
    for module in placements {
        lines.extend(
            module
                .asks
                .iter()
                .map(|asked| format!("    {} --> {asked}", module.name)),
        );
        let sources = module.hears.iter().filter_map(|topic| topic.split_once('.'));
        lines.extend(sources.map(|(source, aggregate)| format!("    {source} -. {aggregate} .-> {}", module.name)));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a process with payments, and perhaps the gateway, lacks with these settings.
    fn missing(edge: bool, variables: &[(&str, &str)]) -> String {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings = Settings::from_sources(None, variables).unwrap();
        Missing {
            here: vec!["payments"],
            edge,
            settings: &settings,
        }
        .sentences()
        .unwrap()
        .join("\n")
    }

    #[test]
    fn an_endpoint_that_could_never_be_called_is_named_by_its_key() {
        let secured = ("BANYAN__MTLS__CA_FILE", "ca.pem");
        let users = |url| ("BANYAN__MODULES__USERS__ENDPOINT", url);
        let wrong = "modules.users.endpoint names http://users-2:9000, which is plaintext";
        assert!(missing(false, &[secured, users("https://users-1:9000,http://users-2:9000")]).contains(wrong));
        let wrong = "modules.users.endpoint names https://users-1:9000, which needs certificates";
        assert!(missing(false, &[users("https://users-1:9000")]).contains(wrong));
        let catalog = ("BANYAN__MODULES__CATALOG__HTTP_ENDPOINT", "https://catalog-1:8100");
        assert!(
            missing(true, &[catalog])
                .contains("modules.catalog.http_endpoint names https://catalog-1:8100, which needs")
        );
        // What this process never calls may be whatever it is for others.
        let orders = ("BANYAN__MODULES__ORDERS__ENDPOINT", "https://orders-1:9000");
        let own = ("BANYAN__MODULES__PAYMENTS__ENDPOINT", "https://payments-1:9000");
        for fine in [catalog, orders, own, users("http://users-1:9000")] {
            assert!(!missing(false, &[fine]).contains(" names "), "{fine:?}");
        }
        assert!(!missing(true, &[secured, users("https://users-1:9000"), catalog]).contains(" names "));
    }
}
