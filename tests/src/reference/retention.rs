//! `docs/reference/retention.md`: every table has an end, or a reason to have none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use libtest_mimic::Failed;

use crate::{architecture::root, data::owners};

const PAGE: &str = "docs/reference/retention.md";

/// Under each heading of the page the tables that belong to it, by the directory or file that makes them.
pub fn every_table_is_listed() -> Result<(), Failed> {
    let listed = listed(&fs::read_to_string(root().join(PAGE))?)?;
    let mut wrong = Vec::new();
    let mut parts = BTreeSet::new();
    for (part, source) in sources() {
        let made = tables(&root().join(source))?;
        let listed = listed.get(&part).cloned().unwrap_or_default();
        wrong.extend(
            made.difference(&listed)
                .map(|table| format!("{PAGE} does not say under \"{part}\" for how long {table} is kept, and why")),
        );
        wrong.extend(
            listed
                .difference(&made)
                .map(|table| format!("{PAGE} lists {table} under \"{part}\", which has no such table")),
        );
        parts.insert(part);
    }
    wrong.extend(
        listed
            .keys()
            .filter(|part| !parts.contains(*part))
            .map(|part| format!("{PAGE} has a part \"{part}\" that is not a module")),
    );
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

fn sources() -> Vec<(String, String)> {
    let machinery = ("Every module".to_owned(), "platform/durable/migrations".to_owned());
    let of = |owner: &str| {
        let source = match owner {
            crate::data::PROVIDER => "modules/payments/src/sandbox/store.rs".to_owned(),
            module => format!("modules/{module}/migrations"),
        };
        let mut part = owner.replace('_', " ");
        part[..1].make_ascii_uppercase();
        (part, source)
    };
    std::iter::once(machinery).chain(owners().map(of)).collect()
}

/// The tables of each part of the page; each must say something.
fn listed(page: &str) -> Result<BTreeMap<String, BTreeSet<String>>, Failed> {
    let mut listed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut part = String::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            part = heading.to_owned();
        } else if let Some(row) = line.strip_prefix("| `") {
            let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
            let [table, kept, why] = cells[..] else {
                return Err(format!("three cells: {line}").into());
            };
            if kept.is_empty() || why.is_empty() {
                return Err(format!("{PAGE} says nothing about {table}").into());
            }
            listed
                .entry(part.clone())
                .or_default()
                .insert(table.trim_matches('`').to_owned());
        }
    }
    // Every module has it; no migration makes it.
    listed
        .entry("Every module".to_owned())
        .or_default()
        .remove("seaql_migrations");
    Ok(listed)
}

/// The tables that the SQL in a file, or in the files of a directory, makes.
fn tables(source: &Path) -> Result<BTreeSet<String>, Failed> {
    let mut texts = Vec::new();
    if source.is_dir() {
        for entry in fs::read_dir(source)? {
            texts.push(fs::read_to_string(entry?.path())?);
        }
    } else {
        texts.push(fs::read_to_string(source)?);
    }
    let made = texts.iter().flat_map(|text| made_in(text));
    Ok(made.map(str::to_owned).collect())
}

/// The tables that an SQL text makes, without those that say themselves for how long they are kept, as those of a generated module do.
fn made_in(sql: &str) -> impl Iterator<Item = &str> {
    let before = std::iter::once("").chain(sql.lines());
    before.zip(sql.lines()).filter_map(|(before, line)| {
        let name = line.trim().strip_prefix("create table ")?;
        let name = name.trim_start_matches("if not exists ").split([' ', '(']).next()?;
        (!before.starts_with("-- Kept ")).then_some(name)
    })
}
