//! The sources of the settings, and how they are merged.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use config::{Config, File, FileFormat, Value, ValueKind};
use serde::de::DeserializeOwned;

/// The platform's settings with their defaults and comments.
const PLATFORM: &str = include_str!("../../config/default.toml");

/// Every setting of a product, with its default and its comment.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// TOML; settings without a default are commented out.
    pub text: String,
    /// The names of all modules.
    pub modules: Vec<&'static str>,
}

impl Defaults {
    /// The platform's settings, then the placement of each module, then the modules' own sections. `modules` has each module's name and section.
    pub fn new<'a>(modules: impl IntoIterator<Item = (&'static str, &'a str)>) -> Self {
        let (modules, sections): (Vec<&'static str>, Vec<&str>) = modules.into_iter().unzip();
        let placements: String = (0..)
            .zip(&modules)
            .map(|(at, module)| module_placement(at, module))
            .collect();
        let sections: String = sections
            .into_iter()
            .filter(|section| !section.is_empty())
            .map(|section| format!("\n{}\n", section.trim_end()))
            .collect();
        Defaults {
            text: format!("{PLATFORM}\n{MODULES}{placements}{sections}"),
            modules,
        }
    }
}

const MODULES: &str = "\
# Each module: where it keeps its data, if not in [database]: a database of its own, which already has a schema of the module's name. And, for
# a module that is not in this binary, where it is called, comma-separated for several instances: `endpoint` by other modules (gRPC),
# `http_endpoint` by the gateway (REST).
";

fn module_placement(at: u32, module: &str) -> String {
    let (rpc, http) = (9_000 + 100 * at, 8_000 + 100 * at);
    format!(
        "[modules.{module}]
# database_url = \"postgres://{module}:secret@db-{module}/{module}\"
# endpoint = \"http://{module}-1:{rpc},http://{module}-2:{rpc}\"
# http_endpoint = \"http://{module}-1:{http},http://{module}-2:{http}\"
"
    )
}

/// One module's own settings as they were read.
#[derive(Clone)]
pub struct Section {
    name: String,
    value: Value,
    is_demo: bool,
}

impl Section {
    pub(super) fn of(all: &Config, name: &str, is_demo: bool) -> Self {
        let value = match &all.cache.kind {
            ValueKind::Table(sections) => sections.get(name).cloned(),
            _ => None,
        };
        Section {
            name: name.to_owned(),
            value: value.unwrap_or_else(|| Value::new(None, ValueKind::Table(config::Map::new()))),
            is_demo,
        }
    }

    /// Whether the profile is `demo`, for a setting that depends on it.
    pub fn is_demo(&self) -> bool {
        self.is_demo
    }

    /// # Errors
    /// A setting that does not match the type; names the key and its source.
    pub fn read<T: DeserializeOwned>(self) -> anyhow::Result<T> {
        let origins = origins(&self.value);
        T::deserialize(self.value).with_context(|| wrong(&format!("a setting in [{}]", self.name), &origins))
    }
}

/// All settings, as the platform's type.
///
/// # Errors
/// As [`Section::read`].
pub fn typed<T: DeserializeOwned>(all: &Config) -> anyhow::Result<T> {
    let origins = origins(&all.cache);
    all.clone()
        .try_deserialize()
        .with_context(|| wrong("a setting", &origins))
}

/// The error of a type that refuses a value has no source, so all sources are named.
fn wrong(what: &str, origins: &BTreeSet<String>) -> String {
    if origins.is_empty() {
        return format!("{what} is wrong");
    }
    let origins: Vec<&str> = origins.iter().map(String::as_str).collect();
    format!("{what} is wrong, which is one of those in {}", origins.join(", "))
}

/// The variables and files of all settings that are not defaults.
fn origins(value: &Value) -> BTreeSet<String> {
    match &value.kind {
        ValueKind::Table(table) => table.values().flat_map(origins).collect(),
        _ => value.origin().map(str::to_owned).into_iter().collect(),
    }
}

