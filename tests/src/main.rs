//! Everything that is tested from outside the crates: the architecture, the contracts, and the running shop.
//!
//! One binary, so that it links once. `cargo test -p tests -- scenarios` runs a part.

mod architecture;
mod snapshot;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = architecture::trials();
    libtest_mimic::run(&arguments, trials).exit_code()
}
