//! `/health/live`, `/health/ready`, `/metrics`: for orchestrators and for Prometheus.

mod dependencies;
mod rendered;

use std::{collections::BTreeMap, sync::Arc};

use actix_web::{HttpResponse, get, http::header, web::Data};
use banyan_core::Checks;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

pub use dependencies::checks;
use rendered::Rendered;

/// The state from which the health of the process is reported.
#[derive(Clone)]
pub struct Health {
    pub checks: Checks,
    /// Cancelled once the process has started.
    pub started: CancellationToken,
    /// Cancelled when the process begins to stop.
    pub stopping: CancellationToken,
    metrics: Arc<Rendered>,
}

impl Health {
    /// The health of a process that has not started yet.
    pub fn new(checks: Checks) -> Self {
        Health {
            checks,
            started: CancellationToken::new(),
            stopping: CancellationToken::new(),
            metrics: Arc::new(Rendered::new(crate::telemetry::metrics())),
        }
    }
}

/// Whether the process can take requests, and on what that depends.
#[derive(Serialize, ToSchema)]
struct Readiness {
    /// `ready`, `starting`, `stopping` or `unavailable`.
    #[schema(example = "ready")]
    status: String,
    /// Each dependency and its state: `ok`, or what is wrong. Empty on an address that everybody reaches.
    checks: BTreeMap<String, String>,
}

/// That the process runs.
#[derive(Serialize, ToSchema)]
struct Liveness {
    #[schema(example = "live")]
    status: String,
}

pub fn routes(health: Arc<Health>) -> impl Fn(&mut ServiceConfig<'_>) + Clone {
    let health = Data::from(health);
    move |config| {
        config
            .app_data(health.clone())
            .service(live)
            .service(ready)
            .service(metrics);
    }
}

/// Only whether the process runs and is ready, for an address that everybody reaches; `with_checks` says on what readiness depends, for gateways.
pub fn status(health: Arc<Health>, with_checks: bool) -> impl Fn(&mut ServiceConfig<'_>) + Clone {
    let health = Data::from(health);
    move |config| {
        let config = config.app_data(health.clone()).service(live);
        if with_checks {
            config.service(ready);
        } else {
            config.service(ready_without_checks);
        }
    }
}

/// Answers as long as the process runs; says nothing about what it depends on. Restart it when this fails.
#[utoipa::path(tag = "operations", responses((status = 200, description = "The process runs", body = Liveness)))]
#[get("/health/live")]
async fn live() -> HttpResponse {
    HttpResponse::Ok().json(Liveness {
        status: "live".to_owned(),
    })
}

/// Whether requests may be sent here: every dependency and its state.
#[utoipa::path(tag = "operations", responses(
    (status = 200, description = "Ready for requests", body = Readiness),
    (status = 503, description = "Not ready: starting, stopping, or a dependency is away", body = Readiness)))]
#[get("/health/ready")]
async fn ready(health: Data<Health>) -> HttpResponse {
    readiness(&health, true).await
}

/// As [`ready`], without the names of servers and what they said.
#[utoipa::path(get, path = "/health/ready", tag = "operations", responses((status = 200, body = Readiness)))]
#[get("/health/ready")]
async fn ready_without_checks(health: Data<Health>) -> HttpResponse {
    readiness(&health, false).await
}

async fn readiness(health: &Health, with_checks: bool) -> HttpResponse {
    let results = health.checks.run().await;
    let all_pass = results.iter().all(|(_, result)| !result.fails_readiness);
    let status = if health.stopping.is_cancelled() {
        "stopping"
    } else if !health.started.is_cancelled() {
        "starting"
    } else if all_pass {
        "ready"
    } else {
        "unavailable"
    };
    let body = Readiness {
        status: status.to_owned(),
        checks: results
            .into_iter()
            .filter(|_| with_checks)
            .map(|(name, result)| (name, result.text))
            .collect(),
    };
    let mut response = if status == "ready" {
        HttpResponse::Ok()
    } else {
        HttpResponse::ServiceUnavailable()
    };
    response.json(body)
}

/// Measurements in Prometheus' text format.
#[utoipa::path(tag = "operations", responses((status = 200, description = "Prometheus text format", body = String, content_type = "text/plain")))]
#[get("/metrics")]
async fn metrics(health: Data<Health>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"))
        .body(health.metrics.text().await)
}
