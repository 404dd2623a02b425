//! docs/tutorial/first-module.md: its excerpts are those of the generated module; its commands and changes are carried out in a copy of the repository, with
//! everything that must be compiled for them. Afterwards every generated text agrees with what was compiled.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use banyan::MODULES;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use super::{Page, Reader, SHOWN_BASE, Tools, excerpts};
use crate::{
    architecture, contracts,
    generator::{TUTORIAL, free_name, new_module},
    harness::{Copy, build_environment, free_port, runtime},
    openapi, reference,
    report::none,
};

const PAGE: &str = "docs/tutorial/first-module.md";
/// It compiles the app several times.
const LIMIT: Duration = Duration::from_secs(1_800);

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "docs::the_excerpts_of_first_module_are_the_generated_modules",
            excerpts_are_real,
        ),
        Trial::test(
            "docs::first_module_can_be_followed_from_the_generator_to_a_service",
            || runtime().block_on(page_can_be_followed()),
        ),
    ]
}

/// The page, and the module that it makes here: one that the shop does not have.
fn load() -> Result<(Page, String), Failed> {
    let name = free_name();
    let text = fs::read_to_string(architecture::root().join(PAGE))?;
    let capital = |name: &str| name[..1].to_uppercase() + &name[1..];
    let text = text
        .replace(TUTORIAL, &name)
        .replace(&capital(TUTORIAL), &capital(&name));
    Ok((Page::of(PAGE, &text), name))
}

fn excerpts_are_real() -> Result<(), Failed> {
    let (page, name) = load()?;
    let excerpts = page.blocks.iter().filter(|block| block.is_excerpt()).count();
    if excerpts < 5 {
        return Err(format!("only {excerpts} excerpts in {PAGE}").into());
    }
    let copy = Copy::of_the_repository();
    let made = new_module(copy.path(), &name);
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into_owned().into());
    }
    Ok(excerpts::check(&page, copy.path())?)
}

async fn page_can_be_followed() -> Result<(), Failed> {
    let (page, name) = load()?;
    if page.steps().len() < 12 {
        return Err(format!("only {} steps in {PAGE}", page.steps().len()).into());
    }
    let copy = Copy::of_the_repository().with_what_was_built();
    let port = free_port();
    let mut variables = build_environment();
    variables.push(("BANYAN__HTTP__LISTEN".to_owned(), format!("127.0.0.1:{port}")));
    for server in ["BANYAN_TEST_POSTGRES", "BANYAN_TEST_RABBITMQ"] {
        let url = std::env::var(server).map_err(|_| format!("{server} is not set: run scripts/test.sh"))?;
        variables.push((server.to_owned(), url));
    }
    let reader = Reader {
        directory: copy.path().to_owned(),
        tools: Tools::All,
        files: Vec::new(),
        variables,
        replace: vec![
            (SHOWN_BASE, format!("http://127.0.0.1:{port}")),
            ("--port 8080", format!("--port {port}")),
        ],
        limit: LIMIT,
    };
    reader.follow(&page).await?;
    agrees_with_what_is_compiled(&copy, &name)
}

/// The texts that the generator has made, and that the page has changed, are those that the compiled module makes.
fn agrees_with_what_is_compiled(copy: &Copy, name: &str) -> Result<(), Failed> {
    let modules = [&MODULES[..], &[name]].concat();
    none(architecture::check(copy.path(), &modules))?;
    copy.cargo(&["fmt", "--all", "--check"]);
    let messages = copy.cargo(&["build", "--locked", "--message-format=json", "--package=banyan"]);
    let binary = executable(&messages)?;
    let document = Command::new(&binary).arg("openapi").output()?.stdout;
    let document = String::from_utf8(document)?;
    same("app/openapi.json", copy, &document)?;
    none(openapi::codes::check(copy.path(), &document)?)?;
    let modules_page = reference::modules_page(copy.path(), &binary, &modules)?;
    same(reference::MODULES_PAGE, copy, &modules_page)?;
    let descriptors = fs::read(out_dir_of_the_contract(&messages, name)?.join("descriptors.bin"))?;
    let contract = contracts::snapshot_of(&descriptors)?;
    same(&format!("modules/{name}/contract/snapshot.txt"), copy, &contract)
}

fn same(path: &str, copy: &Copy, compiled: &str) -> Result<(), Failed> {
    let there = copy.read(path);
    if there == compiled {
        return Ok(());
    }
    let differs = |(_, (there, compiled)): &(usize, (&str, &str))| there != compiled;
    let difference = there.lines().zip(compiled.lines()).enumerate().find(differs);
    Err(format!("{path} differs from what was compiled: {difference:?}").into())
}

/// The messages of Cargo that have this reason.
fn messages_of<'a>(messages: &'a str, reason: &'static str) -> impl Iterator<Item = Value> + 'a {
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages.filter(move |message| message["reason"] == reason)
}

fn executable(messages: &str) -> Result<PathBuf, Failed> {
    let built =
        messages_of(messages, "compiler-artifact").find_map(|artifact| Some(artifact["executable"].as_str()?.into()));
    Ok(built.ok_or("Cargo has built no binary")?)
}

/// Where Cargo has put what the build script of the module's contract made.
fn out_dir_of_the_contract(messages: &str, name: &str) -> Result<PathBuf, Failed> {
    let folder = format!("modules/{name}/contract");
    let ran = messages_of(messages, "build-script-executed").find_map(|message| {
        let package = message["package_id"].as_str()?;
        package
            .contains(&folder)
            .then(|| message["out_dir"].as_str().map(PathBuf::from))?
    });
    Ok(ran.ok_or("Cargo has built no contract of the module")?)
}
