//! docs/GLOSSARY.md names for each word where it is in the code: the crates, folders and files it names must exist.

use std::{collections::BTreeSet, fs, path::Path};

use libtest_mimic::{Failed, Trial};

use crate::architecture::{packages, root};

const PAGE: &str = "docs/GLOSSARY.md";

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "glossary::every_crate_folder_and_file_it_names_exists",
            every_name_exists,
        ),
        Trial::test("glossary::a_missing_name_is_detected", missing_names_are_detected),
    ]
}

fn every_name_exists() -> Result<(), Failed> {
    let page = fs::read_to_string(root().join(PAGE))?;
    let wrong = missing(&page, &packages())?;
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

fn missing_names_are_detected() -> Result<(), Failed> {
    let page = "| Word | Meaning | In the code |\n|---|---|---|\n| a | b | `tests`, `modules/*/contract`, orders (`views.rs`) |\n\
                | c | `not_checked` | `no-such-crate`, `modules/*/no-such-folder`, `no_such_file.rs` |\n";
    let wrong = missing(page, &BTreeSet::from(["tests".to_owned()]))?;
    if wrong.len() == 3
        && wrong
            .iter()
            .all(|sentence| sentence.contains("no-such") || sentence.contains("no_such"))
    {
        Ok(())
    } else {
        Err(format!("{wrong:?}").into())
    }
}

/// What the third column of the tables names in backticks, and does not exist.
fn missing(page: &str, packages: &BTreeSet<String>) -> std::io::Result<Vec<String>> {
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    let columns = rows.filter_map(|row| row.split(" | ").nth(2));
    let names: BTreeSet<&str> = columns
        .flat_map(|column| column.split('`').skip(1).step_by(2))
        .collect();
    if names.is_empty() {
        return Ok(vec![format!("{PAGE} names no crate, folder or file")]);
    }
    let mut wrong = Vec::new();
    for name in names {
        let exists = if name.contains('/') {
            path_exists(&root(), name)?
        } else if name.contains('.') {
            file_exists(&root(), name)?
        } else {
            packages.contains(name) || root().join(name).is_dir()
        };
        if !exists {
            wrong.push(format!("{PAGE} names {name}, which does not exist"));
        }
    }
    Ok(wrong)
}

/// Whether there is such a path below `folder`. A `*` stands for the name of any folder.
fn path_exists(folder: &Path, path: &str) -> std::io::Result<bool> {
    let Some((before, after)) = path.split_once("*/") else {
        return Ok(folder.join(path).exists());
    };
    for entry in fs::read_dir(folder.join(before))? {
        if path_exists(&entry?.path(), after)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a source file has this name.
fn file_exists(folder: &Path, name: &str) -> std::io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_source_folder = path.is_dir() && !path.ends_with("target") && !path.ends_with(".git");
        if path.ends_with(name) || is_source_folder && file_exists(&path, name)? {
            return Ok(true);
        }
    }
    Ok(false)
}
