//! The reconciler: queries the provider for the outcome of commands that have been open too long.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::service::Service;

/// Runs until `stop`, on one instance at a time. The first round queries every open command: what is open then was left by a process that crashed.
pub async fn run(service: Arc<Service>, stop: CancellationToken) {
    let db = service.db.clone();
    banyan_durable::hold(&db, "payments-reconciler", &stop, |stop| rounds(service.clone(), stop)).await;
}

async fn rounds(service: Arc<Service>, stop: CancellationToken) {
    let settings = &service.settings;
    let mut age = Duration::ZERO;
    while !stop.is_cancelled() {
        tokio::select! {
            reconciled = service.reconcile(age) => match reconciled {
                Ok(0) => {}
                Ok(open) => tracing::info!(open, "queried the provider for money commands without an outcome"),
                Err(fault) => tracing::warn!(%fault, "the reconciler failed and will run again"),
            },
            () = stop.cancelled() => return,
        }
        age = settings.reconcile_after();
        tokio::select! {
            () = tokio::time::sleep(settings.reconcile_every()) => {}
            () = stop.cancelled() => {}
        }
    }
}
