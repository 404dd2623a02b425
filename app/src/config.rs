//! Settings: defaults < `banyan.toml` < `BANYAN__*` < `BANYAN__*_FILE`. Unknown keys are errors.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt, fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use config::{Config, File, FileFormat, Value, ValueKind};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};

use crate::wiring;

/// Every setting with its default and its comment.
pub const DEFAULTS: &str = concat!(
    include_str!("../../platform/host/config/default.toml"),
    "\n",
    include_str!("../config/default.toml"),
);

/// The modules, in the order in which they are started: each after those it asks.
pub const MODULES: [&str; 7] = [
    "users",
    "catalog",
    "inventory",
    "payments",
    "shipping",
    "orders",
    "notifications",
];

/// Everything that can be set, checked. A module's own section is read by [`section`](Settings::section), with that module's type.
#[derive(Clone, Debug, Deserialize)]
pub struct Settings {
    pub profile: Profile,
    pub data_dir: PathBuf,
    pub http: Http,
    pub admin: Admin,
    pub database: Database,
    pub modules: BTreeMap<String, Placement>,
    pub auth: Auth,
    pub rate_limit: RateLimit,
    pub log: Log,
    #[serde(skip)]
    all: Sources,
}

/// Everything as it was read, secrets included; so it never prints itself.
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
pub struct Http {
    pub listen: SocketAddr,
    pub advertise: Option<String>,
    pub tls_certificate_file: Option<PathBuf>,
    pub tls_key_file: Option<PathBuf>,
    pub workers: usize,
    pub behind_tls: bool,
    pub trusted_proxies: Vec<IpAddr>,
    pub receive_timeout_ms: u64,
    pub shutdown_timeout_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Admin {
    pub listen: Option<SocketAddr>,
    pub plaintext: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Database {
    pub url: Option<SecretString>,
    pub login_per_module: bool,
}

impl Http {
    fn has_tls(&self) -> bool {
        self.tls_certificate_file.is_some() && self.tls_key_file.is_some()
    }
}

/// Where one module is.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Placement {
    pub database_url: Option<SecretString>,
    /// Where it answers other modules, if it is not in this binary: gRPC, comma-separated.
    pub endpoint: Option<String>,
    /// Where it answers the gateway: REST, comma-separated.
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
    /// Names the key, where it stands, and what would be right.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Settings> {
        let given = match file {
            Some(path) => Some(path.to_owned()),
            None => Some(PathBuf::from("banyan.toml")).filter(|path| path.exists()),
        };
        let file = given.map(|path| {
            fs::read_to_string(&path)
                .with_context(|| format!("reading the settings file {}", path.display()))
                .map(|text| (path, text))
        });
        Settings::from_sources(file.transpose()?, own_variables()?)
    }

