//! Updates the gauges of a module's machinery.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{Counts, Db, Ops, Sagas, machinery::Work};

/// The interval between updates.
const EVERY: Duration = Duration::from_secs(15);

pub(crate) fn work(db: Db) -> Work {
    Arc::new(move |stop| {
        let ops = Ops::new(db.clone(), Sagas::new(db.clone()));
        Box::pin(async move {
            loop {
                match ops.counts().await {
                    Ok(counts) => set(ops.module(), &counts),
                    Err(fault) => tracing::debug!(module = ops.module(), %fault, "the machinery cannot be counted"),
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(EVERY) => {}
                }
            }
        })
    })
}

fn set(module: &str, counts: &Counts) {
    for (name, value) in [
        ("banyan_outbox_pending", counts.outbox_pending as f64),
        (
            "banyan_outbox_oldest_pending_seconds",
            counts.outbox_oldest_ms as f64 / 1_000.0,
        ),
        ("banyan_retry_waiting", counts.waiting as f64),
        ("banyan_retry_retrying", counts.retrying as f64),
        ("banyan_dead_letters", counts.dead_letters as f64),
    ] {
        metrics::gauge!(name, "module" => module.to_owned()).set(value);
    }
}
