//! `/health/live`, `/health/ready`, `/metrics`: for orchestrators and for Prometheus.

use std::{collections::BTreeMap, sync::Arc};

use actix_web::{HttpResponse, get, http::header, web::Data};
use durable::Db;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

/// What the checks look at.
#[derive(Clone)]
pub struct Checks {
    pub databases: Vec<Db>,
    /// Set once everything runs.
    pub started: CancellationToken,
    /// Set when the process is told to stop.
    pub stopping: CancellationToken,
    pub metrics: PrometheusHandle,
}

/// Whether the process can take requests, and on what that depends.
#[derive(Serialize, ToSchema)]
struct Readiness {
    /// `ready`, `starting`, `stopping` or `unavailable`.
    #[schema(example = "ready")]
    status: String,
    /// Each dependency and its state: `ok`, or what is wrong.
    checks: BTreeMap<String, String>,
}

/// That the process runs.
#[derive(Serialize, ToSchema)]
struct Liveness {
    #[schema(example = "live")]
    status: String,
}

pub fn routes(checks: Arc<Checks>) -> impl Fn(&mut ServiceConfig<'_>) + Clone {
    let checks = Data::from(checks);
    move |config| {
        config.app_data(checks.clone()).service(live).service(ready).service(metrics);
    }
}

/// Answers as long as the process runs; says nothing about what it depends on. Restart it when this fails.
#[utoipa::path(tag = "operations", responses((status = 200, description = "The process runs", body = Liveness)))]
#[get("/health/live")]
async fn live() -> HttpResponse {
    HttpResponse::Ok().json(Liveness { status: "live".to_owned() })
}

/// Whether requests may be sent here: every dependency and its state.
#[utoipa::path(tag = "operations", responses(
    (status = 200, description = "Ready for requests", body = Readiness),
    (status = 503, description = "Not ready: starting, stopping, or a dependency is away", body = Readiness)))]
#[get("/health/ready")]
async fn ready(checks: Data<Checks>) -> HttpResponse {
    let answers = futures::future::join_all(checks.databases.iter().map(|db| async move { (db.module(), db.ping().await) })).await;
    let all_answer = answers.iter().all(|(_, answer)| answer.is_ok());
    let states = answers.into_iter().map(|(module, answer)| {
        let state = answer.map_or_else(|fault| fault.detail, |()| "ok".to_owned());
        (format!("database:{module}"), state)
    });
    let status = if checks.stopping.is_cancelled() {
        "stopping"
    } else if !checks.started.is_cancelled() {
        "starting"
    } else if all_answer {
        "ready"
    } else {
        "unavailable"
    };
    let body = Readiness { status: status.to_owned(), checks: states.collect() };
    let mut answer = if status == "ready" { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    answer.json(body)
}

/// Measurements in Prometheus' text format.
#[utoipa::path(tag = "operations", responses((status = 200, description = "Prometheus text format", body = String, content_type = "text/plain")))]
#[get("/metrics")]
async fn metrics(checks: Data<Checks>) -> HttpResponse {
    checks.metrics.run_upkeep();
    HttpResponse::Ok().insert_header((header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")).body(checks.metrics.render())
}
