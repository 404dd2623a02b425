//! `banyan new module NAME`: what it makes touches few files and breaks no rule; what it refuses changes nothing.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use banyan::MODULES;
use banyan_durable_testing::SqliteHome;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::{
    architecture, deploy,
    harness::{Copy, binary, build_environment},
    report::none,
};

/// The module that the tutorial makes.
pub const TUTORIAL: &str = "loyalty";
/// The maximum number of files that a new module touches outside its folder.
const MAX_FILES_OUTSIDE: usize = 10;

/// The name of a module that the shop does not have: `loyalty`, or `loyalty2` in a shop that has followed the tutorial.
pub fn free_name() -> String {
    let numbered = (2..).map(|number| format!("{TUTORIAL}{number}"));
    let names = std::iter::once(TUTORIAL.to_owned()).chain(numbered);
    let mut free = names.filter(|name| !MODULES.contains(&name.as_str()));
    free.next().expect("names without end")
}

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "generator::a_generated_module_touches_ten_files_and_breaks_no_rule",
            generated_module,
        ),
        Trial::test(
            "generator::names_that_are_invalid_or_taken_change_nothing",
            refused_names,
        ),
        Trial::test("generator::a_name_at_the_end_of_the_alphabet_is_sorted_in", || {
            made_in_order("zebra", "app/openapi.json")
        }),
        Trial::test("generator::uncommitted_changes_are_refused", uncommitted_changes),
        Trial::test("generator::a_missing_place_for_an_edit_is_named", missing_place),
        Trial::test("generator::outside_the_repository_it_says_so", outside_the_repository),
    ]
}

/// Without compiling it, which the test of the tutorial does: docs/tutorial/first-module.md begins with this module.
fn generated_module() -> Result<(), Failed> {
    let copy = Copy::of_the_repository();
    let name = free_name();
    let made = new_module(copy.path(), &name);
    if !made.status.success() {
        return Err(error_of(&made).into());
    }
    let folder = format!("modules/{name}/");
    let changed = copy.changed();
    let outside: Vec<&String> = changed.iter().filter(|path| !path.starts_with(&folder)).collect();
    if outside.len() > MAX_FILES_OUTSIDE {
        return Err(format!("it touches {} files outside its folder: {outside:?}", outside.len()).into());
    }
    let report = String::from_utf8_lossy(&made.stdout);
    if let Some(silent) = outside.iter().find(|path| !report.contains(path.as_str())) {
        return Err(format!("it does not say that it touched {silent}:\n{report}").into());
    }
    let modules = [&MODULES[..], &[&name]].concat();
    none(architecture::check(copy.path(), &modules))?;
    none(deploy::check(copy.path(), &modules)?)?;
    copy.cargo(&["fmt", "--all", "--check"]);
    let policies = copy.read("tests/src/authorisation/policies.rs");
    for row in [
        "\"get\", \"/api/v1/{}\", Anyone",
        "\"get\", \"/api/v1/{}/{id}\", Anyone",
        "\"post\", \"/api/v1/{}\", Staff",
    ] {
        let row = format!("    ({}),", row.replace("{}", &name));
        if !policies.lines().any(|line| line == row) {
            return Err(format!("the policies lack {row}").into());
        }
    }
    Ok(())
}

fn refused_names() -> Result<(), Failed> {
    let copy = Copy::of_the_repository();
    for (name, reason) in [
        ("orders", "there is a module orders already"),
        ("Loyalty", "one word of 2 to 20 lower-case letters and digits"),
        ("gift-cards", "one word of"),
        ("gift_cards", "one word of"),
        ("9lives", "starting with a letter"),
        ("l", "one word of"),
        ("../loyalty", "one word of"),
        ("", "one word of"),
        ("match", "Rust uses the word"),
        ("option", "Rust uses the word"),
        ("user", "reserved word of SQL"),
        ("serde", "there is a crate serde"),
        ("gateway", "a feature gateway"),
        ("log", "there is a crate log"),
        ("discovery", "the platform has settings named discovery"),
        ("products", "the path /api/v1/products is taken"),
        ("product", "the type Product of its contract would be ambiguous"),
        ("item", "the type Item of its contract would be ambiguous"),
        ("offers", "the type Offers of its contract would be ambiguous"),
        ("settings", "the type Settings of its contract would be ambiguous"),
        ("context", "the type Context of its contract would be ambiguous"),
        ("pages", "there is a file app/src/pages.rs"),
        ("cart", "there is a schema CartItem in app/openapi.json"),
        ("rest", "the deployment uses the word"),
        ("ca", "the deployment uses the word"),
        ("averyveryverylongname", "one word of 2 to 20"),
    ] {
        refused(&new_module(copy.path(), name), reason)?;
    }
    unchanged(&copy)
}

/// What is inserted into a sorted file keeps it sorted and whole, also at its end.
fn made_in_order(name: &str, path: &str) -> Result<(), Failed> {
    let copy = Copy::of_the_repository();
    let made = new_module(copy.path(), name);
    if !made.status.success() {
        return Err(error_of(&made).into());
    }
    let document: Value = serde_json::from_str(&copy.read(path))?;
    for object in [&document["paths"], &document["components"]["schemas"]] {
        let keys: Vec<&String> = object.as_object().ok_or("an object")?.keys().collect();
        if !keys.is_sorted() || !keys.iter().any(|key| key.to_lowercase().contains(name)) {
            return Err(format!("{name} is not sorted in: {keys:?}").into());
        }
    }
    Ok(())
}

fn uncommitted_changes() -> Result<(), Failed> {
    let copy = Copy::of_the_repository();
    let manifest = copy.read("Cargo.toml") + "# A change.\n";
    copy.write("Cargo.toml", &manifest);
    copy.write("docs/GLOSSARY.md", "Not edited, so it may be changed.\n");
    refused(
        &new_module(copy.path(), &free_name()),
        "uncommitted changes; commit or stash them first:\n M Cargo.toml",
    )?;
    let changed = copy.changed();
    if changed != ["Cargo.toml", "docs/GLOSSARY.md"] || copy.read("Cargo.toml") != manifest {
        return Err(format!("a refused command has changed {changed:?}").into());
    }
    Ok(())
}

fn missing_place() -> Result<(), Failed> {
    let copy = Copy::of_the_repository();
    let path = "tests/src/authorisation/policies.rs";
    let place = "    // Operations.";
    copy.write(path, &copy.read(path).replace(place, "    // Of operators."));
    copy.commit();
    refused(
        &new_module(copy.path(), &free_name()),
        &format!("{path} has no longer the line {place:?}"),
    )?;
    unchanged(&copy)
}

fn outside_the_repository() -> Result<(), Failed> {
    let elsewhere = SqliteHome::new();
    refused(
        &new_module(elsewhere.path(), &free_name()),
        "is not in a checkout of the repository",
    )
}

/// `banyan new module NAME` in a directory.
pub fn new_module(directory: &Path, name: &str) -> Output {
    Command::new(binary())
        .args(["new", "module", name])
        .current_dir(directory)
        .env_clear()
        .envs(build_environment())
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn refused(output: &Output, reason: &str) -> Result<(), Failed> {
    let error = error_of(output);
    if output.status.code() == Some(1) && error.contains(reason) {
        Ok(())
    } else {
        Err(format!("not refused because {reason:?}, but {}: {error}", output.status).into())
    }
}

fn error_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn unchanged(copy: &Copy) -> Result<(), Failed> {
    let changed = copy.changed();
    if changed.is_empty() {
        Ok(())
    } else {
        Err(format!("a refused command has changed {changed:?}").into())
    }
}
