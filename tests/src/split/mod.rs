//! The shop as several processes: what works while one is down, several instances of one module, and failures of every process under load.
//!
//! Each failure is injected once, or `BANYAN_TEST_FAULTS` times (`scripts/test.sh --full` says 20); a partition, which is long, at most three times.

mod faults;
mod instances;
mod outage;
mod proxy;

use std::pin::Pin;

use libtest_mimic::Trial;

use crate::harness::runtime;

pub fn trials() -> Vec<Trial> {
    [outage::all(), instances::all(), faults::all()]
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
