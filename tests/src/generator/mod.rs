//! `banyan new module NAME`: what it makes builds, passes its tests and serves; what it refuses changes nothing.

mod copy;

use std::{fs, path::Path, process::Output};

use banyan::MODULES;
use banyan_durable_testing::SqliteHome;
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::{
    architecture, contracts,
    harness::{Process, Role, runtime, target},
    reference, scenarios,
};
use copy::{Copy, new_module};

const NAME: &str = "loyalty";
/// The maximum number of files that a new module touches outside its folder.
const MAX_FILES_OUTSIDE: usize = 10;

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("generator::a_generated_module_builds_and_serves", || {
            runtime().block_on(generated_module())
        }),
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

async fn generated_module() -> Result<(), Failed> {
    let copy = Copy::of_the_repository();
    let made = copy.new_module(NAME);
    if !made.status.success() {
        return Err(error_of(&made).into());
    }
    let folder = format!("modules/{NAME}/");
    let changed = copy.changed();
    let outside: Vec<&String> = changed.iter().filter(|path| !path.starts_with(&folder)).collect();
    if outside.len() > MAX_FILES_OUTSIDE {
        return Err(format!("it touches {} files outside its folder: {outside:?}", outside.len()).into());
    }
    let report = String::from_utf8_lossy(&made.stdout);
    if let Some(silent) = outside.iter().find(|path| !report.contains(path.as_str())) {
        return Err(format!("it does not say that it touched {silent}:\n{report}").into());
    }

    let modules = [&MODULES[..], &[NAME]].concat();
    let broken = architecture::check(copy.path(), &modules);
    if !broken.is_empty() {
        return Err(broken.join("\n").into());
    }
    copy.cargo(&["fmt", "--all", "--check"]);
    check_what_is_compiled(&copy, &modules).await?;
    // With the app, so that Cargo selects the same features of the libraries as for the binary.
    let packages = ["--package=banyan", "--package", NAME];
    let targets = ["--lib", "--test=contract", "--test=http"];
    copy.cargo(&[&["test", "--locked"], &packages[..], &targets[..]].concat());
    Ok(())
}

/// The binary with the module agrees with every text that the generator has written, and serves the module.
async fn check_what_is_compiled(copy: &Copy, modules: &[&str]) -> Result<(), Failed> {
    // A binary of another name: the one of the repository is in use by other tests.
    let manifest = copy.read("app/Cargo.toml");
    let manifest = manifest.replace("default-run = \"banyan\"", "default-run = \"banyan-generated\"");
    let own_binary = "\n[[bin]]\nname = \"banyan-generated\"\npath = \"src/main.rs\"\n";
    copy.write("app/Cargo.toml", &(manifest + own_binary));
    let binary = target().join("banyan-generated");
    let messages = copy.cargo(&[
        "build",
        "--locked",
        "--message-format=json",
        "--package=banyan",
        "--bin=banyan-generated",
    ]);

    let document = std::process::Command::new(&binary).arg("openapi").output()?.stdout;
    same("app/openapi.json", copy, &String::from_utf8(document)?)?;
    let page = reference::modules_page(copy.path(), &binary, modules)?;
    same(reference::MODULES_PAGE, copy, &page)?;
    let descriptors = fs::read(out_dir_of_the_contract(&messages)?.join("descriptors.bin"))?;
    let contract = contracts::snapshot_of(&descriptors)?;
    same(&format!("modules/{NAME}/contract/snapshot.txt"), copy, &contract)?;
    serves(&binary).await
}

fn same(path: &str, copy: &Copy, compiled: &str) -> Result<(), Failed> {
    let generated = copy.read(path);
    if generated == compiled {
        return Ok(());
    }
    let differs = |(_, (generated, compiled)): &(usize, (&str, &str))| generated != compiled;
    let difference = generated.lines().zip(compiled.lines()).enumerate().find(differs);
    Err(format!("the generated {path} differs from what was compiled: {difference:?}").into())
}

/// Where Cargo has put what the build script of the module's contract made.
fn out_dir_of_the_contract(messages: &str) -> Result<std::path::PathBuf, Failed> {
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_contract = |message: &Value| {
        let package = message["package_id"].as_str().unwrap_or_default();
        let is_build = message["reason"] == "build-script-executed";
        is_build && package.contains(&format!("modules/{NAME}/contract"))
    };
    let found = messages
        .into_iter()
        .find(of_contract)
        .ok_or("Cargo has built no contract of the module")?;
    Ok(found["out_dir"].as_str().ok_or("an out_dir")?.into())
}

/// One request of each kind, and the reaction to the events of the demo's products.
async fn serves(binary: &Path) -> Result<(), Failed> {
    let home = SqliteHome::new();
    let role = Role {
        name: "generated",
        modules: Vec::new(),
        is_edge: true,
        binary: Some(binary.to_owned()),
    };
    let mut process = Process::new(role, home.path());
    process.spawn();
    process.ready().await;
    let client = process.client();
    let path = format!("/api/v1/{NAME}");
    let has_products = |list: &Value| list["items"].as_array().is_some_and(|items| items.len() == 100);
    let list = format!("{path}?limit=100");
    scenarios::eventually(&client, &list, "the demo's products have added items", has_products).await;
    let staff = client.staff().await;
    let added = staff
        .post(&path, &json!({"name": "Made by a test"}))
        .await
        .expect(201)
        .json();
    let id = added["id"].as_str().ok_or("an id")?;
    let shown = client.get(&format!("{path}/{id}")).await.expect(200).json();
    process.kill().await;
    if shown == added {
        Ok(())
    } else {
        Err(format!("{shown} is not {added}").into())
    }
}

fn refused_names() -> Result<(), Failed> {
    let copy = Copy::of_the_repository();
    for (name, reason) in [
        ("orders", "there is a module orders already"),
        ("Loyalty", "one word of 2 to 30 lower-case letters and digits"),
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
    ] {
        refused(&copy.new_module(name), reason)?;
    }
    unchanged(&copy)
}

/// What is inserted into a sorted file keeps it sorted and whole, also at its end.
fn made_in_order(name: &str, path: &str) -> Result<(), Failed> {
    let copy = Copy::of_the_repository();
    let made = copy.new_module(name);
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
        &copy.new_module(NAME),
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
        &copy.new_module(NAME),
        &format!("{path} has no longer the line {place:?}"),
    )?;
    unchanged(&copy)
}

fn outside_the_repository() -> Result<(), Failed> {
    let elsewhere = SqliteHome::new();
    refused(
        &new_module(elsewhere.path(), NAME),
        "is not in a checkout of the repository",
    )
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
