//! Metrics of the process.

use std::{sync::OnceLock, thread, time::Duration};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::logs;

/// The interval at which recorded histogram samples, each stored on its own until then, are merged. Scraping the metrics merges them too, but they
/// may never be scraped.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

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
    let recorder = PrometheusBuilder::new().build_recorder();
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
