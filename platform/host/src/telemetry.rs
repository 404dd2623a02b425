//! Metrics of the process.

use std::{sync::OnceLock, thread, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::logs;

/// The interval at which recorded histogram samples, each stored on its own until then, are merged. Scraping the metrics merges them too, but they
/// may never be scraped.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// The bounds of the histograms, in seconds. Without bounds they would be quantiles, which are computed at every scrape, cannot be added up over
/// processes, and read 0 after a quiet minute.
const BUCKETS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The bounds of the number of jobs that share a commit.
const BATCH_BUCKETS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// Installs the process's metrics recorder once; later calls return the same handle.
pub fn metrics() -> PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    METRICS
        .get_or_init(|| {
            let recorder = recorder(UPKEEP_INTERVAL);
            let handle = recorder.handle();
            // If another recorder is installed in the same process (by a test), ours stays empty, which is harmless.
            let _ = metrics::set_global_recorder(recorder);
            handle
        })
        .clone()
}

/// A recorder whose samples are merged until the process ends. A thread does it, because runtimes may begin and end before.
fn recorder(upkeep_interval: Duration) -> PrometheusRecorder {
    let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).and_then(|builder| {
        let batches = Matcher::Full("banyan_commit_batch_jobs".to_owned());
        builder.set_buckets_for_metric(batches, &BATCH_BUCKETS)
    });
    // Only an empty list of bounds is refused, and both are constants.
    let recorder = builder.expect("there are bounds").build_recorder();
    let metrics = recorder.handle();
    let upkeep = move || {
        loop {
            thread::sleep(upkeep_interval);
            logs::count_dropped();
            metrics.run_upkeep();
        }
    };
    if let Err(error) = thread::Builder::new().name("metrics".to_owned()).spawn(upkeep) {
        tracing::warn!(%error, "the metrics thread did not start; histogram samples are merged only when metrics are scraped");
    }
    recorder
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn histogram_samples_are_merged_although_metrics_are_never_scraped() {
        let recorder = recorder(Duration::from_millis(5));
        metrics::with_local_recorder(&recorder, || metrics::histogram!("never_scraped_seconds").record(1.5));
        // Rendering would merge the samples; the debug output does not.
        let merged = || {
            let debug = format!("{:?}", recorder.handle());
            let distributions = debug
                .split("distributions: ")
                .nth(1)
                .and_then(|rest| rest.split("distribution_builder").next());
            distributions
                .expect("the distributions")
                .contains("never_scraped_seconds")
        };
        let started = Instant::now();
        while !merged() {
            assert!(started.elapsed() < Duration::from_secs(10), "the sample is not merged");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
