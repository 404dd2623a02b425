//! Logs and metrics of the process.

use std::{io::IsTerminal, sync::OnceLock, thread, time::Duration};

use anyhow::Context;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tracing_subscriber::EnvFilter;

use crate::settings::{Log, LogFormat};

/// How often what histograms were given, which is kept piece by piece until then, is put together. Whoever reads the metrics does that too, but
/// nobody may be reading them.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Starts writing logs to standard error; standard output belongs to what a command prints.
///
/// # Errors
/// A filter that cannot be read.
pub fn start_logs(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.filter).with_context(|| {
        format!(
            "log.filter = {:?}; write levels as in RUST_LOG, such as info,http=debug",
            log.filter
        )
    })?;
    // Colours are for terminals; in a file they are noise.
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start in one process (tests) keeps the first one's settings.
    let _ = match log.format {
        LogFormat::Text => logs.compact().try_init(),
        LogFormat::Json => logs.json().flatten_event(true).with_current_span(true).try_init(),
    };
    Ok(())
}

/// Collects the process's metrics, once; later calls give the same collection.
pub fn metrics() -> PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    METRICS
        .get_or_init(|| {
            let recorder = recorder(UPKEEP_EVERY);
            let handle = recorder.handle();
            // Somebody else's recorder in the same process (a test's) would leave ours empty, and nothing worse.
            let _ = metrics::set_global_recorder(recorder);
            handle
        })
        .clone()
}

/// Metrics that are kept up as long as the process lives, whichever runtimes begin and end in it: hence a thread.
fn recorder(upkeep_every: Duration) -> PrometheusRecorder {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let keep_up = move || {
        loop {
            thread::sleep(upkeep_every);
            metrics.run_upkeep();
        }
    };
    if let Err(error) = thread::Builder::new().name("metrics".to_owned()).spawn(keep_up) {
        tracing::warn!(%error, "metrics are put together only when somebody reads them");
    }
    recorder
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_is_measured_is_put_together_although_nobody_reads_it() {
        let recorder = recorder(Duration::from_millis(5));
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("nobody_reads_this_seconds").record(1.5)
        });
        // Reading would do it, too; this looks without reading.
        let put_together = || {
            let inside = format!("{:?}", recorder.handle());
            let distributions = inside
                .split("distributions: ")
                .nth(1)
                .and_then(|rest| rest.split("distribution_builder").next());
            distributions
                .expect("the distributions")
                .contains("nobody_reads_this_seconds")
        };
        let begun = Instant::now();
        while !put_together() {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "what was measured is still kept piece by piece"
            );
            thread::sleep(Duration::from_millis(1));
        }
    }
}
