//! What every bus must do, checked on each implementation; and what can go wrong only with a broker.

mod broker_changes;
mod broker_failures;
mod conformance;
mod fixtures;

use banyan_core::{Envelope, Timestamp};
use libtest_mimic::Trial;
use uuid::Uuid;

use crate::harness::runtime;

pub fn trials() -> Vec<Trial> {
    [
        conformance::trials(),
        broker_changes::trials(),
        broker_failures::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A check of one bus.
fn check<F>(name: String, run: impl Fn() -> F + Send + 'static) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    Trial::test(name, move || {
        runtime().block_on(run());
        Ok(())
    })
}

/// An event of `source` about `subject`.
fn event(source: &str, subject: &str, version: i64) -> Envelope {
    Envelope {
        specversion: "1.0".to_owned(),
        id: Uuid::now_v7(),
        source: source.to_owned(),
        kind: format!("banyan.{source}.v1.Happened"),
        subject: subject.to_owned(),
        time: Timestamp::from_ms(0),
        datacontenttype: "application/json".to_owned(),
        version,
        previousid: None,
        traceparent: None,
        data: serde_json::value::to_raw_value(&serde_json::json!({ "version": version })).expect("JSON"),
    }
}
