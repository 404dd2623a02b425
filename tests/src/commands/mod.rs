//! The command line as a user types it: real processes, their output, their exit codes, and how they stop.

mod asking;
mod operating;
mod place;
mod refusing;
mod stopping;
mod tables;
mod together;

use libtest_mimic::Trial;
pub use place::Place;

use crate::harness::{Stage, runtime};

/// A check that brings its own shops.
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
    Stage::WHOLE.into_iter().map(move |stage| {
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
        asking::trials(),
        operating::trials(),
        refusing::trials(),
        stopping::trials(),
        tables::trials(),
        together::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
