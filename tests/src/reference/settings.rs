//! The settings as tables, made from the very texts that the binary reads its defaults from: the platform's on a page of their own, those of the
//! modules on the modules' page.

use std::{collections::BTreeSet, fmt::Write as _};

use banyan::shop::SHOP;
use banyan_host::settings::{Defaults, Settings};
use libtest_mimic::Failed;

use crate::snapshot;

const HEAD: &str = "# Settings

The settings of the platform; those of the modules are on the [page of the modules](modules.md#settings). Made from
[platform/host/config/default.toml](../../platform/host/config/default.toml) by the test `reference::the_settings_page_matches_the_defaults`; change
that file, not this one.

A setting is looked up, later ones winning: in the defaults below, in `banyan.toml` in the working directory (or `--config FILE`), in the
environment. A list in the environment is separated by commas. With `_FILE` behind a variable's name the value is read from that file:
`BANYAN__DATABASE__URL_FILE=/run/secrets/database-url`. An unknown key is an error that names the place. `banyan config show` prints what is in
force, without secrets.

How the variables are put to use for several processes: [run-split.md](../how-to/run-split.md).
";

pub fn page_matches() -> Result<(), Failed> {
    let mut page = HEAD.to_owned();
    let mut shows_modules = false;
    for section in sections(&SHOP.defaults().text) {
        // All modules have the same settings here, so one table stands for all.
        let is_placement = section.name.starts_with("modules.");
        if is_placement && std::mem::replace(&mut shows_modules, true) || is_of(&section, &banyan::MODULES) {
            continue;
        }
        let name = if is_placement { "modules.NAME" } else { &section.name };
        let title = if name.is_empty() {
            "At the top".to_owned()
        } else {
            format!("`[{name}]`")
        };
        if !section.settings.is_empty() {
            let _ = write!(page, "\n## {title}\n\n{}", table(name, &section));
        }
    }
    snapshot::compare("docs/reference/configuration.md", &page)
}

/// The own sections of these modules, in the order of the file of defaults.
pub fn of_modules(defaults: &str, modules: &[&str]) -> String {
    let sections = sections(defaults);
    let own = sections.iter().filter(|section| is_of(section, modules));
    own.map(|section| format!("\n### `[{0}]`\n\n{1}", section.name, table(&section.name, section)))
        .collect()
}

fn is_of(section: &Section, modules: &[&str]) -> bool {
    let first = section.name.split('.').next().unwrap_or_default();
    modules.contains(&first)
}

/// One `[section]`: the comment above it, and its settings.
struct Section {
    name: String,
    about: String,
    settings: Vec<Setting>,
}

struct Setting {
    key: String,
    value: String,
    /// Commented out in the file: the value is an example, and the setting has no default.
    is_example: bool,
    meaning: String,
}

/// Reads the file as people do: a comment explains the lines below it, and ends at an empty line.
fn sections(toml: &str) -> Vec<Section> {
    let mut all = vec![Section {
        name: String::new(),
        about: String::new(),
        settings: Vec::new(),
    }];
    let mut comment: Vec<&str> = Vec::new();
    for line in toml.lines().chain([""]) {
        let text_of = |comment: &mut Vec<&str>| std::mem::take(comment).join(" ");
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            all.push(Section {
                name: name.to_owned(),
                about: text_of(&mut comment),
                settings: Vec::new(),
            });
        } else if let Some((key, value, is_example)) = setting(line) {
            let meaning = text_of(&mut comment);
            all.iter_mut().last().into_iter().for_each(|section| {
                section.settings.push(Setting {
                    key: key.to_owned(),
                    value: value.to_owned(),
                    is_example,
                    meaning: meaning.clone(),
                });
            });
        } else if let Some(text) = line.strip_prefix("# ") {
            comment.push(text.trim());
        } else {
            comment.clear();
        }
    }
    all
}

/// `key = value`, or that commented out.
fn setting(line: &str) -> Option<(&str, &str, bool)> {
    let (plain, is_example) = line.strip_prefix("# ").map_or((line, false), |plain| (plain, true));
    let (key, value) = plain.split_once(" = ")?;
    let is_key = key
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.".contains(&byte));
    is_key.then_some((key, value, is_example))
}

/// What a section is about, and its settings. `name` stands for the section in the variables.
fn table(name: &str, section: &Section) -> String {
    let mut table = String::new();
    if !section.about.is_empty() {
        let _ = write!(table, "{}\n\n", section.about);
    }
    table.push_str("| Key | Environment | Default | Meaning |\n|---|---|---|---|\n");
    for setting in &section.settings {
        let value = setting.value.replace('|', "\\|");
        let default = if setting.is_example {
            format!("none; for example `{value}`")
        } else {
            format!("`{value}`")
        };
        let meaning = setting.meaning.replace('|', "\\|");
        let _ = writeln!(
            table,
            "| `{}` | `{}` | {default} | {meaning} |",
            setting.key,
            variable(name, &setting.key)
        );
    }
    table
}

/// The variable that sets a key.
fn variable(section: &str, key: &str) -> String {
    let path = if section.is_empty() {
        key.to_owned()
    } else {
        format!("{section}.{key}")
    };
    format!("BANYAN__{}", path.to_uppercase().replace('.', "__"))
}

/// The binary knows each documented key, each key that the binary shows is documented, and each has a sentence.
pub fn every_setting_is_explained() -> Result<(), Failed> {
    let sections = sections(&SHOP.defaults().text);
    let mut wrong = Vec::new();
    let mut documented = BTreeSet::new();
    for section in &sections {
        for setting in &section.settings {
            let variable = variable(&section.name, &setting.key);
            let is_explained = !setting.meaning.is_empty() || section.name.starts_with("modules.");
            if !is_explained || !(setting.meaning.is_empty() || setting.meaning.ends_with('.')) {
                wrong.push(format!(
                    "{variable} is not explained by whole sentences in the file of defaults: {:?}",
                    setting.meaning
                ));
            }
            if !is_known(&variable) {
                wrong.push(format!("{variable} is documented, but the binary does not know it"));
            }
            documented.insert(variable);
        }
    }
    let shown = banyan::settings(None, [])?.show()?;
    let mut section = "";
    for line in shown.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if let Some((key, ..)) = setting(line)
            && !documented.contains(&variable(section, key))
        {
            wrong.push(format!("{section}.{key} is in use, but not documented"));
        }
    }
    // The three settings that each module has count once.
    let settable = documented.len() - 3 * (banyan::MODULES.len() - 1);
    if is_known("BANYAN__HTTP__NO_SUCH_KEY") || !(60..=90).contains(&settable) {
        wrong.push(format!(
            "{} settings were read: at most 90 are meant to be settable, and with fewer than 60 this test would not detect an unknown one",
            settable
        ));
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

/// Whether the binary knows this variable; the value may be invalid.
pub fn is_known(variable: &str) -> bool {
    is_known_among(&SHOP.defaults(), variable)
}

/// The same, for a product with these settings.
pub fn is_known_among(defaults: &Defaults, variable: &str) -> bool {
    let read = Settings::from_sources(defaults, None, [(variable.to_owned(), "x".to_owned())]);
    !read
        .err()
        .is_some_and(|error| format!("{error:#}").contains("there is no such setting"))
}
