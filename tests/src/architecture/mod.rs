//! Who may know whom. Reads `cargo metadata` and the sources, and prints the rule and the fix. The page of the modules has every edge.

mod example;
mod placements;
mod rules;
mod seeded;
mod workspace;

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use banyan::MODULES;
use libtest_mimic::{Failed, Trial};

use crate::report::none;
use workspace::Workspace;
pub use workspace::root;

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("architecture::every_rule_holds", || {
            none(rules::check(&Workspace::load()))
        }),
        Trial::test("architecture::no_package_is_under_a_copyleft_licence", no_copyleft),
    ];
    trials.push(Trial::test("architecture::the_scripts_know_the_modules", || {
        none(scripts_know(&root(), &MODULES).into_iter().collect())
    }));
    trials.push(Trial::test(
        "architecture::the_features_of_the_app_are_its_modules",
        || none(features_are(&root(), &MODULES)),
    ));
    trials.extend(seeded::trials());
    trials.extend(placements::trials());
    trials
}

/// What is broken in a copy of the repository with these modules.
pub fn check(root: &Path, modules: &[&str]) -> Vec<String> {
    let mut broken = rules::check(&Workspace::at(root));
    broken.extend(scripts_know(root, modules));
    broken.extend(features_are(root, modules));
    broken
}

/// Every dependency of a package of this repository, or of a copy, on another; tests' own dependencies excepted.
pub fn edges(root: &Path) -> Vec<(String, String)> {
    Workspace::at(root).edges()
}

/// The names of our packages.
pub fn packages() -> BTreeSet<String> {
    let packages = Workspace::load().packages;
    packages.into_iter().map(|package| package.name).collect()
}

fn no_copyleft() -> Result<(), Failed> {
    let bad: Vec<String> = workspace::licences()
        .into_iter()
        .filter(|(_, licence)| !licence.split(" OR ").any(|choice| !choice.contains("GPL")))
        .map(|(package, licence)| format!("{package} is under {licence}; find another library"))
        .collect();
    none(bad)
}

/// The shell scripts read the modules from the table's text.
fn scripts_know(root: &Path, modules: &[&str]) -> Option<String> {
    let read = Command::new("bash")
        .args([
            "-euo",
            "pipefail",
            "-c",
            "source scripts/lib/modules.sh && printf %s \"$MODULES\"",
        ])
        .current_dir(root)
        .output()
        .expect("bash runs");
    let known = String::from_utf8_lossy(&read.stdout);
    let error = String::from_utf8_lossy(&read.stderr);
    let modules = modules.join(" ");
    (known != modules)
        .then(|| format!("scripts/lib/modules.sh reads {known:?}, and the table has {modules:?}; {error}"))
}

/// Cargo's lists in `app/Cargo.toml` are the table's: for each module a feature, on by default, which brings its crate; and its contract.
fn features_are(root: &Path, modules: &[&str]) -> Vec<String> {
    let manifest = fs::read_to_string(root.join("app/Cargo.toml")).expect("the app's manifest");
    let compact: String = manifest.split_whitespace().collect();
    let default = compact
        .split("default=[")
        .nth(1)
        .and_then(|rest| rest.split(']').next());
    let mut wrong = Vec::new();
    for module in modules {
        if !default.is_some_and(|default| default.contains(&format!("\"{module}\""))) {
            wrong.push(format!("the default features lack {module}"));
        }
        for line in [
            format!("{module} = [\"modules\", \"dep:{module}\"]"),
            format!("{module} = {{ workspace = true, optional = true }}"),
            format!("{module}-contract.workspace = true"),
        ] {
            if !manifest.lines().any(|found| found == line) {
                wrong.push(format!("app/Cargo.toml lacks `{line}`"));
            }
        }
    }
    let features = manifest
        .lines()
        .filter(|line| line.contains("= [\"modules\", \"dep:"))
        .count();
    if features != modules.len() {
        wrong.push(format!(
            "{features} features bring a module, but the table of app/src/shop.rs has {}",
            modules.len()
        ));
    }
    wrong
}
