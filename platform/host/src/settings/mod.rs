//! Settings: defaults < `banyan.toml` < `BANYAN__*` < `BANYAN__*_FILE`. Unknown keys are errors.
//!
//! They are read once into typed sections; each part of the platform gets its own section, and so does each module.

#[cfg_attr(not(feature = "modules"), path = "no_durable.rs")]
mod durable;
mod http;
mod servers;
mod show;
mod sources;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::bail;
use banyan_http::{AllowedHosts, LOOPBACK};
use banyan_remote::discovery::{self, Endpoints, Interface, endpoint_key};
use config::{Config, ValueKind};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use durable::DurableSettings;
pub use http::Http;
pub use sources::{Defaults, Section};

/// All settings, checked.
#[derive(Clone, Debug, Deserialize)]
pub struct Settings {
    pub profile: Profile,
    pub data_dir: PathBuf,
    pub plaintext_hosts: Vec<String>,
    pub http: Http,
    pub admin: Admin,
    pub database: Database,
    /// By the names of all modules.
    #[serde(default)]
    pub modules: BTreeMap<String, ModuleSettings>,
    pub auth: Auth,
    pub rate_limit: RateLimit,
    pub log: Log,
    pub bus: banyan_bus::Settings,
    pub rpc: banyan_remote::grpc::Settings,
    pub discovery: discovery::Settings,
    #[serde(default)]
    pub mtls: banyan_remote::mtls::Settings,
    pub gateway: banyan_gateway::Settings,
    pub durable: DurableSettings,
    #[serde(skip)]
    all: Sources,
}