    /// As [`load`](Settings::load), from a file's text and an environment of the caller's: for tests.
    ///
    /// # Errors
    /// As [`load`](Settings::load).
    pub fn from_sources(
        file: Option<(PathBuf, String)>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> anyhow::Result<Settings> {
        let known = KnownKeys::of_defaults()?;
        let mut builder = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some((path, text)) = file {
            let source = File::from_str(&text, FileFormat::Toml);
            let name = path.display().to_string();
            let alone = Config::builder()
                .add_source(source.clone())
                .build()
                .with_context(|| format!("{name} is not TOML"))?;
            for (key, value) in flatten(&alone)? {
                known.check(&key, &name)?;
                builder = builder.set_override(&key, Value::new(Some(&name), value.kind))?;
            }
        }
        let mut given = Vec::new();
        for (variable, text) in environment {
            given.extend(known.read_environment(&variable, text)?);
        }
        given.sort_by_key(|given| given.from_file);
        for Given {
            variable, key, kind, ..
        } in given
        {
            builder = builder.set_override(&key, Value::new(Some(&variable), kind))?;
        }
        let all = builder.build()?;
        let mut settings: Settings = all.clone().try_deserialize().context("a setting is wrong")?;
        settings.all = Sources(all);
        settings.check()?;
        wiring::check_sections(&settings)?;
        Ok(settings)
    }

    /// A module's own section, as that module's type.
    ///
    /// # Errors
    /// Names the key and where it stands.
    pub fn section<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<T> {
        let ValueKind::Table(sections) = &self.all.0.cache.kind else {
            bail!("the settings are no table")
        };
        // Read from the values themselves and not by `Config::get`, whose errors name the section instead of the key.
        let section = sections
            .get(name)
            .cloned()
            .unwrap_or_else(|| Value::new(None, ValueKind::Table(config::Map::new())));
        let given = places_of(&section);
        let wrong = || match &given[..] {
            [] => format!("a setting in [{name}] is wrong"),
            given => format!(
                "a setting in [{name}] is wrong, which is one of those in {}",
                given.join(", ")
            ),
        };
        T::deserialize(section).with_context(wrong)
    }

    /// Whether a setting that has no default was given.
    pub fn is_set(&self, key: &str) -> bool {
        self.all.0.get::<Value>(key).is_ok()
    }

    pub fn is_demo(&self) -> bool {
        self.profile == Profile::Demo
    }

    /// Requests per second and caller, and how many may come at once.
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

    /// The effective settings as TOML, without secrets.
    ///
    /// # Errors
    /// If they cannot be written, which would be a bug.
    pub fn show(&self) -> anyhow::Result<String> {
        let mut table = toml::Table::new();
        for (key, value) in flatten(&self.all.0)? {
            let mut at = &mut table;
            let mut path: Vec<&str> = key.split('.').collect();
            let leaf = path.pop().unwrap_or_default();
            for part in path {
                let entry = at.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
                at = entry.as_table_mut().context("a section is not a table")?;
            }
            at.insert(leaf.to_owned(), shown(leaf, value)?);
        }
        Ok(toml::to_string_pretty(&table)?)
    }

    /// What is allowed only together, or only in one profile.
    fn check(&self) -> anyhow::Result<()> {
        self.check_listens()?;
        if self.profile == Profile::Prod && !self.auth.issuer.starts_with("https://") {
            bail!(
                "auth.issuer is {}, but the profile prod needs an https:// URL: it is what clients check tokens against",
                self.auth.issuer
            );
        }
        if self.profile == Profile::Prod && self.database.login_per_module {
            let derived_from = self.database.url.as_ref().map(ExposeSecret::expose_secret);
            if derived_from.is_some_and(|url| !has_password(url)) {
                bail!(
                    "database.url has no password, but the modules' logins have passwords derived from it, which anybody could then compute; give it \
                     one, or set database.login_per_module = false"
                );
            }
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

    /// Who could hear the shop, and what it tells them.
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
        // Between processes the other side proves who it is, and the edge is never served so: the server looks at that again.
        let between_processes = self.is_set("mtls.certificate_file");
        if let Some(listen) = api.filter(|_| !self.http.behind_tls && !self.http.has_tls() && !between_processes) {
            bail!(
                "http.listen is {listen} without TLS; listen on loopback, set http.tls_certificate_file and http.tls_key_file, or set \
                 http.behind_tls = true if something in front terminates TLS"
            );
        }
        if let Some(listen) = admin.filter(|_| !self.admin.plaintext) {
            bail!(
                "admin.listen is {listen}, and health, metrics and documentation are served there in plaintext; listen on loopback, or set \
                 admin.plaintext = true if only the inner network reaches it"
            );
        }
        Ok(())
    }

    fn database_urls(&self) -> Vec<(String, &str)> {
        let of_modules = self
            .modules
            .iter()
            .map(|(module, at)| (format!("modules.{module}.database_url"), at.database_url.as_ref()));
        let all = of_modules.chain([("database.url".to_owned(), self.database.url.as_ref())]);
        all.filter_map(|(name, url)| url.map(|url| (name, url.expose_secret())))
            .collect()
    }
}

/// For settings that mean nothing at zero: a time in which nothing can be done, room for nobody.
///
/// # Errors
/// Names the first of `section` that is zero.
pub fn refuse_zero(section: &str, settings: &[(&str, u64)]) -> anyhow::Result<()> {
    match settings.iter().find(|(_, value)| *value == 0) {
        Some((key, _)) => bail!("{section}.{key} must be at least 1"),
        None => Ok(()),
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

/// How the variables begin that are settings.
const OF_SETTINGS: &str = "BANYAN__";

/// The environment's variables that are settings; what others hold is not ours to judge.
fn own_variables() -> anyhow::Result<Vec<(String, String)>> {
    let named = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let own = named.filter(|(name, _)| name.starts_with(OF_SETTINGS));
    own.map(|(name, value)| {
        let value = value
            .into_string()
            .ok()
            .with_context(|| format!("{name} is not UTF-8"))?;
        Ok((name, value))
    })
    .collect()
}

/// What a variable sets.
struct Given {
    variable: String,
    /// Whether it names the file with the value.
    from_file: bool,
    key: String,
    kind: ValueKind,
}

/// Which keys there are: those of the defaults, and those that stand there commented out because they have none.
struct KnownKeys {
    with_default: BTreeMap<String, Value>,
    without_default: BTreeSet<String>,
}

impl KnownKeys {
    fn of_defaults() -> anyhow::Result<Self> {
        let defaults = Config::builder()
            .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
            .build()?;
        let mut without_default = BTreeSet::new();
        let mut section = String::new();
        for line in DEFAULTS.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = format!("{name}.");
            }
            let commented_out = line
                .strip_prefix("# ")
                .and_then(|line| line.split_once(" = "))
                .map(|(key, _)| key);
            if let Some(key) =
                commented_out.filter(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b"_.".contains(&b)))
            {
                without_default.insert(format!("{section}{key}"));
            }
        }
        Ok(KnownKeys {
            with_default: flatten(&defaults)?,
            without_default,
        })
    }

    fn contains(&self, key: &str) -> bool {
        self.with_default.contains_key(key) || self.without_default.contains(key)
    }

    fn check(&self, key: &str, place: &str) -> anyhow::Result<()> {
        if self.contains(key) {
            return Ok(());
        }
        let all = || self.with_default.keys().chain(&self.without_default);
        let leaf = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let section = key.rsplit_once('.').map_or("", |(section, _)| section);
        let near: Vec<&str> = match all().find(|known| leaf(known) == leaf(key)) {
            Some(elsewhere) => vec![elsewhere],
            None => all()
                .filter(|known| known.rsplit_once('.').map_or("", |(s, _)| s) == section)
                .map(String::as_str)
                .collect(),
        };
        let hint = if near.is_empty() {
            "`banyan config defaults` shows all".to_owned()
        } else {
            format!("did you mean {}?", near.join(", "))
        };
        bail!("{place} sets {key}, but there is no such setting; {hint}")
    }

    /// What an environment variable sets, if it is one of ours.
    fn read_environment(&self, variable: &str, text: String) -> anyhow::Result<Option<Given>> {
        // The tests' own variables and the name of the settings file are no settings.
        let Some(path) = variable.strip_prefix(OF_SETTINGS) else {
            return Ok(None);
        };
        let key = path.to_lowercase().replace("__", ".");
        let (from_file, key, text) = match key.strip_suffix("_file") {
            Some(plain) if !self.contains(&key) && self.contains(plain) => {
                let text = fs::read_to_string(&text)
                    .with_context(|| format!("{variable} names the file {text}, which cannot be read"))?;
                (true, plain.to_owned(), text.trim_end_matches(['\r', '\n']).to_owned())
            }
            _ => (false, key, text),
        };
        self.check(&key, variable)?;
        let is_list = matches!(
            self.with_default.get(&key).map(|value| &value.kind),
            Some(ValueKind::Array(_))
        );
        let kind = if is_list {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            ValueKind::Array(items.map(|item| Value::new(Some(&variable.to_owned()), item)).collect())
        } else {
            ValueKind::String(text)
        };
        Ok(Some(Given {
            variable: variable.to_owned(),
            from_file,
            key,
            kind,
        }))
    }
}

/// Every leaf under its dotted key.
fn flatten(config: &Config) -> anyhow::Result<BTreeMap<String, Value>> {
    fn walk(prefix: &str, value: Value, into: &mut BTreeMap<String, Value>) {
        match value.kind {
            ValueKind::Table(table) => {
                for (key, value) in table {
                    walk(
                        &if prefix.is_empty() {
                            key
                        } else {
                            format!("{prefix}.{key}")
                        },
                        value,
                        into,
                    );
                }
            }
            _ => drop(into.insert(prefix.to_owned(), value)),
        }
    }
    let mut leaves = BTreeMap::new();
    walk("", config.cache.clone(), &mut leaves);
    Ok(leaves)
}

/// A value as `config show` prints it: secrets hidden, URLs without their password.
fn shown(leaf: &str, value: Value) -> anyhow::Result<toml::Value> {
    if leaf.contains("secret") || leaf.contains("password") {
        return Ok(toml::Value::String("(hidden)".to_owned()));
    }
    Ok(match value.kind {
        ValueKind::Boolean(value) => toml::Value::Boolean(value),
        ValueKind::I64(value) => toml::Value::Integer(value),
        ValueKind::Float(value) => toml::Value::Float(value),
        ValueKind::Array(items) => toml::Value::Array(
            items
                .into_iter()
                .map(|item| shown(leaf, item))
                .collect::<anyhow::Result<_>>()?,
        ),
        _ if leaf.ends_with("url") => toml::Value::String(banyan_core::without_password(&value.into_string()?)),
        _ => toml::Value::String(value.into_string()?),
    })
}

/// Where those settings of a section stand that somebody gave: variables, files. What a type itself refuses comes without its place.
fn places_of(section: &Value) -> Vec<String> {
    let ValueKind::Table(settings) = &section.kind else {
        return Vec::new();
    };
    let places: BTreeSet<&str> = settings.values().filter_map(Value::origin).collect();
    places.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
