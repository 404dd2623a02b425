//! docs/how-to/own-product.md: its excerpts are those of the helpdesk, and its commands run against the helpdesk.

use std::time::Duration;

use banyan_durable_testing::PostgresHome;
use libtest_mimic::{Failed, Trial};
use uuid::Uuid;

use super::{Page, Reader, SHOWN_BASE, Server, Tools, WITHOUT_A_BUILD, excerpts};
use crate::{
    architecture::root,
    harness::{Copy, build_environment, free_port, helpdesk, runtime},
};

const PAGE: &str = "docs/how-to/own-product.md";
/// Where the page begins to build and start servers of its own.
const ON_POSTGRES: &str = "## On PostgreSQL";
/// It compiles the helpdesk three times.
const LIMIT: Duration = Duration::from_secs(1_800);
/// The tools that the page may use, besides bash itself.
const TOOLS: [&str; 3] = ["curl", "sed", "grep"];

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("docs::the_excerpts_of_own_product_are_the_helpdesks", excerpts_are_real),
        Trial::test("docs::the_commands_of_own_product_print_what_it_shows", || {
            runtime().block_on(commands_print_what_is_shown())
        }),
        Trial::test("docs::own_product_runs_on_postgres_and_in_two_processes", || {
            runtime().block_on(servers_and_processes_are_as_shown())
        }),
    ]
}

fn excerpts_are_real() -> Result<(), Failed> {
    let page = Page::load(PAGE)?;
    let excerpts = page.blocks.iter().filter(|block| block.is_excerpt()).count();
    if excerpts < 10 {
        return Err(format!("only {excerpts} excerpts in {PAGE}").into());
    }
    Ok(excerpts::check(&page, &root())?)
}

async fn commands_print_what_is_shown() -> Result<(), Failed> {
    let (page, _) = Page::load_parts(PAGE, ON_POSTGRES)?;
    let blocks = page.in_language("bash").len();
    if blocks < 5 {
        return Err(format!("only {blocks} bash blocks in {PAGE} before {ON_POSTGRES:?}").into());
    }
    let server = Server::start(&helpdesk(), &page).await?;
    let reader = Reader {
        directory: server.directory().join("reader"),
        tools: Tools::Only(&TOOLS),
        files: vec![("target/debug/helpdesk", helpdesk())],
        variables: server.variables(),
        replace: vec![(SHOWN_BASE, server.base())],
        limit: WITHOUT_A_BUILD,
    };
    let followed = reader.follow(&page).await;
    server.kill().await?;
    Ok(followed?)
}

/// The rest of the page builds the helpdesk anew, so it is followed in a copy.
async fn servers_and_processes_are_as_shown() -> Result<(), Failed> {
    let (_, page) = Page::load_parts(PAGE, ON_POSTGRES)?;
    let blocks = page.in_language("bash").len();
    if blocks < 3 {
        return Err(format!("only {blocks} bash blocks in {PAGE} behind {ON_POSTGRES:?}").into());
    }
    let copy = Copy::of_the_repository().with_what_was_built();
    let database = PostgresHome::new().await;
    let broker =
        std::env::var("BANYAN_TEST_RABBITMQ").map_err(|_| "BANYAN_TEST_RABBITMQ is not set: run scripts/test.sh")?;
    let port = || format!("127.0.0.1:{}", free_port());
    let gateway = port();
    let mut variables = build_environment();
    variables.push(("BANYAN__HTTP__LISTEN".to_owned(), gateway.clone()));
    let exchange = format!("helpdesk-{}", Uuid::new_v4().simple());
    variables.push(("BANYAN__BUS__EXCHANGE".to_owned(), exchange));
    let reader = Reader {
        directory: copy.path().to_owned(),
        tools: Tools::All,
        files: Vec::new(),
        variables,
        replace: vec![
            ("127.0.0.1:8080", gateway),
            ("127.0.0.1:8101", port()),
            ("127.0.0.1:9101", port()),
            ("127.0.0.1:9102", port()),
            ("postgres://banyan:secret@localhost:5432/helpdesk", database.url()),
            ("amqp://banyan:secret@localhost:5672/%2f", broker),
        ],
        limit: LIMIT,
    };
    let followed = reader.follow(&page).await;
    database.remove().await;
    Ok(followed?)
}
