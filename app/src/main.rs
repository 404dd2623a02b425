//! The command line of the shop. Its commands are the platform's; a debug build can also generate a module.

use std::process::ExitCode;

#[cfg(debug_assertions)]
const DEVELOPMENT: &[banyan_host::cli::Extension] = &[banyan_host::cli::Extension {
    command: module_generator::command,
    run: module_generator::run,
}];
#[cfg(not(debug_assertions))]
const DEVELOPMENT: &[banyan_host::cli::Extension] = &[];

fn main() -> ExitCode {
    banyan_host::cli::run(&banyan::shop::SHOP, DEVELOPMENT)
}
