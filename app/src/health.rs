//! `/health/live`, `/health/ready`, `/metrics`: for orchestrators and for Prometheus.

use std::{collections::BTreeMap, sync::Arc};

use actix_web::{HttpResponse, get, http::header, web::Data};
use async_trait::async_trait;
use futures::future::join_all;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

/// Something this process depends on.
#[async_trait]
pub trait Check: Send + Sync {
    /// `<kind>:<name>`, as it is shown.
    fn name(&self) -> String;

    /// The module that cannot answer without it; none if that is the whole process.
    fn module(&self) -> Option<&str> {
        None
    }

    async fn state(&self) -> State;
}

/// How it stands with something this process depends on.
pub struct State {
    /// `ok`, or what is wrong.
    words: String,
    /// Requests should not be sent here while it is so.
    keeps_from_ready: bool,
}

impl State {
    pub fn ok() -> Self {
        State::told("ok")
    }

    /// Whatever it is, requests can be answered all the same: an open breaker, a broker that is away.
    pub fn told(words: impl Into<String>) -> Self {
        State {
            words: words.into(),
            keeps_from_ready: false,
        }
    }

    /// Without it nothing can be answered.
    pub fn needed(what_is_wrong: impl Into<String>) -> Self {
        State {
            words: what_is_wrong.into(),
            keeps_from_ready: true,
        }
    }
}

/// What the checks look at.
#[derive(Clone)]
pub struct Checks {
    pub dependencies: Vec<Arc<dyn Check>>,
    /// Set once everything runs.
    pub started: CancellationToken,
    /// Set when the process is told to stop.
    pub stopping: CancellationToken,
    pub metrics: PrometheusHandle,
}

impl Checks {
    /// Of a process that has not started yet.
    pub fn new(dependencies: Vec<Arc<dyn Check>>) -> Self {
        Checks {
            dependencies,
            started: CancellationToken::new(),
            stopping: CancellationToken::new(),
            metrics: crate::telemetry::metrics(),
        }
    }

    /// What cannot answer now: modules, or, as `None`, the whole process.
    pub async fn away(&self) -> Vec<Option<String>> {
        let asked = join_all(
            self.dependencies
                .iter()
                .map(|check| async move { (check, check.state().await) }),
        )
        .await;
        asked
            .into_iter()
            .filter(|(_, state)| state.keeps_from_ready)
            .map(|(check, _)| check.module().map(str::to_owned))
            .collect()
    }
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
        config
            .app_data(checks.clone())
            .service(live)
            .service(ready)
            .service(metrics);
    }
}

/// Only whether requests may be sent here, for whoever sends them: where the rest of it has an address of its own.
pub fn readiness(checks: Arc<Checks>) -> impl Fn(&mut ServiceConfig<'_>) + Clone {
    let checks = Data::from(checks);
    move |config| {
        config.app_data(checks.clone()).service(ready);
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
async fn ready(checks: Data<Checks>) -> HttpResponse {
    let states = join_all(
        checks
            .dependencies
            .iter()
            .map(|check| async move { (check.name(), check.state().await) }),
    )
    .await;
    let all_answer = states.iter().all(|(_, state)| !state.keeps_from_ready);
    let status = if checks.stopping.is_cancelled() {
        "stopping"
    } else if !checks.started.is_cancelled() {
        "starting"
    } else if all_answer {
        "ready"
    } else {
        "unavailable"
    };
    let body = Readiness {
        status: status.to_owned(),
        checks: states.into_iter().map(|(name, state)| (name, state.words)).collect(),
    };
    let mut answer = if status == "ready" {
        HttpResponse::Ok()
    } else {
        HttpResponse::ServiceUnavailable()
    };
    answer.json(body)
}

/// Measurements in Prometheus' text format.
#[utoipa::path(tag = "operations", responses((status = 200, description = "Prometheus text format", body = String, content_type = "text/plain")))]
#[get("/metrics")]
async fn metrics(checks: Data<Checks>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"))
        .body(checks.metrics.render())
}
