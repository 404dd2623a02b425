//! docs/RELIABILITY.md names for each claim the tests that fail when it is broken: every claim has a number, every number a row, and the tests of every
//! row exist. And every invariant of its list is checked by the auditor.

use std::{collections::BTreeSet, fs, path::Path};

use libtest_mimic::{Failed, Trial};

use crate::{architecture::root, report};

const PAGE: &str = "docs/RELIABILITY.md";
const HEADING: &str = "## Which test fails when a rule is broken";
const INVARIANTS: &str = "## Invariants";
/// The sections with claims, and the name under which the claims of each are numbered.
const SECTIONS: [(&str, &str); 11] = [
    ("Rules that carry everything", "Rules"),
    ("Writing", "Writing"),
    ("Commands", "Commands"),
    ("Events", "Events"),
    ("Between processes", "Between processes"),
    ("Sagas", "Sagas"),
    ("Checkout", "Checkout and cancellation"),
    ("Cancellation of a confirmed order", "Checkout and cancellation"),
    ("Money commands in payments", "Money"),
    ("Stock", "Stock"),
    ("HTTP", "HTTP"),
];
/// Rows with tests of the whole, which belong to no claim.
const WHOLE: &str = "All together";
/// The files that check the invariants.
const CHECKS: [&str; 6] = [
    "auditor/money.rs",
    "auditor/stock.rs",
    "auditor/orders.rs",
    "auditor/events.rs",
    "auditor/effects.rs",
    "load.rs",
];

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("proofs::each_claim_of_reliability_names_tests_that_exist", || {
            let page = fs::read_to_string(root().join(PAGE))?;
            report::none(errors_in(&page, &tests()?))
        }),
        Trial::test("proofs::a_claim_without_a_test_is_detected", faults_are_noticed),
        Trial::test(
            "proofs::the_invariants_of_reliability_are_those_of_the_auditor",
            invariants_are_checked,
        ),
    ]
}

fn faults_are_noticed() -> Result<(), Failed> {
    let page = format!(
        "## Writing\n\nOne writer. (Writing 1)\n\n- Nobody\n  else.\n- Never again. (Writing 2)\n- Twice. (Writing 1)\n\nTests: `there`.\n\n{HEADING}\n\n\
         | Rule | Tests |\n|---|---|\n| Writing 1: a | `it_holds` |\n| Writing 1: b | `it_is_missing` |\n| Writing 1: c | later |\n\
         | Writing 9: d | `it_holds` |\n| All together: e | `it_holds` |\n"
    );
    let wrong = errors_in(&page, &BTreeSet::from(["it_holds".to_owned()])).join("\n");
    let expected = [
        "it_is_missing",
        "1: c\"",
        "\"- Nobody else.\"",
        "Writing 2",
        "twice",
        "Writing 9",
    ];
    let missed: Vec<String> = expected
        .iter()
        .filter(|part| !wrong.contains(*part))
        .map(|part| format!("{part} is not noticed in:\n{wrong}"))
        .chain((wrong.lines().count() != expected.len()).then(|| format!("more is noticed:\n{wrong}")))
        .collect();
    report::none(missed)
}

/// What is wrong with the page.
fn errors_in(page: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let rows = rows(page);
    let mut wrong = Vec::new();
    if rows.is_empty() {
        wrong.push(format!("{PAGE} has no table under {HEADING:?}"));
    }
    let mut numbers = BTreeSet::new();
    for claim in claims(page) {
        match claim.number {
            None => wrong.push(format!(
                "{PAGE}: the claim {:?} has no number; end it with ({} N) and name its tests in a row of the table",
                claim.text, claim.part
            )),
            Some(number) if !numbers.insert(number.clone()) => {
                wrong.push(format!("{PAGE}: {number} is the number of a claim twice"));
            }
            Some(_) => {}
        }
    }
    let number_of = |rule: &str| rule.split_once(':').map_or("", |(number, _)| number).to_owned();
    let proven: BTreeSet<String> = rows.iter().map(|(rule, _)| number_of(rule)).collect();
    wrong.extend(
        numbers
            .difference(&proven)
            .map(|number| format!("{PAGE}: no row of the table names a test for the claim ({number})")),
    );
    for (rule, named) in rows {
        let number = number_of(&rule);
        if number != WHOLE && !numbers.contains(&number) {
            wrong.push(format!("{PAGE}: {rule:?} does not begin with the number of a claim"));
        }
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

/// A paragraph or an item of a list.
struct Claim {
    text: String,
    part: &'static str,
    /// As `Writing 1`.
    number: Option<String>,
}

/// Everything that the sections say, except what introduces a list and where the tests are.
fn claims(page: &str) -> Vec<Claim> {
    let prose = page.split(HEADING).next().unwrap_or_default();
    let mut claims = Vec::new();
    for section in prose.split("\n#").map(|section| section.trim_start_matches('#')) {
        let (title, text) = section.split_once('\n').unwrap_or_default();
        let Some((_, part)) = SECTIONS.iter().find(|(heading, _)| *heading == title.trim()) else {
            continue;
        };
        for text in paragraphs(text) {
            if text.starts_with("Tests:") || text.ends_with(':') {
                continue;
            }
            let number = text
                .strip_suffix(')')
                .and_then(|text| text.rsplit_once('('))
                .map(|(_, number)| number.to_owned())
                .filter(|number| {
                    number
                        .strip_prefix(part)
                        .is_some_and(|number| number.trim_start().parse::<u32>().is_ok())
                });
            claims.push(Claim { text, part, number });
        }
    }
    claims
}

/// The paragraphs and the items of lists, each in one line.
fn paragraphs(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut continues = false;
    for line in text.lines() {
        let is_item = line.starts_with("- ") || line.split_once(". ").is_some_and(|(n, _)| n.parse::<u32>().is_ok());
        match all.last_mut() {
            Some(last) if continues && !is_item && !line.trim().is_empty() => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ if line.trim().is_empty() => {}
            _ => all.push(line.trim().to_owned()),
        }
        continues = !line.trim().is_empty();
    }
    all
}

fn invariants_are_checked() -> Result<(), Failed> {
    let page = fs::read_to_string(root().join(PAGE))?;
    let list = page.split(INVARIANTS).nth(1).unwrap_or_default();
    let listed: BTreeSet<String> = list
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| ")?.split_once(" | ")?.0.to_owned()))
        .filter(|id| id != "Id")
        .collect();
    let mut checked = BTreeSet::new();
    for file in CHECKS {
        let text = fs::read_to_string(root().join("tests/src").join(file))?;
        // A violation is named by its invariant first: `"B3: order ...`. The effects of mails share one sentence.
        let named = text
            .split('"')
            .skip(1)
            .filter_map(|literal| literal.get(..2).map(str::to_owned));
        checked.extend(named.filter(|id| is_invariant(id)));
    }
    let one_sided = listed
        .symmetric_difference(&checked)
        .map(|id| format!("{id} is not both in the list of {PAGE} and checked by the auditor"));
    report::none(one_sided.collect())
}

/// A letter and a digit.
fn is_invariant(id: &str) -> bool {
    matches!(id.as_bytes(), [b'A'..=b'Z', b'0'..=b'9'])
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
