//! The name of a new module, which becomes the name of crates, of a schema, of a section of the settings, of routes and of processes.

use std::fmt;

use anyhow::bail;

use crate::{
    plan::rust_templates,
    repository::{self, Repository},
    text::contains_word,
};

/// A valid and free name: lower-case letters and digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

const MAX_LENGTH: usize = 20;

/// What Rust reserves or has in scope everywhere, and its own crates.
const RUST: &str = "abstract alloc as async await become box break const continue core crate do dyn else enum extern false final fn for gen if impl in let \
     loop macro match mod move mut override priv proc pub ref return self static std struct super test trait true try type typeof union unsafe unsized use \
     virtual where while yield \
     clone copy default drop eq err extend from into iterator none ok option ord result send sized some string sync vec";

/// The reserved words of PostgreSQL (appendix C of its documentation), which cannot name a schema without quotes.
const SQL: &str = "all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation column concurrently \
     constraint create cross default deferrable desc distinct do else end except false fetch for foreign freeze from full grant group having ilike in \
     initially inner intersect into is isnull join lateral leading left like limit localtime localtimestamp natural not notnull null offset on only or \
     order outer overlaps placing primary references returning right select similar some symmetric table tablesample then to trailing true union unique \
     user using variadic verbose when where window with";

/// Names that stand for something else where the module is deployed: certificates, hosts, logins and databases, and a word of `scripts/split.sh`.
const DEPLOYMENT: &str = "ca localhost migrate postgres public rest template0 template1";

/// Types that the code generated for a contract names without their paths: a trait of the same name would hide them.
const GENERATED: &str = "body context poll";

/// Modules of the app.
const APP: &str = "keys pages shop";

impl Name {
    /// # Errors
    /// The name is not a valid one, or something else has it; says what and which rule.
    pub fn new(given: &str, repository: &Repository) -> anyhow::Result<Self> {
        let starts = given.starts_with(|first: char| first.is_ascii_lowercase());
        let is_word = given
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if !starts || !is_word || !(2..=MAX_LENGTH).contains(&given.len()) {
            bail!(
                "{given:?} cannot name a module: it must be one word of 2 to {MAX_LENGTH} lower-case letters and digits, starting with a letter, for \
                 example loyalty"
            );
        }
        let name = Name(given.to_owned());
        match name.owner(repository)? {
            Some(owner) => bail!("{given} cannot name a module: {owner}; choose another name"),
            None => Ok(name),
        }
    }

    /// The name of its contract's trait.
    pub fn trait_name(&self) -> String {
        let (first, rest) = self.0.split_at(1);
        first.to_uppercase() + rest
    }

    /// The name of its settings in the environment.
    pub fn upper(&self) -> String {
        self.0.to_uppercase()
    }

    /// What has this name already.
    fn owner(&self, repository: &Repository) -> anyhow::Result<Option<String>> {
        let name = &self.0;
        if repository.exists(&format!("modules/{name}")) || repository.exists(&format!("app/src/local/{name}.rs")) {
            return Ok(Some(format!("there is a module {name} already")));
        }
        let is_one_of = |words: &str| words.split_whitespace().any(|word| word == name);
        if is_one_of(RUST) {
            return Ok(Some("Rust uses the word".to_owned()));
        }
        if is_one_of(DEPLOYMENT) {
            return Ok(Some("the deployment uses the word".to_owned()));
        }
        if is_one_of(APP) {
            return Ok(Some(format!("there is a file app/src/{name}.rs")));
        }
        if is_one_of(SQL) {
            return Ok(Some("it is a reserved word of SQL".to_owned()));
        }
        let lock = repository.read(repository::LOCK)?;
        for package in [name.clone(), format!("{name}-contract")] {
            if lock.contains(&format!("\nname = \"{package}\"\n")) {
                return Ok(Some(format!("there is a crate {package} in Cargo.lock")));
            }
        }
        if repository
            .read("app/Cargo.toml")?
            .lines()
            .any(|line| line.starts_with(&format!("{name} = ")))
        {
            return Ok(Some(format!("app/Cargo.toml has a feature {name}")));
        }
        let settings = repository.read("platform/host/config/default.toml")?;
        let is_section = |line: &str| line == format!("[{name}]") || line.starts_with(&format!("[{name}."));
        if settings.lines().any(is_section) || settings.lines().any(|line| line.starts_with(&format!("{name} = "))) {
            return Ok(Some(format!("the platform has settings named {name}")));
        }
        let document = repository.read("app/openapi.json")?;
        let path = format!("\"/api/v1/{name}");
        if document.contains(&format!("{path}\"")) || document.contains(&format!("{path}/")) {
            return Ok(Some(format!("the path /api/v1/{name} is taken, see app/openapi.json")));
        }
        let type_name = self.trait_name();
        for schema in ["{Module}Item", "New{Module}Item", "Listed_{Module}Item"] {
            let schema = schema.replace("{Module}", &type_name);
            if document.contains(&format!("\"{schema}\": {{")) {
                return Ok(Some(format!("there is a schema {schema} in app/openapi.json")));
            }
        }
        // The contract's trait stands beside the types of these files.
        let table = repository.read("app/src/shop.rs")?;
        let is_beside = |text: &str| contains_word(text, &type_name);
        if is_one_of(GENERATED) || is_beside(&table) || rust_templates().any(is_beside) {
            return Ok(Some(format!("the type {type_name} of its contract would be ambiguous")));
        }
        Ok(None)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
