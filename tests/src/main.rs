//! Everything that is tested from outside the crates: the architecture, the contracts, and the running shop.
//!
//! One binary, so that it links once. `cargo test -p tests -- scenarios` runs a part.

mod accounts;
mod architecture;
mod auditor;
mod authorisation;
mod browser;
mod budget;
mod bus;
mod commands;
mod contracts;
mod crash;
mod data;
mod deploy;
mod docs;
mod edge;
mod generator;
mod glossary;
mod growth;
mod harness;
mod isolation;
mod leftovers;
mod load;
mod openapi;
mod plain_english;
mod proofs;
mod readme;
mod reference;
mod report;
mod scenarios;
mod snapshot;
mod split;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("no TLS provider was chosen before");
    let mut arguments = Arguments::from_args();
    // Half of the time a test waits for a process, a broker, a lease; so there are more of them than cores.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(cores + cores.div_ceil(2));
    let trials = [
        accounts::trials(),
        architecture::trials(),
        auditor::trials(),
        scenarios::trials(),
        browser::trials(),
        budget::trials(),
        bus::trials(),
        contracts::trials(),
        edge::trials(),
        openapi::trials(),
        authorisation::trials(),
        commands::trials(),
        isolation::trials(),
        readme::trials(),
        docs::trials(),
        reference::trials(),
        proofs::trials(),
        glossary::trials(),
        growth::trials(),
        plain_english::trials(),
        deploy::trials(),
        generator::trials(),
        leftovers::trials(),
        crash::trials(),
        split::trials(),
    ];
    let trials = trials.into_iter().flatten().collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    scenarios::close_shops();
    conclusion.exit_code()
}
