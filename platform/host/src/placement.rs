//! The placement of the modules: which are local, where the remote ones are, and which settings are missing.
//!
//! Features decide which modules a binary contains; the addresses of the others are configuration.

use std::net::SocketAddr;

use anyhow::bail;
use banyan_remote::discovery::{Address, Instance, Interface, endpoint_key};
use serde::Serialize;

use crate::{
    local,
    product::{Layout, ModuleLayout},
    settings::Settings,
};

/// Checks that everything the modules of this binary call has an address, and that they can be called by other processes.
///
/// # Errors
/// Everything that is missing, each with the setting to set.
pub fn check(layout: &Layout, settings: &Settings) -> anyhow::Result<()> {
    let missing = Missing { layout, settings }.sentences()?;
    for module in layout.local() {
        let configured = settings.modules.get(module);
        if configured.is_some_and(|module| module.endpoint.is_some() || module.http_endpoint.is_some()) {
            // This is usual if all processes share one list of endpoints.
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

/// Checks that the certificate of this process names all its modules, and the gateway.
///
/// # Errors
/// Names those that it does not name.
pub fn check_certificate(layout: &Layout, names: &[String]) -> anyhow::Result<()> {
    let needed = layout.names_in_certificate();
    let missing: Vec<&str> = needed
        .iter()
        .copied()
        .filter(|needed| !names.iter().any(|name| name == needed))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "mtls.certificate_file names {} in subjectAltName, but not {}, which is in this process: other processes would refuse its calls. Give it a \
         certificate with a DNS name, or a SPIFFE ID that ends in it, for each of them; scripts/dev-certs DIR {} makes one",
        if names.is_empty() {
            "nothing".to_owned()
        } else {
            names.join(", ")
        },
        missing.join(" and "),
        needed.join("+"),
    )
}

/// Finds what is missing in the settings.
struct Missing<'a> {
    layout: &'a Layout,
    settings: &'a Settings,
}

impl Missing<'_> {
    fn sentences(&self) -> anyhow::Result<Vec<String>> {
        let mut missing = Vec::new();
        if self.layout.local().is_empty() && !self.layout.is_edge {
            missing.push(
                "this binary contains neither a module nor the gateway; build it with --features, for example payments,rabbitmq".to_owned(),
            );
        }
        missing.extend(self.signing_key());
        missing.extend(self.issuer());
        missing.extend(self.wrong_schemes()?);
        // Instances in etcd register themselves.
        if self.settings.discovery.needs_endpoints() {
            missing.extend(self.endpoints());
        }
        if self.settings.bus.url.is_none() {
            missing.extend(self.broker());
        }
        if self.settings.rpc.listen.is_none() {
            missing.extend(self.rpc_listen());
        }
        Ok(missing)
    }

    /// The key that signs access tokens. Only one module signs; the others fetch the public keys from it.
    fn signing_key(&self) -> Option<String> {
        let has_key = self.settings.is_demo() || self.settings.auth.signing_key_file.is_some();
        let signs = self.layout.tokens_from.is_some_and(|module| self.is_local(module));
        (!has_key && signs).then(|| {
            "the profile prod needs auth.signing_key_file (BANYAN__AUTH__SIGNING_KEY_FILE): an Ed25519 key in PEM, for example by \
             `openssl genpkey -algorithm ed25519`"
                .to_owned()
        })
    }

    /// The issuer of access tokens, in a product that has them.
    fn issuer(&self) -> Option<String> {
        let issuer = &self.settings.auth.issuer;
        let is_usable = self.settings.is_demo() || issuer.starts_with("https://");
        (!is_usable && self.layout.tokens_from.is_some()).then(|| {
            format!(
                "auth.issuer is {}, but the profile prod needs an https:// URL: clients check tokens against it",
                banyan_core::without_password(issuer)
            )
        })
    }

    /// Endpoints that can never be called, because processes use either plaintext or [mtls] between them.
    fn wrong_schemes(&self) -> anyhow::Result<Vec<String>> {
        let secured = self.settings.mtls != banyan_remote::mtls::Settings::default();
        let mut sentences = Vec::new();
        for ((module, interface), addresses) in self.settings.endpoints()? {
            let is_called = match interface {
                Interface::Rpc => !self.layout.callers_of(&module).is_empty(),
                Interface::Http => self.layout.is_edge,
            };
            let Some(wrong) = addresses.iter().find(|address| address.is_tls() != secured) else {
                continue;
            };
            if !is_called || self.is_local(&module) {
                continue;
            }
            let key = endpoint_key(&module, interface);
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

    fn is_local(&self, module: &str) -> bool {
        self.layout.find(module).is_some_and(|module| module.is_local)
    }

    /// The addresses of remote modules that are called.
    fn endpoints(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        for module in self.layout.remote() {
            let configured = self.settings.modules.get(module);
            let key = module.to_uppercase();
            let callers = self.layout.callers_of(module);
            if !callers.is_empty() && configured.is_none_or(|module| module.endpoint.is_none()) {
                sentences.push(format!(
                    "{} {module}, which is not in this binary and has no address: set BANYAN__MODULES__{key}__ENDPOINT=http://host:port, where it \
                     serves gRPC, or build with --features {module}",
                    callers.join(", ")
                ));
            }
            if self.layout.is_edge && configured.is_none_or(|module| module.http_endpoint.is_none()) {
                sentences.push(format!(
                    "the gateway forwards requests to {module}, which is not in this binary and has no address: set \
                     BANYAN__MODULES__{key}__HTTP_ENDPOINT=http://host:port, where it serves REST, or build with --features {module}"
                ));
            }
        }
        sentences
    }

    /// The broker, if events have to be carried between processes.
    fn broker(&self) -> Option<String> {
        let between = |subscriber: &ModuleLayout| {
            let crosses = |source: &&str| subscriber.is_local != self.is_local(source);
            subscriber
                .sources()
                .find(crosses)
                .map(|source| (subscriber.name, source))
        };
        let (subscriber, source) = self.layout.modules.iter().find_map(between)?;
        Some(format!(
            "{subscriber} subscribes to the events of {source}, but only one of them is in this binary, and there is no broker between them: set \
             BANYAN__BUS__URL=amqp://user:password@host:5672/%2f"
        ))
    }

    /// The gRPC address, if remote modules call the modules of this process.
    fn rpc_listen(&self) -> Option<String> {
        if self.layout.remote().is_empty() {
            return None;
        }
        let is_called_remotely = |module: &&ModuleLayout| {
            let name = module.name;
            let remote = self.layout.modules.iter().filter(|other| !other.is_local);
            let by_module = remote
                .clone()
                .any(|other| other.calls.contains(&name) || other.subscribes_to(name));
            by_module || self.layout.tokens_from == Some(name) || (!self.layout.is_edge && self.is_of_pages(name))
        };
        let local = self.layout.modules.iter().filter(|module| module.is_local);
        let module = local.clone().find(is_called_remotely)?.name;
        Some(format!(
            "{module} is in this binary and is called by processes without it: set BANYAN__RPC__LISTEN=host:port, the address to serve gRPC on"
        ))
    }

    /// Whether the pages of an edge call the module.
    fn is_of_pages(&self, module: &str) -> bool {
        self.layout.pages_call.contains(&module)
    }
}

/// The registration of this process in discovery: its modules, and the addresses to call them at.
///
/// # Errors
/// An address that other processes cannot call.
pub fn instance(
    layout: &Layout,
    settings: &Settings,
    over_mtls: bool,
    http: SocketAddr,
    http_scheme: &str,
    rpc: Option<SocketAddr>,
) -> anyhow::Result<Instance> {
    let rpc = rpc
        .map(|listen| Address::advertised("rpc", over_mtls, listen, settings.rpc.advertise.as_deref()))
        .transpose()?;
    let http = Address::advertised("http", http_scheme == "https", http, settings.http.advertise.as_deref())?;
    Ok(Instance::new(&layout.local(), rpc, Some(http)))
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
/// A database URL that is not a URL.
pub fn placements(layout: &Layout, settings: &Settings) -> anyhow::Result<Vec<Placement>> {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let discovered = !settings.discovery.needs_endpoints();
    let placement = |module: &ModuleLayout| {
        let (placement, data, address) = if module.is_local {
            ("local", Some(local::data_of(settings, module.name)?), None)
        } else {
            let named = settings
                .modules
                .get(module.name)
                .and_then(|module| module.endpoint.clone().or_else(|| module.http_endpoint.clone()));
            let address = named.or_else(|| discovered.then(|| "found by discovery".to_owned()));
            ("remote", None, address)
        };
        Ok(Placement {
            name: module.name.to_owned(),
            placement: placement.to_owned(),
            data,
            address,
            asks: owned(module.calls),
            hears: owned(module.subscribes),
        })
    };
    layout.modules.iter().map(placement).collect()
}

/// The placements as a mermaid diagram: solid lines are calls, dotted lines events.
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
                .map(|called| format!("    {} --> {called}", module.name)),
        );
        let sources = module.hears.iter().filter_map(|topic| topic.split_once('.'));
        lines.extend(sources.map(|(source, aggregate)| format!("    {source} -. {aggregate} .-> {}", module.name)));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Defaults;

    const NAMES: [&str; 4] = ["users", "catalog", "payments", "orders"];

    /// What is missing for a process with payments, and the gateway if `is_edge`, in a product with other modules.
    fn missing(is_edge: bool, variables: &[(&str, &str)]) -> String {
        missing_in(is_edge, Some("users"), variables)
    }

    /// As [`missing`], with tokens from this module or from nowhere.
    fn missing_in(is_edge: bool, tokens_from: Option<&'static str>, variables: &[(&str, &str)]) -> String {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings = Settings::from_sources(&Defaults::new(NAMES.map(|name| (name, ""))), None, variables).unwrap();
        let module = |name| ModuleLayout {
            name,
            calls: &[],
            subscribes: &[],
            service: "",
            is_local: name == "payments",
        };
        let layout = Layout {
            modules: NAMES.map(module).to_vec(),
            tokens_from,
            token_calls: &[],
            is_edge,
            pages_call: &[],
        };
        let missing = Missing {
            layout: &layout,
            settings: &settings,
        };
        missing.sentences().unwrap().join("\n")
    }

    #[test]
    fn prod_needs_an_https_issuer_in_a_product_with_tokens_alone() {
        let prod = ("BANYAN__PROFILE", "prod");
        assert!(missing(false, &[prod]).contains("auth.issuer is http://localhost:8080"));
        let https = ("BANYAN__AUTH__ISSUER", "https://shop.example");
        assert!(!missing(false, &[prod, https]).contains("auth.issuer"));
        assert!(!missing(false, &[]).contains("auth.issuer"));
        assert!(!missing_in(false, None, &[prod]).contains("auth."));
    }

    #[test]
    fn a_process_does_not_start_with_a_certificate_that_lacks_one_of_its_modules() {
        let module = |name| ModuleLayout {
            name,
            calls: &[],
            subscribes: &[],
            service: "",
            is_local: name != "users",
        };
        let layout = Layout {
            modules: NAMES.map(module).to_vec(),
            tokens_from: None,
            token_calls: &[],
            is_edge: true,
            pages_call: &[],
        };
        let check = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            check_certificate(&layout, &names)
        };
        check(&["catalog", "gateway", "localhost", "orders", "payments"]).unwrap();
        let text = check(&["catalog", "localhost", "payments"]).unwrap_err().to_string();
        for part in [
            "orders and gateway",
            "catalog, localhost, payments",
            "scripts/dev-certs DIR catalog+payments+orders+gateway",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(check(&[]).is_err());
    }

    #[test]
    fn an_endpoint_that_can_never_be_called_is_reported_with_its_key() {
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
        // Endpoints this process never calls are not checked.
        let orders = ("BANYAN__MODULES__ORDERS__ENDPOINT", "https://orders-1:9000");
        let own = ("BANYAN__MODULES__PAYMENTS__ENDPOINT", "https://payments-1:9000");
        for fine in [catalog, orders, own, users("http://users-1:9000")] {
            assert!(!missing(false, &[fine]).contains(" names "), "{fine:?}");
        }
        assert!(!missing(true, &[secured, users("https://users-1:9000"), catalog]).contains(" names "));
    }
}