/// All settings as they were read, secrets included, so its `Debug` output shows none.
#[derive(Clone, Default)]
struct Sources(Config);

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    Demo,
    Prod,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Admin {
    pub listen: Option<SocketAddr>,
    pub plaintext: bool,
    pub on_api: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Database {
    pub url: Option<SecretString>,
    pub login_per_module: bool,
}

/// `[modules.<name>]`: the database of a module, and its addresses if it is remote.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ModuleSettings {
    pub database_url: Option<SecretString>,
    /// For other modules: gRPC, comma-separated.
    pub endpoint: Option<String>,
    /// For the gateway: REST, comma-separated.
    pub http_endpoint: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Auth {
    pub issuer: String,
    pub audience: String,
    pub signing_key_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct RateLimit {
    per_second: u32,
    burst: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

impl Settings {
    /// Reads all sources. `file` must exist if it is given; `banyan.toml` need not.
    ///
    /// # Errors
    /// Names the key, its source, and a valid value.
    pub fn load(defaults: &Defaults, file: Option<&Path>) -> anyhow::Result<Settings> {
        Settings::from_sources(defaults, sources::read_file(file)?, sources::own_variables()?)
    }

    /// As [`load`](Settings::load), from a file's text and the given environment: for tests.
    ///
    /// # Errors
    /// As [`load`](Settings::load).
    pub fn from_sources(
        defaults: &Defaults,
        file: Option<(PathBuf, String)>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> anyhow::Result<Settings> {
        let all = sources::read(defaults, file, environment)?;
        let mut settings: Settings = sources::typed(&all)?;
        for module in &defaults.modules {
            settings.modules.entry((*module).to_owned()).or_default();
        }
        settings.all = Sources(all);
        let checked = settings.check_urls().and_then(|()| settings.check());
        match checked {
            Ok(()) => Ok(settings),
            Err(error) => Err(settings.with_origins(error)),
        }
    }

    /// The error, with where each setting comes from that it names.
    pub fn with_origins(&self, error: anyhow::Error) -> anyhow::Error {
        let text = format!("{error:#}");
        let is_named = |key: &str| {
            text.match_indices(key).any(|(at, _)| {
                let behind = text[at + key.len()..].chars().next();
                !behind.is_some_and(|next| next.is_ascii_alphanumeric() || next == '_')
            })
        };
        let leaves = sources::flatten(&self.all.0).unwrap_or_default();
        let origins = leaves.iter().filter(|(key, _)| key.contains('.') && is_named(key));
        let origins: Vec<String> = origins
            .filter_map(|(key, value)| Some(format!("{key} comes from {}", value.origin()?)))
            .filter(|origin| !text.contains(origin.rsplit(' ').next().unwrap_or_default()))
            .collect();
        if origins.is_empty() {
            return error;
        }
        anyhow::anyhow!("{text} ({})", origins.join(", "))
    }

    /// A URL whose parts cannot be told apart is refused before anything connects to a part of its password.
    fn check_urls(&self) -> anyhow::Result<()> {
        for (key, value) in sources::flatten(&self.all.0)? {
            if !show::is_url(key.rsplit('.').next().unwrap_or_default()) {
                continue;
            }
            let origin = value.origin().map(|origin| format!(" ({origin})")).unwrap_or_default();
            let texts = match value.kind {
                ValueKind::Array(items) => items
                    .into_iter()
                    .map(|item| item.into_string())
                    .collect::<Result<_, _>>()?,
                ValueKind::Nil => Vec::new(),
                _ => vec![value.into_string()?],
            };
            for text in texts {
                banyan_core::check_url(&text).map_err(|wrong| anyhow::anyhow!("{key}{origin} {wrong}"))?;
            }
        }
        Ok(())
    }

    /// The section of a module's own settings, empty if it has none.
    pub fn section_of(&self, module: &str) -> Section {
        Section::of(&self.all.0, module, self.is_demo())
    }

    /// The configured endpoints of remote modules.
    ///
    /// # Errors
    /// An endpoint that is not an address; names the key.
    pub fn endpoints(&self) -> anyhow::Result<Endpoints> {
        let mut endpoints = Endpoints::new();
        for (module, configured) in &self.modules {
            for (interface, text) in [
                (Interface::Rpc, &configured.endpoint),
                (Interface::Http, &configured.http_endpoint),
            ] {
                if let Some(text) = text {
                    let addresses = discovery::read_endpoint(module, interface, text)?;
                    endpoints.insert((module.clone(), interface), addresses);
                }
            }
        }
        Ok(endpoints)
    }

    pub fn is_demo(&self) -> bool {
        self.profile == Profile::Demo
    }

    /// The maximum number of requests per second and caller, and of requests in a burst.
    pub fn rate_limit(&self) -> (u32, u32) {
        let by_profile = if self.is_demo() { 1_000 } else { 50 };
        let per_second = if self.rate_limit.per_second == 0 {
            by_profile
        } else {
            self.rate_limit.per_second
        };
        let burst = if self.rate_limit.burst == 0 {
            per_second.saturating_mul(2)
        } else {
            self.rate_limit.burst
        };
        (per_second, burst)
    }

    /// The hosts that are served. Other processes call this one under its advertised name.
    pub fn allowed_hosts(&self) -> AllowedHosts {
        let mut hosts = self.http.hosts.clone();
        if hosts.is_empty() && self.is_demo() {
            hosts.push(LOOPBACK.to_owned());
        }
        if !hosts.is_empty() {
            let advertised = self
                .http
                .advertise
                .as_ref()
                .and_then(|advertised| advertised.rsplit_once(':'));
            hosts.extend(advertised.map(|(host, _)| host.trim_matches(['[', ']']).to_owned()));
        }
        AllowedHosts::only(hosts)
    }

    /// The effective settings as TOML, without secrets.
    ///
    /// # Errors
    /// Settings that cannot be written as TOML, which would be a bug.
    pub fn show(&self) -> anyhow::Result<String> {
        show::show(&self.all.0)
    }

    /// Whether metrics, documentation and the details of health are served on the API's address.
    pub fn admin_on_api(&self) -> bool {
        self.admin
            .on_api
            .unwrap_or(self.is_demo() && self.admin.listen.is_none())
    }

    /// Checks settings that depend on each other or on the profile.
    fn check(&self) -> anyhow::Result<()> {
        self.check_listens()?;
        self.http.check()?;
        if self.profile == Profile::Prod && self.database.login_per_module {
            let derived_from = self.database.url.as_ref().map(ExposeSecret::expose_secret);
            if derived_from.is_some_and(|url| !has_password(url)) {
                bail!(
                    "database.url has no password, but the modules' logins have passwords derived from it, which anyone could then compute; give it \
                     one, or set database.login_per_module = false"
                );
            }
        }
        if self.profile == Profile::Prod {
            self.check_servers()?;
        }
        for (name, url) in self.database_urls() {
            if !["postgres://", "postgresql://"]
                .iter()
                .any(|scheme| url.starts_with(scheme))
            {
                bail!(
                    "{name} must be a postgres:// URL, such as postgres://user:password@localhost:5432/shop; without it the data is kept in SQLite files"
                );
            }
        }
        Ok(())
    }

    /// Passwords, tokens and events cross a network only with TLS, unless the operator says that it is trusted.
    fn check_servers(&self) -> anyhow::Result<()> {
        let mut urls = self.database_urls();
        urls.extend(
            self.bus
                .url
                .iter()
                .map(|url| ("bus.url".to_owned(), url.expose_secret())),
        );
        let etcd = self.discovery.etcd_endpoints.iter();
        urls.extend(etcd.map(|url| ("discovery.etcd_endpoints".to_owned(), url.as_str())));
        // With `https` both sides have certificates, and need no login.
        for ((module, interface), addresses) in self.endpoints()? {
            let plaintext = addresses.iter().filter(|address| !address.is_tls());
            for address in plaintext.map(ToString::to_string) {
                if let Some(refusal) = servers::refusal(&address, &self.plaintext_hosts) {
                    bail!("{} {refusal}", endpoint_key(&module, interface));
                }
            }
        }
        for (key, url) in urls {
            if let Some(refusal) = servers::refusal(url, &self.plaintext_hosts) {
                bail!("{key} {refusal}");
            }
        }
        Ok(())
    }

    /// Checks the addresses the process listens on, and what it serves there in plaintext.
    fn check_listens(&self) -> anyhow::Result<()> {
        let beyond_loopback = |listen: SocketAddr| Some(listen).filter(|listen| !listen.ip().is_loopback());
        let (api, admin) = (
            beyond_loopback(self.http.listen),
            self.admin.listen.and_then(beyond_loopback),
        );
        for (name, listen) in [("http.listen", api), ("admin.listen", admin)] {
            if let Some(listen) = listen.filter(|_| self.is_demo()) {
                bail!(
                    "{name} is {listen}, but the profile is demo, which has known passwords and listens on loopback only; set BANYAN__PROFILE=prod"
                );
            }
        }
        // With [mtls] both sides authenticate, but the edge is never served with it: `Transport::of` checks that.
        let between_processes = self.mtls.certificate_file.is_some();
        if let Some(listen) = api.filter(|_| !self.http.behind_tls && !self.http.has_tls() && !between_processes) {
            bail!(
                "http.listen is {listen} without TLS; listen on loopback, set http.tls_certificate_file and http.tls_key_file, or set \
                 http.behind_tls = true if something in front terminates TLS"
            );
        }
        if let Some(listen) = admin.filter(|_| !self.admin.plaintext) {
            bail!(
                "admin.listen is {listen}, and health, metrics and documentation are served there in plaintext; listen on loopback, or set \
                 admin.plaintext = true if only the internal network reaches it"
            );
        }
        Ok(())
    }

    fn database_urls(&self) -> Vec<(String, &str)> {
        let of_modules = self.modules.iter().map(|(module, configured)| {
            (
                format!("modules.{module}.database_url"),
                configured.database_url.as_ref(),
            )
        });
        let all = of_modules.chain([("database.url".to_owned(), self.database.url.as_ref())]);
        all.filter_map(|(name, url)| url.map(|url| (name, url.expose_secret())))
            .collect()
    }
}

fn has_password(url: &str) -> bool {
    let login = url
        .split_once("://")
        .and_then(|(_, rest)| rest.rsplit_once('@'))
        .map(|(login, _)| login);
    login
        .and_then(|login| login.split_once(':'))
        .is_some_and(|(_, password)| !password.is_empty())
}
