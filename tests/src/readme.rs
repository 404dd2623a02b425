//! The README and the pages in `docs/`: the README's commands run against a new shop and must print what it shows; what the pages link to and
//! name must exist.
//!
//! Fenced `bash` blocks are run one after the other in one shell that has only the tools the README names. A block behind one, in any other
//! language, is the expected output; `…` in it stands for any text. Blocks in `sh` are not run.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::{
    architecture::root,
    harness::{Shop, Stage, binary, runtime},
};

const SHOWN_BASE: &str = "http://127.0.0.1:8080";
/// The tools that the README may use, besides bash itself.
const TOOLS: [&str; 4] = ["curl", "sed", "grep", "date"];
const ALL_COMMANDS_LIMIT: Duration = Duration::from_secs(120);
const BANNER_LIMIT: Duration = Duration::from_secs(60);
/// Between the outputs of two blocks.
const MARK: &str = "--- end of a block, exit code";

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
        Trial::test("readme::a_wrong_output_is_detected", wrong_output_is_detected),
    ]
}

fn readme() -> Result<String, Failed> {
    Ok(fs::read_to_string(root().join("README.md"))?)
}

/// A fenced block: the line it begins on, its language, its text.
struct Block {
    line: usize,
    language: String,
    text: String,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (at, line) in markdown.lines().enumerate() {
        match (line.strip_prefix("```"), open) {
            (Some(language), false) => blocks.push(Block {
                line: at + 1,
                language: language.to_owned(),
                text: String::new(),
            }),
            (None, true) => blocks
                .iter_mut()
                .last()
                .into_iter()
                .for_each(|block| block.text.push_str(&format!("{line}\n"))),
            (None, false) => continue,
            (Some(_), true) => {}
        }
        open = if line.starts_with("```") { !open } else { open };
    }
    blocks
}

/// Whether the shown output is the real one. An HTTP response may show some of its headers, in any order; all else is compared as a whole.
fn shown_is_real(shown: &str, real: &str) -> Result<(), String> {
    let real = real.replace('\r', "");
    let (mut shown_body, mut real_body) = (shown, real.as_str());
    if shown.starts_with("HTTP/") {
        let (shown_head, body) = shown.split_once("\n\n").unwrap_or((shown, "…"));
        let (real_head, came) = real.trim_start().split_once("\n\n").ok_or("no HTTP response came")?;
        (shown_body, real_body) = (body, came);
        let mut lines = shown_head.lines();
        let status = lines.next().unwrap_or_default();
        if real_head.lines().next().map(str::trim) != Some(status) {
            return Err(format!("the status is not {status:?}"));
        }
        if let Some(missing) = lines.find(|line| !real_head.lines().any(|came| is_like(line, came))) {
            return Err(format!("no header is {missing:?}"));
        }
    }
    if is_like(shown_body, real_body) {
        Ok(())
    } else {
        Err(format!("it does not read {:?}", shown_body.trim()))
    }
}

/// Compares without white space; `…` stands for any text.
fn is_like(shown: &str, real: &str) -> bool {
    let squeeze = |text: &str| text.split_whitespace().collect::<String>();
    let (shown, real) = (squeeze(shown), squeeze(real));
    let Some((head, rest)) = shown.split_once('…') else {
        return shown == real;
    };
    let Some(mut left) = real.strip_prefix(head) else {
        return false;
    };
    let mut pieces: Vec<&str> = rest.split('…').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = left.find(piece) else { return false };
        left = &left[at + piece.len()..];
    }
    left.ends_with(last)
}

