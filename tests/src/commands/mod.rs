//! The command line as a user types it: real processes, their output, their exit codes, and their shutdown.

mod help_and_settings;
pub mod installation;
mod lost_databases;
mod migrate_and_seed;
mod operations;
mod postgres_variants;
mod restored;
mod security_events;
mod several_processes;
mod shutdown;
mod startup_checks;

pub use installation::Installation;
use libtest_mimic::Trial;

use crate::harness::{Stage, runtime};

/// A check that starts its own shops.
pub fn check<F>(name: &str, run: fn() -> F) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    Trial::test(format!("commands::{name}"), move || {
        runtime().block_on(run());
        Ok(())
    })
}

/// The same check on each database.
pub fn check_on<F>(name: &'static str, run: fn(Stage) -> F) -> impl Iterator<Item = Trial>
where
    F: Future<Output = ()> + 'static,
{
    Stage::ALL_IN_ONE.into_iter().map(move |stage| {
        Trial::test(format!("commands[{}]::{name}", stage.name()), move || {
            runtime().block_on(run(stage));
            Ok(())
        })
    })
}

/// Lists a file's checks: `checks![a_name, another_name; on both: a_third]`.
macro_rules! checks {
    ($($name:ident),* $(,)? $(; on both: $($both:ident),* $(,)?)?) => {
        pub fn trials() -> Vec<libtest_mimic::Trial> {
            #[allow(unused_mut, reason = "a file may have no check on both databases")]
            let mut trials = vec![$(crate::commands::check(stringify!($name), $name)),*];
            $($(trials.extend(crate::commands::check_on(stringify!($both), $both));)*)?
            trials
        }
    };
}
pub(crate) use checks;

pub fn trials() -> Vec<Trial> {
    [
        help_and_settings::trials(),
        operations::trials(),
        restored::trials(),
        security_events::trials(),
        startup_checks::trials(),
        shutdown::trials(),
        migrate_and_seed::trials(),
        several_processes::trials(),
        lost_databases::trials(),
        postgres_variants::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
