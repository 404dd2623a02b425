//! Settings as `banyan config show` prints them.

use anyhow::Context;
use config::{Config, Value, ValueKind};

use super::sources::flatten;

/// The effective settings as TOML, without secrets.
///
/// # Errors
/// Settings that cannot be written as TOML, which would be a bug.
pub fn show(all: &Config) -> anyhow::Result<String> {
    let mut table = toml::Table::new();
    for (key, value) in flatten(all)? {
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

/// Whether the last part of a setting's key says that its value is a URL, or a list of URLs.
pub fn is_url(leaf: &str) -> bool {
    ["url", "endpoint", "endpoints", "issuer"]
        .iter()
        .any(|name| leaf == *name || leaf.ends_with(&format!("_{name}")))
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
        // Whatever is a URL, or should be one.
        ValueKind::String(text) if is_url(leaf) || text.contains("://") => {
            toml::Value::String(banyan_core::without_password(&text))
        }
        _ => toml::Value::String(value.into_string()?),
    })
}
