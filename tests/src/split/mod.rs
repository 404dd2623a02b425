//! The shop as several processes: what works while one is down, several instances of one module, and failures of every process under load.
//!
//! Each failure is injected once, or `BANYAN_TEST_FAULTS` times (`scripts/test.sh --full` says 20); a partition, which is long, at most three times.

mod faults;
mod instances;
mod outage;
mod proxy;
mod refusals;
mod silence;

use std::pin::Pin;

use libtest_mimic::Trial;

use crate::harness::runtime;

pub fn trials() -> Vec<Trial> {
    [
        outage::all(),
        instances::all(),
        faults::all(),
        refusals::all(),
        silence::all(),
    ]
    .concat()
    .into_iter()
    .map(|(name, run)| trial(name, run))
    .collect()
}

/// A test: its name, and its body.
type Case = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()>>>);

fn trial(name: &'static str, run: fn() -> Pin<Box<dyn Future<Output = ()>>>) -> Trial {
    Trial::test(format!("split::{name}"), move || {
        runtime().block_on(run());
        Ok(())
    })
}

/// How many times each failure is injected.
fn faults() -> u32 {
    std::env::var("BANYAN_TEST_FAULTS")
        .ok()
        .and_then(|faults| faults.parse().ok())
        .unwrap_or(1)
}

/// What was injected, printed if the test fails: it was chosen at random.
#[derive(Default)]
struct Story(Vec<String>);

impl Story {
    fn add(&mut self, fault: String) {
        self.0.push(fault);
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("injected:\n{}", self.0.join("\n"));
        }
    }
}
