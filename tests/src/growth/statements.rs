//! The statements in PostgreSQL's log.

use std::collections::BTreeMap;

/// A statement that a module ran, with the values of its parameters as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ran {
    pub owner: String,
    pub sql: String,
    pub values: Vec<Option<String>>,
}

/// The number of sets of values that are kept of one statement.
const SETS: usize = 24;

/// The different statements on tables. The lines of the log begin with the name of the application, a bar, and a level.
pub fn parse(log: &str) -> Vec<Ran> {
    let mut records: Vec<(&str, String)> = Vec::new();
    for line in log.lines() {
        match (line.strip_prefix('\t'), line.split_once('|')) {
            (Some(more), _) => {
                if let Some((_, text)) = records.last_mut() {
                    text.push('\n');
                    text.push_str(more);
                }
            }
            (None, Some((application, text))) => records.push((application, text.to_owned())),
            (None, None) => {}
        }
    }
    let mut found: BTreeMap<(String, String), Vec<Vec<Option<String>>>> = BTreeMap::new();
    let mut records = records.into_iter().peekable();
    while let Some((application, text)) = records.next() {
        let Some(owner) = application.strip_prefix("banyan-") else {
            continue;
        };
        let Some(sql) = text.strip_prefix("LOG:  ").and_then(statement) else {
            continue;
        };
        let detail = records.next_if(|(_, next)| next.starts_with("DETAIL:  "));
        let values = detail.map(|(_, detail)| parameters(&detail)).unwrap_or_default();
        let sets = found.entry((owner.replace('-', "_"), sql.to_owned())).or_default();
        if sets.len() < SETS && !sets.contains(&values) {
            sets.push(values);
        }
    }
    let ran = |((owner, sql), sets): ((String, String), Vec<Vec<Option<String>>>)| {
        sets.into_iter().map(move |values| Ran {
            owner: owner.clone(),
            sql: sql.clone(),
            values,
        })
    };
    found.into_iter().flat_map(ran).collect()
}

/// The text of a statement that reads or changes tables of the module.
fn statement(text: &str) -> Option<&str> {
    let sql = match text.strip_prefix("execute ") {
        Some(named) => named.split_once(": ")?.1,
        None => text.strip_prefix("statement: ")?,
    };
    let lower = sql.trim_start().to_lowercase();
    let works = ["select", "with", "insert", "update", "delete"]
        .iter()
        .any(|verb| lower.starts_with(verb));
    let on_tables = lower.contains("from") || lower.contains("into") || lower.starts_with("update");
    let other = [
        "pg_",
        "seaql_migrations",
        "extract(epoch from clock_timestamp()) * 1000 as bigint) as now_ms",
    ];
    (works && on_tables && !other.iter().any(|other| lower.contains(other))).then_some(sql)
}

/// `$1 = 'x', $2 = NULL, ...` with quotes doubled inside the quotes.
fn parameters(detail: &str) -> Vec<Option<String>> {
    let mut values = Vec::new();
    let mut rest = detail.split_once('$').map_or("", |(_, rest)| rest);
    while let Some((_, value)) = rest.split_once(" = ") {
        let Some(quoted) = value.strip_prefix('\'') else {
            values.push(None);
            rest = value.split_once(", $").map_or("", |(_, rest)| rest);
            continue;
        };
        let mut text = String::new();
        let mut letters = quoted.char_indices().peekable();
        let mut end = quoted.len();
        while let Some((at, letter)) = letters.next() {
            if letter != '\'' {
                text.push(letter);
            } else if letters.next_if(|(_, next)| *next == '\'').is_some() {
                text.push('\'');
            } else {
                end = at + 1;
                break;
            }
        }
        values.push(Some(text));
        rest = &quoted[end..];
    }
    values
}
