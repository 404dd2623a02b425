//! Tells other processes whether what is served here can be answered now, by the gRPC health protocol.
//!
//! An instance whose database is away answers every call at once, with `unavailable`: callers that take the least busy one would send it most of
//! their calls, and open their breaker although others are well. So it says that it does not serve, and leaves their rotations.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::contracts::module_of;
use crate::health::Checks;

/// How often the checks are made.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A service is taken out after so many failed checks in a row: one may have met a moment of load. It is back after one that succeeds.
const FAILURES: u32 = 2;

/// Keeps the health of these services as the checks find it, until `stop`.
pub async fn follow(
    reporter: HealthReporter,
    services: Vec<&'static str>,
    checks: Arc<Checks>,
    stop: CancellationToken,
) {
    let mut failures: HashMap<&str, u32> = HashMap::new();
    let looking = async {
        loop {
            let away = checks.away().await;
            for service in &services {
                let failed = failures.entry(service).or_default();
                let before = *failed < FAILURES;
                *failed = if away.iter().any(|away| takes_out(away.as_deref(), service)) {
                    failed.saturating_add(1)
                } else {
                    0
                };
                let serves = *failed < FAILURES;
                if serves != before {
                    tracing::info!(service, serves, "whether other processes are to call here changed");
                    let status = if serves {
                        ServingStatus::Serving
                    } else {
                        ServingStatus::NotServing
                    };
                    reporter.set_service_status(service, status).await;
                }
            }
            sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = looking => {}
    }
}

/// Whether a service cannot be answered for want of this module, or of the whole process if it is none. What is no module's own needs everything.
fn takes_out(away: Option<&str>, service: &str) -> bool {
    match (away, module_of(service)) {
        (Some(away), Some(module)) => away == module,
        _ => true,
    }
}
