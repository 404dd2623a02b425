//! docs/RELIABILITY.md names for each rule the tests that fail when it is broken: those tests must exist, and every part of the page must name one.

use std::{collections::BTreeSet, fs, path::Path};

use libtest_mimic::{Failed, Trial};

use crate::architecture::root;

const PAGE: &str = "docs/RELIABILITY.md";
const HEADING: &str = "## Which test fails when a rule is broken";
const PARTS: [&str; 11] = [
    "Rules that carry everything",
    "Writing",
    "Commands",
    "Events",
    "Between processes",
    "Sagas",
    "Checkout and cancellation",
    "Money",
    "Stock",
    "HTTP",
    "All together",
];

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "proofs::each_rule_of_reliability_names_tests_that_exist",
            rules_name_tests,
        ),
        Trial::test("proofs::a_missing_test_is_detected", missing_tests_are_noticed),
    ]
}

fn rules_name_tests() -> Result<(), Failed> {
    let page = fs::read_to_string(root().join(PAGE))?;
    let mut wrong = errors_in(&page, &tests()?);
    let rules = rows(&page);
    wrong.extend(
        PARTS
            .iter()
            .filter(|part| !rules.iter().any(|(rule, _)| rule.starts_with(&format!("{part}: "))))
            .map(|part| format!("{PAGE} names no test for any rule of {part}")),
    );
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

fn missing_tests_are_noticed() -> Result<(), Failed> {
    let page = format!(
        "{HEADING}\n\n| Rule | Tests |\n|---|---|\n| a | `it_holds` |\n| b | `it_is_missing` |\n| c | later |\n"
    );
    let wrong = errors_in(&page, &BTreeSet::from(["it_holds".to_owned()]));
    match &wrong[..] {
        [missing, none] if missing.contains("it_is_missing") && none.contains("\"c\"") => Ok(()),
        _ => Err(format!("{wrong:?}").into()),
    }
}

/// What is wrong with the table.
fn errors_in(page: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let rows = rows(page);
    let mut wrong = Vec::new();
    if rows.is_empty() {
        wrong.push(format!("{PAGE} has no table under {HEADING:?}"));
    }
    for (rule, named) in rows {
        if named.is_empty() {
            wrong.push(format!("{PAGE}: the rule {rule:?} names no test"));
        }
        wrong.extend(
            named
                .iter()
                .filter(|name| !tests.contains(*name))
                .map(|name| format!("{PAGE}: {rule:?} names {name}, and there is no such test")),
        );
    }
    wrong
}

/// Each rule with the tests it names.
fn rows(page: &str) -> Vec<(String, Vec<String>)> {
    let part = page
        .split(HEADING)
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next())
        .unwrap_or_default();
    let rows = part
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "));
    let named = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    rows.filter(|(rule, _)| *rule != "Rule")
        .map(|(rule, tests)| (rule.to_owned(), named(tests)))
        .collect()
}

/// The names of all functions in files with tests, and the names of trials.
fn tests() -> std::io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for folder in ["app", "load", "modules", "platform", "shared-kernel", "tests"] {
        read_tests(&root().join(folder), &mut names)?;
    }
    Ok(names)
}

fn read_tests(folder: &Path, names: &mut BTreeSet<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read_tests(&path, names)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            let is_test_file = path.components().any(|part| part.as_os_str() == "tests")
                || path
                    .file_stem()
                    .is_some_and(|stem| stem.to_string_lossy().ends_with("tests"));
            // Beside the code, tests come last.
            let tests = if is_test_file {
                &text[..]
            } else {
                text.split_once("#[cfg(test)]").map_or("", |(_, tests)| tests)
            };
            names.extend(
                tests
                    .split("fn ")
                    .skip(1)
                    .filter_map(|rest| rest.split('(').next())
                    .map(str::to_owned),
            );
            // Trials are named by strings, alone or after `part::`.
            let trials = tests.split('"').filter_map(|literal| literal.split("::").last());
            names.extend(
                trials
                    .filter(|name| name.contains('_') && name.bytes().all(is_of_name))
                    .map(str::to_owned),
            );
        }
    }
    Ok(())
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}
