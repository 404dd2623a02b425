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
