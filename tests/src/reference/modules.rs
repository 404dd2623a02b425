//! The page of the modules: who calls whom, who subscribes to what, their settings, and every dependency between our crates. A new dependency is seen
//! in review as a change of this page.

use std::{collections::BTreeMap, path::Path, process::Command};

use banyan::MODULES;
use libtest_mimic::Failed;

use super::settings;
use crate::{architecture, harness::binary, snapshot};

pub const PAGE: &str = "docs/reference/modules.md";

const HEAD: &str = "\
# Modules

Made from the table of modules ([app/src/shop.rs](../../app/src/shop.rs)), the manifests of the crates and the modules' settings, by the test
`reference::the_modules_page_matches_the_modules`; change those, not this page.
";

const CALLS: &str = "
## Who knows whom

A solid line: the left module depends on the contract crate of the right one, to call it or to subscribe to its events. These lines are exactly the
normal dependencies that Cargo sees.
";

const EVENTS: &str = "
## Who subscribes to what

The aggregate on the line is the first part of the event's subject (`order/<id>`). `banyan modules --mermaid` prints these lines.
";

const SETTINGS: &str = "
## Settings

Each module has its section; how settings are read is on the [page of the settings](configuration.md). The files are `modules/<name>/config/default.toml`.
";

const DEPENDENCIES: &str = "
## Dependencies between our crates

Without those of tests alone.

| Crate | depends on |
|---|---|
";

pub fn page_matches() -> Result<(), Failed> {
    snapshot::compare(PAGE, &page(&architecture::root(), &binary(), &MODULES)?)
}

/// The page of a repository with these modules, whose binary this is.
pub fn page(root: &Path, binary: &Path, modules: &[&str]) -> Result<String, Failed> {
    let edges = architecture::edges(root);
    let calls = edges.iter().filter_map(|(from, to)| {
        let called = to.strip_suffix("-contract")?;
        let is_call = modules.contains(&from.as_str()) && modules.contains(&called) && from != called;
        is_call.then(|| format!("{from} --> {called}"))
    });
    let calls = diagram(calls.collect());
    let events = printed(binary, &["modules", "--mermaid"])?;
    let events = events.lines().map(str::trim).filter(|line| line.contains(" .-> "));
    let events = diagram(events.map(str::to_owned).collect());
    let settings = settings::of_modules(&printed(binary, &["config", "defaults"])?, modules);
    let dependencies = dependencies(&edges);
    Ok(format!(
        "{HEAD}{CALLS}{calls}{EVENTS}{events}{SETTINGS}{settings}{DEPENDENCIES}{dependencies}"
    ))
}

/// What a command of the binary prints.
fn printed(binary: &Path, arguments: &[&str]) -> Result<String, Failed> {
    let output = Command::new(binary).args(arguments).output()?;
    if output.status.success() && !output.stdout.is_empty() {
        Ok(String::from_utf8(output.stdout)?)
    } else {
        Err(format!("{arguments:?} fails: {}", String::from_utf8_lossy(&output.stderr)).into())
    }
}

fn diagram(mut lines: Vec<String>) -> String {
    lines.sort();
    let lines: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    format!("\n```mermaid\nflowchart LR\n{lines}```\n")
}

fn dependencies(edges: &[(String, String)]) -> String {
    let mut of_crates: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in edges {
        of_crates.entry(from).or_default().push(to);
    }
    let row = |(from, to): (&str, Vec<&str>)| format!("| {from} | {} |\n", to.join(", "));
    of_crates.into_iter().map(row).collect()
}
