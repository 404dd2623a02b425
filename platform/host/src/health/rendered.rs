//! The text of the metrics, rendered at most once in a second however often it is asked for.

use std::time::{Duration, Instant};

use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Mutex;

const MAX_AGE: Duration = Duration::from_secs(1);

pub struct Rendered {
    metrics: PrometheusHandle,
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Rendered {
    pub fn new(metrics: PrometheusHandle) -> Self {
        Rendered {
            metrics,
            last: Mutex::default(),
        }
    }

    /// At most a second old. Rendering needs milliseconds, so it is not done on a thread that serves requests, and not twice at a time.
    pub async fn text(&self) -> Bytes {
        let mut last = self.last.lock().await;
        if let Some((_, text)) = last.as_ref().filter(|(at, _)| at.elapsed() < MAX_AGE) {
            return text.clone();
        }
        let metrics = self.metrics.clone();
        let text = tokio::task::spawn_blocking(move || Bytes::from(metrics.render())).await;
        let text = text.unwrap_or_default();
        *last = Some((Instant::now(), text.clone()));
        text
    }
}
