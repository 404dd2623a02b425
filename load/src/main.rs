//! A load driver for the shop on this machine: it starts a shop on throw-away data, lets customers order and read in closed loops, and prints what an
//! order costs beside what the database and the web server can do at best. docs/explanation/performance.md says how to read it.
//!
//! It only talks to loopback, and everything it does is bounded in time and in count.

mod counters;
mod customers;
mod fill;
mod home;
mod http;
mod options;
mod process;
mod progress;
mod report;
mod results;
mod run;
mod shop;
mod stages;
mod statistics;
mod yardsticks;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use home::Postgres;
use options::{Command, Options};

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.command {
        Some(Command::BareEndpoint { directory }) => yardsticks::bare_http::serve(directory),
        None => measure(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One thread: the driver must leave the cores to the shop.
fn measure(options: &Options) -> anyhow::Result<()> {
    options.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let postgres = match &options.postgres {
            Some(url) => Some(Postgres::connect(url).await?),
            None => None,
        };
        let report = tokio::select! {
            report = run::run(options, postgres.as_ref()) => report,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        };
        if let Some(postgres) = &postgres {
            postgres.drop_databases().await?;
        }
        let report = report?;
        report::print(&report)?;
        if let Some(path) = &options.json {
            let text = serde_json::to_string_pretty(&report)?;
            std::fs::write(path, text + "\n")
                .with_context(|| format!("--json {} cannot be written", path.display()))?;
        }
        Ok(())
    })
}
