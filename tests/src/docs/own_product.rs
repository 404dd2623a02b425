//! docs/how-to/own-product.md: its excerpts are those of the helpdesk, and its commands run against the helpdesk.

use libtest_mimic::{Failed, Trial};

use super::{Page, Reader, SHOWN_BASE, Server, Tools, WITHOUT_A_BUILD, excerpts};
use crate::{
    architecture::root,
    harness::{helpdesk, runtime},
};

const PAGE: &str = "docs/how-to/own-product.md";
/// The tools that the page may use, besides bash itself.
const TOOLS: [&str; 3] = ["curl", "sed", "grep"];

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("docs::the_excerpts_of_own_product_are_the_helpdesks", excerpts_are_real),
        Trial::test("docs::the_commands_of_own_product_print_what_it_shows", || {
            runtime().block_on(commands_print_what_is_shown())
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
    let page = Page::load(PAGE)?;
    let blocks = page.in_language("bash").len();
    if blocks < 5 {
        return Err(format!("only {blocks} bash blocks in {PAGE}").into());
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
