//! The shop as several processes: what stays up when one is away, several instances of one, and whatever can die, dying under load.
//!
//! Each fault comes once, or `BANYAN_TEST_FAULTS` times (`scripts/test.sh --full` says 20); a partition, which is long, at most three times.

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

/// A test of this part: its name, and what happens.
type Case = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()>>>);

fn trial(name: &'static str, run: fn() -> Pin<Box<dyn Future<Output = ()>>>) -> Trial {
    Trial::test(format!("split::{name}"), move || {
        runtime().block_on(run());
        Ok(())
    })
}

/// How often each fault comes.
fn faults() -> u32 {
    std::env::var("BANYAN_TEST_FAULTS")
        .ok()
        .and_then(|faults| faults.parse().ok())
        .unwrap_or(1)
}
