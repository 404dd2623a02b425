//! The subscribers of a module for operators: who they are, how far they have come, and which of them will not come back.

use actix_web::{HttpResponse, get, post, web::Data};
use banyan_durable::KnownSubscriber;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::Modules;
use crate::{Body, Ops, Path, Problem, Reason};

pub fn register(config: &mut ServiceConfig<'_>) {
    config.service(list_subscribers).service(give_up_subscriber);
}

/// The subscribers of a module.
#[derive(Serialize, ToSchema)]
struct Subscribers {
    items: Vec<KnownSubscriber>,
}

/// The path of a subscriber of a module.
#[derive(Deserialize)]
struct InModule {
    module: String,
    subscriber: String,
}

/// Who subscribes to a module's events, and how far each has come. The outbox keeps what a subscriber has not confirmed.
#[utoipa::path(tag = "operations", params(("module" = String, Path, description = "The module's name")),
    responses((status = 200, description = "The subscribers", body = Subscribers)), security(("bearer" = [])))]
#[get("/ops/{module}/subscribers")]
async fn list_subscribers(_ops: Ops, module: Path<String>, modules: Data<Modules>) -> Result<HttpResponse, Problem> {
    let items = modules.load(&module.0)?.list_subscribers().await?;
    Ok(HttpResponse::Ok().json(Subscribers { items }))
}

/// Keeps events for a subscriber no longer, because it will not come back. If it does, what it can no longer fetch are dead letters there.
#[utoipa::path(tag = "operations",
    params(("module" = String, Path, description = "The module's name"), ("subscriber" = String, Path, description = "The subscribing module")),
    request_body = Reason, responses((status = 200, description = "It is given up", body = Subscribers)), security(("bearer" = [])))]
#[post("/ops/{module}/subscribers/{subscriber}/give-up")]
async fn give_up_subscriber(
    ops: Ops,
    path: Path<InModule>,
    reason: Body<Reason>,
    modules: Data<Modules>,
) -> Result<HttpResponse, Problem> {
    let module = modules.load(&path.0.module)?;
    let items = module
        .give_up_subscriber(
            &ops.0.actor,
            &path.0.subscriber,
            &reason.0.reason,
            reason.0.comment.as_deref(),
        )
        .await?;
    Ok(HttpResponse::Ok().json(Subscribers { items }))
}
