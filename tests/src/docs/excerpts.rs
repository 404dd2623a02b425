//! Excerpts of files: a block in `rust`, `toml`, `proto` or `sql` must be in the file that the line above it names, as ``In `path`:``, line by line.
//! A line with `…` alone, or in a comment, stands for any lines.

use std::{fs, path::Path};

use libtest_mimic::{Failed, Trial};

use super::{Block, Page};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "docs::an_excerpt_that_is_not_in_its_file_is_detected",
            wrong_excerpts_are_detected,
        ),
        Trial::test(
            "docs::an_excerpt_with_omitted_lines_is_found",
            omitted_lines_are_allowed,
        ),
    ]
}

/// Checks all excerpts of a page against the files in `folder`.
///
/// # Errors
/// Every excerpt that names no file, or is not in it, with its line.
pub fn check(page: &Page, folder: &Path) -> Result<(), String> {
    let mut wrong = Vec::new();
    for block in page.blocks.iter().filter(|block| block.is_excerpt()) {
        if let Err(why) = check_block(block, folder) {
            wrong.push(format!("{}:{}: {why}", page.path, block.line));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n"))
    }
}

fn check_block(block: &Block, folder: &Path) -> Result<(), String> {
    let path = block
        .above
        .strip_prefix("In `")
        .and_then(|rest| rest.strip_suffix("`:"));
    let path = path.ok_or_else(|| format!("the line above it must be \"In `path`:\", not {:?}", block.above))?;
    let file = fs::read_to_string(folder.join(path)).map_err(|error| format!("{path}: {error}"))?;
    let missing = missing_piece(&block.text, &file);
    missing.map_or(Ok(()), |piece| {
        Err(format!("this is not in {path}, or not in this order:\n{piece}"))
    })
}

/// The first piece of the excerpt that is not in the file behind those before it.
fn missing_piece(excerpt: &str, file: &str) -> Option<String> {
    let file: Vec<&str> = file.lines().collect();
    let excerpt: Vec<&str> = excerpt.lines().collect();
    let mut from = 0;
    for piece in excerpt.split(|line| is_omission(line)).map(trimmed) {
        if piece.is_empty() {
            continue;
        }
        match file[from..].windows(piece.len()).position(|lines| lines == piece) {
            Some(at) => from += at + piece.len(),
            None => return Some(piece.join("\n")),
        }
    }
    None
}

fn is_omission(line: &str) -> bool {
    let line = line.trim();
    let text = ["//", "#", "--"].iter().find_map(|comment| line.strip_prefix(comment));
    text.unwrap_or(line).trim() == "…"
}

/// Without empty lines at both ends.
fn trimmed<'a, 'b>(lines: &'a [&'b str]) -> &'a [&'b str] {
    let start = lines.iter().position(|line| !line.is_empty()).unwrap_or(lines.len());
    let end = lines
        .iter()
        .rposition(|line| !line.is_empty())
        .map_or(start, |last| last + 1);
    &lines[start..end]
}

const FILE: &str = "fn one() {\n    1\n}\n\nfn two() {\n    2\n}\n";

fn wrong_excerpts_are_detected() -> Result<(), Failed> {
    let wrong = [
        "fn one() {\n    2\n}\n",
        "fn one() {\n1\n}\n",
        "fn two() {\n…\nfn one() {\n",
        "fn one() {\n    1\n}\nfn two() {\n",
    ];
    let accepted: Vec<_> = wrong
        .iter()
        .filter(|excerpt| missing_piece(excerpt, FILE).is_none())
        .collect();
    let unnamed = Page::of("page.md", "See:\n\n```rust\nfn one() {\n```\n");
    match (accepted.is_empty(), check(&unnamed, Path::new("."))) {
        (true, Err(why)) if why.starts_with("page.md:3: the line above it must be") => Ok(()),
        (_, unnamed) => Err(format!("these were not detected: {accepted:?}, {unnamed:?}").into()),
    }
}

fn omitted_lines_are_allowed() -> Result<(), Failed> {
    for excerpt in [
        FILE,
        "fn one() {\n    // …\n}\n",
        "fn one() {\n…\n\nfn two() {\n    2\n",
    ] {
        if let Some(piece) = missing_piece(excerpt, FILE) {
            return Err(format!("not found: {piece}").into());
        }
    }
    Ok(())
}
