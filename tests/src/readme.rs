//! The README and the pages in `docs/`: the README's commands run against a new shop and must print what it shows; what the pages link to and
//! name must exist.
//!
//! How blocks are run and compared is in [`docs`](crate::docs).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::{
    architecture::root,
    docs::{Page, Reader, SHOWN_BASE, Server, Tools, WITHOUT_A_BUILD},
    generator::TUTORIAL,
    harness::{Shop, Stage, binary, runtime},
};

/// The tools that the README may use, besides bash itself.
const TOOLS: [&str; 4] = ["curl", "sed", "grep", "date"];

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("readme::its_commands_print_what_it_shows", || {
            runtime().block_on(commands_print_what_is_shown())
        }),
        Trial::test("readme::the_banner_is_the_real_one", || {
            runtime().block_on(banner_is_real())
        }),
        Trial::test("readme::every_url_in_its_tables_exists", || {
            runtime().block_on(urls_are_there())
        }),
        Trial::test("readme::every_command_is_listed", commands_are_named),
        Trial::test("readme::every_path_and_link_resolves", links_resolve),
        Trial::test("readme::every_file_and_test_it_names_exists", named_things_exist),
    ]
}

fn readme() -> Result<String, Failed> {
    Ok(fs::read_to_string(root().join("README.md"))?)
}

async fn commands_print_what_is_shown() -> Result<(), Failed> {
    let page = Page::load("README.md")?;
    let blocks = page.in_language("bash").len();
    if blocks < 10 {
        return Err(format!("only {blocks} bash blocks in the README").into());
    }
    let shop = Shop::start(Stage::Sqlite).await;
    let settings = shop.command();
    let settings = settings.as_std().get_envs().filter_map(|(name, value)| {
        let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
        Some((text(name), text(value?)))
    });
    let reader = Reader {
        directory: shop.directory().join("reader"),
        tools: Tools::Only(&TOOLS),
        files: vec![("target/debug/banyan", binary())],
        variables: settings.collect(),
        replace: vec![(SHOWN_BASE, shop.base())],
        limit: WITHOUT_A_BUILD,
    };
    let followed = reader.follow(&page).await;
    let followed = followed.map_err(|wrong| format!("{wrong}\nthe shop's log:\n{}", shop.log()));
    shop.remove().await;
    Ok(followed?)
}

async fn banner_is_real() -> Result<(), Failed> {
    Ok(Server::start(&binary(), &Page::load("README.md")?)
        .await?
        .kill()
        .await?)
}

async fn urls_are_there() -> Result<(), Failed> {
    let text = readme()?;
    let shop = Shop::start(Stage::Sqlite).await;
    let client = shop.client();
    let mut wrong = Vec::new();
    let urls: Vec<&str> = text
        .lines()
        .filter_map(|line| {
            line.strip_prefix(&format!("| <{SHOWN_BASE}"))?
                .split_once('>')
                .map(|(path, _)| path)
        })
        .collect();
    for path in &urls {
        let response = client.get(path).await;
        if response.status != 200 {
            wrong.push(format!("the status of {path} is {}", response.status));
        }
    }
    let document: Value = client.get("/openapi.json").await.json();
    let resources = resources(&text);
    wrong.extend(
        resources
            .iter()
            .filter(|path| document["paths"][format!("/api/v1{path}")].is_null())
            .map(|path| format!("/api/v1{path} is not in the document")),
    );
    shop.remove().await;
    if urls.len() < 5 || resources.len() < 20 {
        wrong.push(format!(
            "only {} URLs and {} resources in the README's tables",
            urls.len(),
            resources.len()
        ));
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

/// The paths in backticks in the first column of the tables.
fn resources(text: &str) -> BTreeSet<String> {
    let first_columns = text
        .lines()
        .filter(|line| line.starts_with("| `/"))
        .filter_map(|line| line.split(" | ").next());
    first_columns
        .flat_map(|column| column.split('`').skip(1).step_by(2).map(str::to_owned))
        .collect()
}

fn commands_are_named() -> Result<(), Failed> {
    let text = readme()?;
    let output = std::process::Command::new(binary()).arg("--help").output()?;
    let help = String::from_utf8(output.stdout)?;
    let list = help
        .split("Commands:\n")
        .nth(1)
        .and_then(|rest| rest.split("\n\n").next())
        .ok_or("--help lists no commands")?;
    let commands = list
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .filter(|command| *command != "help");
    let missing: Vec<&str> = commands
        .filter(|command| !text.contains(&format!("`banyan {command}")))
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("the README's table of commands lacks {missing:?}").into())
    }
}

/// Every page with its text.
fn pages() -> Result<Vec<(PathBuf, String)>, Failed> {
    let mut paths = vec![root().join("README.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let pages = paths
        .into_iter()
        .map(|path| Ok((path.clone(), fs::read_to_string(path)?)));
    pages.collect()
}

/// Links from page to page, and the paths in the README's map.
fn links_resolve() -> Result<(), Failed> {
    let mut wrong = Vec::new();
    for (page, text) in pages()? {
        let beside = page.parent().ok_or("a page in no folder")?;
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let links = links
            .filter(|link| !link.contains("://") && !link.starts_with('#'))
            .map(|link| link.split('#').next().unwrap_or_default());
        wrong.extend(
            links
                .filter(|link| !beside.join(link).exists())
                .map(|link| format!("{}: {link} does not exist", page.display())),
        );
    }
    let map = readme()?;
    let rows = map
        .split("## Map of the repository")
        .nth(1)
        .ok_or("the README has no map")?
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    wrong.extend(
        rows.filter(|path| !root().join(path).exists())
            .map(|path| format!("README.md: the map shows {path}, which is not there")),
    );
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

/// Text in backticks that looks like a file or like the name of a test must name an existing one.
fn named_things_exist() -> Result<(), Failed> {
    let mut sources = String::new();
    for folder in [
        "app",
        "examples",
        "load",
        "modules",
        "platform",
        "shared-kernel",
        "tests",
    ] {
        read_sources(&root().join(folder), &mut sources)?;
    }
    let homes = ["", "platform", "modules", "examples/helpdesk"].map(|home| root().join(home));
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (page, text) in pages()? {
        let outside_blocks = text.split("```").step_by(2);
        for name in outside_blocks.flat_map(|part| part.split('`').skip(1).step_by(2)) {
            let is_plain = name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-./:".contains(&byte))
                && !name.starts_with('/');
            let is_file = [".rs", ".sql", ".toml", ".json", ".txt", ".sh", "/"]
                .iter()
                .any(|end| name.ends_with(end))
                && name.trim_end_matches('/').contains('/');
            // The files of the tutorial's module are those that its reader makes.
            if page.ends_with("docs/tutorial/first-module.md") && name.contains(TUTORIAL) {
                continue;
            }
            let test = name.rsplit("::").next().unwrap_or_default();
            let is_test = test.matches('_').count() >= 4
                && test
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
            let is_there = match (is_plain && is_file, is_plain && is_test) {
                (true, _) => homes.iter().any(|home| home.join(name).exists()),
                (_, true) => sources.contains(test),
                _ => continue,
            };
            seen += 1;
            if !is_there {
                wrong.push(format!("{}: there is no {name}", page.display()));
            }
        }
    }
    if seen < 50 {
        wrong.push(format!(
            "only {seen} files and tests are named, which is hard to believe"
        ));
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

fn read_sources(folder: &Path, into: &mut String) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read_sources(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(&path)?);
        }
    }
    Ok(())
}
