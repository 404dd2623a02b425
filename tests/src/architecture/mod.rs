//! Who may know whom. Reads `cargo metadata` and the sources, and prints the rule and the fix. The page of the modules has every edge.

mod example;
mod placements;
mod rules;
mod seeded;
mod workspace;

use std::{collections::BTreeSet, fs, process::Command};

use libtest_mimic::{Failed, Trial};

use workspace::Workspace;
pub use workspace::root;

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("architecture::every_rule_holds", every_rule_holds),
        Trial::test("architecture::no_package_is_under_a_copyleft_licence", no_copyleft),
    ];
    trials.push(Trial::test(
        "architecture::the_scripts_know_the_modules",
        scripts_know_the_modules,
    ));
    trials.push(Trial::test(
        "architecture::the_features_of_the_app_are_its_modules",
        features_are_modules,
    ));
    trials.extend(seeded::trials());
    trials.extend(placements::trials());
    trials
}

/// Every dependency of one of our packages on another, tests' own dependencies excepted.
pub fn edges() -> Vec<(String, String)> {
    Workspace::load().edges()
}

/// The names of our packages.
pub fn packages() -> BTreeSet<String> {
    let packages = Workspace::load().packages;
    packages.into_iter().map(|package| package.name).collect()
}

fn every_rule_holds() -> Result<(), Failed> {
    let broken = rules::check(&Workspace::load());
    if broken.is_empty() {
        Ok(())
    } else {
        Err(broken.join("\n").into())
    }
}

fn no_copyleft() -> Result<(), Failed> {
    let bad: Vec<String> = workspace::licences()
        .into_iter()
        .filter(|(_, licence)| !licence.split(" OR ").any(|choice| !choice.contains("GPL")))
        .map(|(package, licence)| format!("{package} is under {licence}; find another library"))
        .collect();
    if bad.is_empty() {
        Ok(())
    } else {
        Err(bad.join("\n").into())
    }
}

/// The shell scripts read the modules from the table's text.
fn scripts_know_the_modules() -> Result<(), Failed> {
    let read = Command::new("bash")
        .args([
            "-euo",
            "pipefail",
            "-c",
            "source scripts/lib/modules.sh && printf %s \"$MODULES\"",
        ])
        .current_dir(workspace::root())
        .output()?;
    let known = String::from_utf8(read.stdout)?;
    let modules = rules::MODULES.join(" ");
    if known == modules {
        Ok(())
    } else {
        let error = String::from_utf8_lossy(&read.stderr).into_owned();
        Err(format!("scripts/lib/modules.sh reads {known:?}, and the table has {modules:?}; {error}").into())
    }
}

/// Cargo's lists in `app/Cargo.toml` are the table's: for each module a feature, on by default, which brings its crate; and its contract.
fn features_are_modules() -> Result<(), Failed> {
    let manifest = fs::read_to_string(workspace::root().join("app/Cargo.toml"))?;
    let compact: String = manifest.split_whitespace().collect();
    let default = compact
        .split("default=[")
        .nth(1)
        .and_then(|rest| rest.split(']').next())
        .ok_or("app/Cargo.toml has no default features")?;
    let mut wrong = Vec::new();
    for module in rules::MODULES {
        if !default.contains(&format!("\"{module}\"")) {
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
    if features != rules::MODULES.len() {
        wrong.push(format!(
            "{features} features bring a module, but the table of app/src/shop.rs has {}",
            rules::MODULES.len()
        ));
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}