/// The settings file: the given one, or `banyan.toml` if it exists.
///
/// # Errors
/// It cannot be read.
pub fn read_file(given: Option<&Path>) -> anyhow::Result<Option<(PathBuf, String)>> {
    let file = match given {
        Some(path) => Some(path.to_owned()),
        None => Some(PathBuf::from("banyan.toml")).filter(|path| path.exists()),
    };
    file.map(|path| {
        fs::read_to_string(&path)
            .with_context(|| format!("reading the settings file {}", path.display()))
            .map(|text| (path, text))
    })
    .transpose()
}

/// All sources, merged.
///
/// # Errors
/// A file that is not TOML; an unknown key.
pub fn read(
    defaults: &Defaults,
    file: Option<(PathBuf, String)>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> anyhow::Result<Config> {
    let known = KnownKeys::of(defaults)?;
    let mut builder = Config::builder().add_source(File::from_str(&defaults.text, FileFormat::Toml));
    if let Some((path, text)) = file {
        let source = File::from_str(&text, FileFormat::Toml);
        let name = path.display().to_string();
        refuse_other_than_toml(&text, &name)?;
        let alone = Config::builder().add_source(source.clone()).build()?;
        for (key, value) in flatten(&alone)? {
            known.check(&key, &name)?;
            known.check_zero(&key, &value.kind, &name)?;
            builder = builder.set_override(&key, Value::new(Some(&name), by_address(&key, value.kind)))?;
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
    Ok(builder.build()?)
}

/// The parser's own message shows the line, which may contain a password.
fn refuse_other_than_toml(text: &str, name: &str) -> anyhow::Result<()> {
    let Err(error) = text.parse::<toml::Table>() else {
        return Ok(());
    };
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    bail!(
        "{name} is not TOML, line {line}: {}",
        error.message().replace('\n', ", ")
    )
}

/// The prefix of variables that are settings.
const VARIABLE_PREFIX: &str = "BANYAN__";
const ALMOST_PREFIX: &str = "BANYAN_";

/// The environment's variables that are settings; others are ignored.
pub fn own_variables() -> anyhow::Result<Vec<(String, String)>> {
    let named = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let own = named.filter(|(name, _)| name.starts_with(ALMOST_PREFIX));
    own.map(|(name, value)| {
        let value = value
            .into_string()
            .ok()
            .with_context(|| format!("{name} is not UTF-8"))?;
        Ok((name, value))
    })
    .collect()
}

/// A setting from the environment.
struct Given {
    variable: String,
    /// Whether the variable names the file with the value.
    from_file: bool,
    key: String,
    kind: ValueKind,
}

/// All known keys: those with a default, and those that are commented out in the defaults because they have none.
struct KnownKeys {
    with_default: BTreeMap<String, Value>,
    without_default: BTreeSet<String>,
    /// Those whose comment says what 0 means.
    zero_is_explained: BTreeSet<String>,
}

impl KnownKeys {
    fn of(defaults: &Defaults) -> anyhow::Result<Self> {
        let with_default = Config::builder()
            .add_source(File::from_str(&defaults.text, FileFormat::Toml))
            .build()?;
        let mut without_default = BTreeSet::new();
        let mut zero_is_explained = BTreeSet::new();
        let mut section = String::new();
        let mut explains_zero = false;
        for line in defaults.text.lines() {
            match line.strip_prefix('#') {
                Some(comment) => {
                    let is_zero = |word: &str| word.trim_matches([':', ',', ';', '.', '`']) == "0";
                    explains_zero |= comment.split(' ').any(is_zero);
                }
                None => {
                    if let Some((key, _)) = line.split_once(" = ").filter(|_| explains_zero) {
                        zero_is_explained.insert(format!("{section}{key}"));
                    }
                    explains_zero = false;
                }
            }
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
            with_default: flatten(&with_default)?,
            without_default,
            zero_is_explained,
        })
    }

    fn contains(&self, key: &str) -> bool {
        self.with_default.contains_key(key) || self.without_default.contains(key)
    }

    fn check(&self, key: &str, source: &str) -> anyhow::Result<()> {
        if self.contains(key) {
            return Ok(());
        }
        let hint = match self.nearest(key) {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => "`banyan config defaults` shows all".to_owned(),
        };
        bail!("{source} sets {key}, but there is no such setting; {hint}")
    }

    /// The known key that is most like this one, if one is.
    fn nearest(&self, key: &str) -> Option<&str> {
        let leaf = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        // The name alone counts as well: it may stand in a wrong section.
        let likeness =
            |known: &str| strsim::jaro_winkler(known, key).max(strsim::jaro_winkler(&leaf(known), &leaf(key)) - 0.05);
        let all = self.with_default.keys().chain(&self.without_default);
        let (best, nearest) = all
            .map(|known| (likeness(known), known.as_str()))
            .max_by(|(one, _), (other, _)| one.total_cmp(other))?;
        (best > 0.8).then_some(nearest)
    }

    /// A number is at least 1, unless its comment says what 0 means: an interval, a limit or a size of nothing stops what it is for.
    fn check_zero(&self, key: &str, kind: &ValueKind, source: &str) -> anyhow::Result<()> {
        let is_number = |kind: &ValueKind| matches!(kind, ValueKind::I64(value) if *value > 0);
        let has_minimum = self
            .with_default
            .get(key)
            .is_some_and(|default| is_number(&default.kind));
        let is_zero = match kind {
            ValueKind::I64(value) => *value == 0,
            ValueKind::String(text) => text.trim().parse::<i64>() == Ok(0),
            _ => false,
        };
        if has_minimum && is_zero && !self.zero_is_explained.contains(key) {
            bail!("{source} sets {key} to 0; it must be at least 1");
        }
        Ok(())
    }

    /// A variable with a prefix that is almost ours would otherwise be ignored in silence.
    fn refuse_almost(&self, variable: &str) -> anyhow::Result<()> {
        let Some(rest) = variable.strip_prefix(ALMOST_PREFIX) else {
            return Ok(());
        };
        let rest = rest.to_lowercase();
        let (section, name) = rest.split_once('_').unwrap_or((rest.as_str(), ""));
        let key = format!("{section}.{}", name.trim_start_matches('_').replace("__", "."));
        let is_meant = self.contains(&rest) || self.contains(&key) || self.contains(key.trim_end_matches("_file"));
        if is_meant {
            let key = if self.contains(&rest) { rest } else { key };
            bail!(
                "{variable} is not read; did you mean {VARIABLE_PREFIX}{}?",
                key.to_uppercase().replace('.', "__")
            );
        }
        Ok(())
    }

    /// The setting of an environment variable; `None` if the variable is not a setting.
    fn read_environment(&self, variable: &str, text: String) -> anyhow::Result<Option<Given>> {
        // The tests' own variables and BANYAN_CONFIG are not settings.
        let Some(path) = variable.strip_prefix(VARIABLE_PREFIX) else {
            self.refuse_almost(variable)?;
            return Ok(None);
        };
        let key = path.to_lowercase().replace("__", ".");
        let (from_file, key, text) = match key.strip_suffix("_file") {
            Some(plain) if !self.contains(&key) && self.contains(plain) => {
                let text = fs::read_to_string(&text).with_context(|| {
                    // A value where its file was meant.
                    let is_value = text.contains("://") || text.contains('@');
                    let name = if is_value {
                        banyan_core::without_password(&text)
                    } else {
                        text
                    };
                    format!("{variable} names the file {name}, which cannot be read")
                })?;
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
        let kind = by_address(&key, kind);
        self.check_zero(&key, &kind, variable)?;
        Ok(Some(Given {
            variable: variable.to_owned(),
            from_file,
            key,
            kind,
        }))
    }
}

/// `localhost` where an address to listen on belongs.
fn by_address(key: &str, kind: ValueKind) -> ValueKind {
    match kind {
        ValueKind::String(text) if key.ends_with(".listen") => match text.strip_prefix("localhost:") {
            Some(port) => ValueKind::String(format!("127.0.0.1:{port}")),
            None => ValueKind::String(text),
        },
        other => other,
    }
}

/// Every leaf under its dotted key.
pub fn flatten(config: &Config) -> anyhow::Result<BTreeMap<String, Value>> {
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
