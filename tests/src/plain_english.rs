//! No text of the repository uses certain phrases of an earlier dialect, which readers had to decode. docs/GLOSSARY.md lists more words to avoid;
//! these are the ones that a program can recognise.

use std::{fs, process::Command};

use libtest_mimic::{Failed, Trial};

use crate::architecture::root;

/// A sequence of words that is refused.
struct Phrase {
    words: &'static [&'static str],
    /// Plain English with one of these words before or after the phrase.
    allowed_after: &'static [&'static str],
    allowed_before: &'static [&'static str],
    instead: &'static str,
}

impl Phrase {
    const fn refused(words: &'static [&'static str], instead: &'static str) -> Phrase {
        Phrase {
            words,
            allowed_after: &[],
            allowed_before: &[],
            instead,
        }
    }
}

const PHRASES: &[Phrase] = &[
    Phrase::refused(
        &["so", "long"],
        "name the duration: \"the timeout for ...\"; for a condition: \"while ...\"",
    ),
    Phrase::refused(
        &["so", "often"],
        "name the interval or the count: \"the interval between ...\", \"the number of attempts\"",
    ),
    Phrase::refused(&["so", "many"], "name the limit: \"the maximum number of ...\""),
    Phrase {
        allowed_after: &["there"],
        ..Phrase::refused(&["is", "none"], "\"is not a valid ...\" or \"is not a ...\"")
    },
    Phrase {
        allowed_after: &["there"],
        ..Phrase::refused(&["are", "none"], "\"are not valid ...\" or \"are not ...\"")
    },
    Phrase {
        allowed_before: &["longer", "more"],
        ..Phrase::refused(&["that", "is", "no"], "\"that is not a ...\"")
    },
    Phrase {
        allowed_before: &["longer", "more"],
        ..Phrase::refused(&["which", "is", "no"], "\"which is not a ...\"")
    },
];

const EXTENSIONS: [&str; 6] = ["rs", "toml", "md", "proto", "sh", "sql"];

/// This file must name the phrases.
const THIS_FILE: &str = "tests/src/plain_english.rs";
const GLOSSARY: &str = "docs/GLOSSARY.md";
/// The part of the glossary that lists what to avoid.
const AVOIDED_WORDS: &str = "\n## Not used here";

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![Trial::test("plain_english::no_text_uses_a_refused_phrase", every_text)];
    trials.extend(REFUSED.iter().map(|(name, text, line, phrase)| {
        Trial::test(format!("plain_english::refuses::{name}"), move || {
            let found = refused("seeded.rs", text);
            let expected = format!("seeded.rs:{line}: \"{phrase}\"");
            match &found[..] {
                [only] if only.starts_with(&expected) && only.contains(". Write ") => Ok(()),
                _ => Err(format!("expected {expected:?}, found {found:?}").into()),
            }
        })
    }));
    trials.extend(ALLOWED.iter().map(|(name, text)| {
        Trial::test(format!("plain_english::allows::{name}"), move || {
            match &refused("seeded.rs", text)[..] {
                [] => Ok(()),
                found => Err(format!("{found:?}").into()),
            }
        })
    }));
    trials
}

/// Name, text, and the line and the phrase that must be reported.
const REFUSED: &[(&str, &str, usize, &str)] = &[
    ("a_duration", "/// A call may take so long.", 1, "so long"),
    ("an_interval", "\n# Looks so often.\n", 2, "so often"),
    ("a_count", "/// So many calls at once.", 1, "so many"),
    ("a_condition", "so long as it holds", 1, "so long"),
    ("a_message", "bail!(\"waits \\\"so long\\\"\")", 1, "so long"),
    (
        "a_phrase_across_two_lines",
        "code();\n/// It waits so\n/// long.\n",
        2,
        "so long",
    ),
    ("a_phrase_in_sql", "-- Kept so\n--   long.", 1, "so long"),
    ("an_invalid_value", "/// An id that is none.", 1, "is none"),
    ("invalid_values", "ids that are none", 1, "are none"),
    ("a_negated_noun", "/// A path that is no file.", 1, "that is no"),
    ("a_negated_clause", "| an order, which is no cart |", 1, "which is no"),
];

