//! The command line: thin; every command is a file in `cli/`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Two TLS providers are in the dependency graph; whoever opens a connection first must find one chosen.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed before main");
    }
    cli::run()
}
