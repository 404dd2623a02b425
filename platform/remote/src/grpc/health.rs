//! Reports over the gRPC health protocol whether the services of this process can respond now.
//!
//! An instance without its database responds to every call at once, with `unavailable`: callers that choose the least busy instance would send
//! it most of their calls, and open their breaker although other instances are healthy. So it reports that it does not serve, and leaves their
//! rotations.

use std::{collections::HashMap, time::Duration};

use banyan_core::Checks;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::server::ServedService;

/// The interval between two checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// A service is reported after this number of failed checks in a row: a single one may be due to a peak of load. One success ends it.
const FAILURES: u32 = 2;

/// Keeps the health of these services as the checks find it, until `stop`.
pub async fn follow(reporter: HealthReporter, services: Vec<ServedService>, checks: Checks, stop: CancellationToken) {
    let mut failures: HashMap<&str, u32> = HashMap::new();
    let checking = async {
        loop {
            let failing = checks.failing().await;
            for service in &services {
                let failed = failures.entry(service.name).or_default();
                let before = *failed < FAILURES;
                *failed = if failing.iter().any(|failing| affects(failing.as_deref(), service)) {
                    failed.saturating_add(1)
                } else {
                    0
                };
                let serves = *failed < FAILURES;
                if serves != before {
                    tracing::info!(
                        service = service.name,
                        serves,
                        "the reported health of a service changed"
                    );
                    let status = if serves {
                        ServingStatus::Serving
                    } else {
                        ServingStatus::NotServing
                    };
                    reporter.set_service_status(service.name, status).await;
                }
            }
            sleep(CHECK_INTERVAL).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = checking => {}
    }
}

/// Whether a service cannot respond because this module, or the whole process if it is `None`, cannot. A service that belongs to no module needs
/// all of them.
fn affects(failing: Option<&str>, service: &ServedService) -> bool {
    match (failing, service.module) {
        (Some(failing), Some(module)) => failing == module,
        _ => true,
    }
}