const ALLOWED: &[(&str, &str)] = &[
    ("absence", "/// Zero if there is none."),
    ("an_end", "/// A token that is no longer valid."),
    ("a_limit", "a window that is no more than a day"),
    ("names", "let so_long = value.is_none();"),
    ("two_sentences", "/// It does so. Long lines are split."),
    ("two_lines_of_code", "let so =\n    many;"),
];

fn every_text() -> Result<(), Failed> {
    let texts = texts()?;
    for extension in EXTENSIONS {
        if !texts.iter().any(|(path, _)| has_extension(path, extension)) {
            return Err(format!("no .{extension} file was found, which is hard to believe").into());
        }
    }
    let wrong: Vec<String> = texts
        .iter()
        .filter(|(path, _)| path != THIS_FILE)
        .flat_map(|(path, text)| {
            let end = text.find(AVOIDED_WORDS).filter(|_| path == GLOSSARY);
            refused(path, &text[..end.unwrap_or(text.len())])
        })
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

/// The files that Git tracks or would track, with their paths from the root: those with one of the extensions, and scripts without one.
fn texts() -> Result<Vec<(String, String)>, Failed> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()?;
    if !listed.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr)).into());
    }
    let paths = String::from_utf8(listed.stdout)?;
    let mut texts = Vec::new();
    for path in paths.split('\0').filter(|path| !path.is_empty()) {
        let is_text = EXTENSIONS.iter().any(|extension| has_extension(path, extension));
        let file_name = path.rsplit('/').next().unwrap_or_default();
        // A file that was deleted and not committed is still listed.
        if (is_text || !file_name.contains('.'))
            && let Ok(text) = fs::read_to_string(root().join(path))
            && (is_text || text.starts_with("#!"))
        {
            texts.push((path.to_owned(), text));
        }
    }
    Ok(texts)
}

fn has_extension(path: &str, extension: &str) -> bool {
    path.strip_suffix(extension).is_some_and(|stem| stem.ends_with('.'))
}

/// A sentence for each refused phrase: where it is, the phrase, and what to write instead.
fn refused(path: &str, text: &str) -> Vec<String> {
    let words = words(text);
    let mut found = Vec::new();
    for at in 0..words.len() {
        for phrase in PHRASES.iter().filter(|phrase| is_at(phrase, &words, at)) {
            found.push(format!(
                "{path}:{}: \"{}\". Write {}.",
                words[at].0,
                phrase.words.join(" "),
                phrase.instead
            ));
        }
    }
    found
}

/// Whether the phrase begins at this word, and the words around it do not make it plain English.
fn is_at(phrase: &Phrase, words: &[(usize, String)], at: usize) -> bool {
    let end = at + phrase.words.len();
    let Some(candidate) = words.get(at..end) else {
        return false;
    };
    let last = phrase.words.len() - 1;
    let is_phrase = candidate
        .iter()
        .zip(phrase.words)
        .enumerate()
        .all(|(position, ((_, word), expected))| {
            // Punctuation may stand around the phrase, not within it.
            let word = if position == 0 {
                word.trim_start_matches(is_punctuation)
            } else {
                word
            };
            let word = if position == last {
                word.trim_end_matches(is_punctuation)
            } else {
                word
            };
            word == *expected
        });
    let before = at
        .checked_sub(1)
        .map(|before| words[before].1.trim_start_matches(is_punctuation));
    let after = words.get(end).map(|(_, after)| after.trim_end_matches(is_punctuation));
    is_phrase
        && !before.is_some_and(|word| phrase.allowed_after.contains(&word))
        && !after.is_some_and(|word| phrase.allowed_before.contains(&word))
}

fn is_punctuation(c: char) -> bool {
    !c.is_alphanumeric() && c != '_'
}

/// The words of a text in lower case, each with its line. The comment signs at the beginning of a line are not words, so that a phrase is found
/// across two lines of a comment.
fn words(text: &str) -> Vec<(usize, String)> {
    let of_line = |(at, line): (usize, &str)| {
        let line = ["///", "//!", "//", "--", "#"]
            .iter()
            .find_map(|sign| line.trim_start().strip_prefix(sign))
            .unwrap_or(line)
            .to_lowercase();
        line.split_whitespace()
            .map(|word| (at + 1, word.to_owned()))
            .collect::<Vec<_>>()
    };
    text.lines().enumerate().flat_map(of_line).collect()
}
