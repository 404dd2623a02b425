//! The command line of the shop; each command is the platform's.

use std::process::ExitCode;

fn main() -> ExitCode {
    banyan_host::cli::run(&banyan::shop::SHOP)
}