async fn commands_print_what_is_shown() -> Result<(), Failed> {
    let text = readme()?;
    let blocks = blocks(&text);
    let commands: Vec<&Block> = blocks.iter().filter(|block| block.language == "bash").collect();
    if commands.len() < 10 {
        return Err(format!("only {} bash blocks in the README", commands.len()).into());
    }
    let shop = Shop::start(Stage::Sqlite).await;
    let outputs = run(&shop, &commands).await;
    let outputs = outputs.map_err(|error| format!("{error}; the shop's log:\n{}", shop.log()));
    shop.remove().await;
    let mut wrong = Vec::new();
    for (block, (output, exit_code)) in commands.iter().zip(outputs?) {
        if exit_code != "0" {
            wrong.push(format!("README.md:{} exits with {exit_code}:\n{output}", block.line));
        }
        let shown = blocks
            .iter()
            .find(|shown| shown.line > block.line)
            .filter(|shown| !["bash", "sh"].contains(&shown.language.as_str()));
        let Some(shown) = shown else { continue };
        if let Err(why) = shown_is_real(&shown.text, &output) {
            wrong.push(format!(
                "README.md:{} shows what does not come from line {}: {why}\nwhat came:\n{output}",
                shown.line, block.line
            ));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n\n").into())
    }
}

/// Runs the blocks in one shell; returns the output and the exit code of each.
async fn run(shop: &Shop, commands: &[&Block]) -> Result<Vec<(String, String)>, String> {
    let directory = shop.directory().join("reader");
    prepare(&directory).map_err(|error| format!("no shell for the README: {error}"))?;
    let script: String = commands
        .iter()
        .map(|block| {
            format!(
                "{}\necho; echo \"{MARK} $?\"\n",
                block.text.replace(SHOWN_BASE, &shop.base())
            )
        })
        .collect();
    fs::write(directory.join("readme.sh"), format!("exec 2>&1\n{script}")).map_err(|error| error.to_string())?;
    let mut shell = Command::new(tool("bash").map_err(|error| error.to_string())?);
    shell
        .args(["--noprofile", "--norc", "readme.sh"])
        .current_dir(&directory)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .env_clear();
    // The settings that the reader of the README has left at their defaults.
    let of_shop = shop.command();
    shell
        .envs(
            of_shop
                .as_std()
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .env("PATH", directory.join("bin"));
    let ended = tokio::time::timeout(ALL_COMMANDS_LIMIT, shell.output()).await;
    let output = ended
        .map_err(|_| format!("the commands take longer than {ALL_COMMANDS_LIMIT:?}"))?
        .map_err(|error| error.to_string())?;
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut rest = output.as_str();
    let mut all = Vec::new();
    while let Some((of_block, after)) = rest.split_once(MARK) {
        let (exit_code, next) = after.split_once('\n').unwrap_or((after, ""));
        all.push((of_block.trim().to_owned(), exit_code.trim().to_owned()));
        rest = next;
    }
    if all.len() == commands.len() {
        Ok(all)
    } else {
        Err(format!("the shell ended early:\n{output}"))
    }
}

/// A directory with the binary where Cargo puts it, and the few tools the README names.
fn prepare(directory: &Path) -> std::io::Result<()> {
    let (bin, target) = (directory.join("bin"), directory.join("target/debug"));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&target)?;
    symlink(binary(), target.join("banyan"))?;
    for name in TOOLS {
        symlink(tool(name)?, bin.join(name))?;
    }
    Ok(())
}

fn tool(name: &str) -> std::io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file());
    found.ok_or_else(|| std::io::Error::other(format!("this test needs {name}")))
}

async fn banner_is_real() -> Result<(), Failed> {
    let text = readme()?;
    let shown = blocks(&text)
        .into_iter()
        .find(|block| block.language == "banner")
        .ok_or("the README shows no banner")?;
    let home = banyan_durable_testing::SqliteHome::new();
    let mut command = Command::new(binary());
    command
        .current_dir(home.path())
        .env("BANYAN__HTTP__LISTEN", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut shop = command.spawn()?;
    let mut lines = BufReader::new(shop.stdout.take().ok_or("no standard output")?).lines();
    let mut came = Vec::new();
    let reading = async {
        while came.len() < shown.text.lines().count() {
            came.push(
                lines
                    .next_line()
                    .await?
                    .ok_or_else(|| std::io::Error::other("the shop ended"))?,
            );
        }
        Ok::<(), std::io::Error>(())
    };
    tokio::time::timeout(BANNER_LIMIT, reading)
        .await
        .map_err(|_| format!("no complete banner within {BANNER_LIMIT:?}"))??;
    shop.kill().await?;
    let came = came.join("\n");
    let base = came
        .split_whitespace()
        .find_map(|word| word.strip_suffix("/api/v1"))
        .ok_or("the banner names no API")?;
    let came = came.replace(base, SHOWN_BASE);
    if came == shown.text.trim_end() {
        Ok(())
    } else {
        Err(format!("the README shows:\n{}\nthe shop prints:\n{came}", shown.text).into())
    }
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
    for folder in ["docs", "docs/adr", "docs/how-to", "docs/reference"] {
        let entries = fs::read_dir(root().join(folder))?.collect::<Result<Vec<_>, _>>()?;
        paths.extend(
            entries
                .into_iter()
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "md")),
        );
    }
    Ok(paths
        .into_iter()
        .map(|path| fs::read_to_string(&path).map(|text| (path, text)))
        .collect::<Result<_, _>>()?)
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
    for folder in ["app", "modules", "platform", "shared-kernel", "tests"] {
        read_sources(&root().join(folder), &mut sources)?;
    }
    let homes = [root(), root().join("platform"), root().join("modules")];
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

/// docs/ARCHITECTURE.md draws which module subscribes to which events; the drawing must be that of `banyan modules --mermaid`.
fn wrong_output_is_detected() -> Result<(), Failed> {
    let real = "HTTP/1.1 201 Created\r\netag: \"6\"\r\n\r\n{\"id\":\"7f\",\"status\":\"confirmed\",\"items\":[{\"sku\":\"fig\"}],\"version\":6}";
    let shown =
        "HTTP/1.1 201 Created\netag: \"6\"\n\n{\n  \"id\": \"…\", \"status\": \"confirmed\", …, \"version\": 6\n}\n";
    shown_is_real(shown, real)?;
    let lies = [
        ("201 Created", "200 OK"),
        ("etag: \"6\"", "etag: \"7\""),
        ("confirmed", "cancelled"),
        ("\"id\"", "\"uuid\""),
        ("\"version\": 6\n}", "\"version\": 6"),
        ("\"version\": 6", "\"version\": 6, \"total\": 1"),
    ];
    let accepted: Vec<_> = lies
        .iter()
        .filter(|(truth, lie)| shown_is_real(&shown.replace(truth, lie), real).is_ok())
        .collect();
    if accepted.is_empty() {
        Ok(())
    } else {
        Err(format!("these were not detected: {accepted:?}").into())
    }
}
