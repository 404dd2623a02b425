//! Who may know whom. Reads `cargo metadata` and the sources, prints the rule and the fix, and compares every edge with a golden file.

mod placements;
mod rules;
mod seeded;
mod workspace;

use std::{collections::BTreeSet, fs};

use libtest_mimic::{Failed, Trial};

use workspace::Workspace;
pub use workspace::root;

const GOLDEN: &str = "tests/snapshots/dependencies.txt";

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("architecture::every_rule_holds", every_rule_holds),
        Trial::test("architecture::the_dependencies_match_the_golden_file", edges_are_golden),
        Trial::test("architecture::no_package_is_under_a_copyleft_licence", no_copyleft),
        Trial::test(
            "architecture::the_diagram_matches_the_dependency_graph",
            diagram_is_real,
        ),
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

fn edges_are_golden() -> Result<(), Failed> {
    let edges = Workspace::load().edges().join("\n") + "\n";
    crate::snapshot::compare(GOLDEN, &edges)
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

/// docs/ARCHITECTURE.md draws which module calls which contract; the drawing must be Cargo's dependency graph.
fn diagram_is_real() -> Result<(), Failed> {
    let text = fs::read_to_string(workspace::root().join("docs/ARCHITECTURE.md"))?;
    let diagram = text
        .split("```mermaid")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .ok_or("docs/ARCHITECTURE.md has no mermaid diagram")?;
    let drawn: BTreeSet<String> = diagram
        .lines()
        .map(str::trim)
        .filter(|line| line.contains(" --> "))
        .map(str::to_owned)
        .collect();
    let real: BTreeSet<String> = Workspace::load()
        .edges()
        .into_iter()
        .filter_map(|edge| {
            let (from, to) = edge.split_once(" -> ")?;
            let called = to.strip_suffix("-contract")?;
            let is_module = rules::MODULES.contains(&from) && rules::MODULES.contains(&called) && from != called;
            is_module.then(|| format!("{from} --> {called}"))
        })
        .collect();
    if drawn == real {
        return Ok(());
    }
    let missing: Vec<_> = real.difference(&drawn).collect();
    let extra: Vec<_> = drawn.difference(&real).collect();
    Err(format!(
        "the diagram in docs/ARCHITECTURE.md lacks {missing:?} and draws dependencies that do not exist: {extra:?}"
    )
    .into())
}

/// The shell scripts read the modules from a file that is made of the table.
fn scripts_know_the_modules() -> Result<(), Failed> {
    let modules = rules::MODULES.join(" ");
    let file = format!(
        "# The modules of the shop, in the order in which they start. Sourced by scripts, not run.
#
# Made from app/src/shop.rs by the test `architecture::the_scripts_know_the_modules`; change that table, not this file.
readonly MODULES=\"{modules}\"
"
    );
    crate::snapshot::compare("scripts/lib/modules.sh", &file)
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
