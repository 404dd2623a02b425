//! Events for operators: the outbox of a module, and the dead letters it could not handle.

use actix_web::{HttpResponse, get, post, web::Data};
use banyan_durable::{DeadLetter, DeadLetterEvent, OutboxEntry, OutboxEvent};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

use super::{InModule, Modules};
use crate::{Body, Listed, Ops, PageQuery, Path, Problem, Query, Reason};

pub fn register(config: &mut ServiceConfig<'_>) {
    config
        .service(list_outbox)
        .service(show_outbox_event)
        .service(list_dead_letters)
        .service(show_dead_letter)
        .service(retry_dead_letter)
        .service(discard_dead_letter);
}

#[derive(Clone, Copy, Serialize, Deserialize, ToSchema, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
enum OutboxState {
    Pending,
    Sent,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct OutboxQuery {
    /// Only those in this state.
    #[param(inline)]
    state: Option<OutboxState>,
}

/// The events of a module, newest first; published ones stay for subscribers that missed them.
#[utoipa::path(tag = "operations", params(("module" = String, Path, description = "The module's name"), OutboxQuery, PageQuery),
    responses((status = 200, description = "Events", body = Listed<OutboxEntry>)), security(("bearer" = [])))]
#[get("/ops/{module}/outbox")]
async fn list_outbox(
    _ops: Ops,
    module: Path<String>,
    query: Query<OutboxQuery>,
    page: Query<PageQuery>,
    modules: Data<Modules>,
) -> Result<HttpResponse, Problem> {
    let state = query.state.map(Into::into);
    let events = modules.load(&module.0)?.list_outbox(state, &page.0.request()).await?;
    Ok(HttpResponse::Ok().json(Listed::from(events)))
}

/// One event as it was published.
#[utoipa::path(tag = "operations", params(("module" = String, Path, description = "The module's name"), ("id" = Uuid, Path, description = "The event")),
    responses((status = 200, description = "The event", body = OutboxEvent)), security(("bearer" = [])))]
#[get("/ops/{module}/outbox/{id}")]
async fn show_outbox_event(_ops: Ops, path: Path<InModule>, modules: Data<Modules>) -> Result<HttpResponse, Problem> {
    let event = modules.load(&path.0.module)?.find_outbox_event(path.0.id).await?;
    Ok(HttpResponse::Ok().json(event))
}

/// Events that hold back their subject because a module could not handle them, or has tried to for ten minutes; newest first.
#[utoipa::path(tag = "operations", params(("module" = String, Path, description = "The module's name"), PageQuery),
    responses((status = 200, description = "Dead letters", body = Listed<DeadLetter>)), security(("bearer" = [])))]
#[get("/ops/{module}/dead-letters")]
async fn list_dead_letters(
    _ops: Ops,
    module: Path<String>,
    page: Query<PageQuery>,
    modules: Data<Modules>,
) -> Result<HttpResponse, Problem> {
    let letters = modules.load(&module.0)?.list_stuck_events(&page.0.request()).await?;
    Ok(HttpResponse::Ok().json(Listed::from(letters)))
}

/// One dead letter with its event.
#[utoipa::path(tag = "operations", params(("module" = String, Path, description = "The module's name"), ("id" = Uuid, Path, description = "The dead letter")),
    responses((status = 200, description = "The dead letter", body = DeadLetterEvent)), security(("bearer" = [])))]
#[get("/ops/{module}/dead-letters/{id}")]
async fn show_dead_letter(_ops: Ops, path: Path<InModule>, modules: Data<Modules>) -> Result<HttpResponse, Problem> {
    let letter = modules.load(&path.0.module)?.find_dead_letter(path.0.id).await?;
    Ok(HttpResponse::Ok().json(letter))
}

/// Tries a dead letter again, after what was wrong has been mended.
#[utoipa::path(tag = "operations", params(("module" = String, Path, description = "The module's name"), ("id" = Uuid, Path, description = "The dead letter")),
    request_body = Reason, responses((status = 200, description = "It is tried again", body = DeadLetter), (status = 409, description = "It is not dead")),
    security(("bearer" = [])))]
#[post("/ops/{module}/dead-letters/{id}/retry")]
async fn retry_dead_letter(
    ops: Ops,
    path: Path<InModule>,
    reason: Body<Reason>,
    modules: Data<Modules>,
) -> Result<HttpResponse, Problem> {
    let module = modules.load(&path.0.module)?;
    let letter = module
        .replay_dead_letter(&ops.0.actor, path.0.id, &reason.0.reason, reason.0.comment.as_deref())
        .await?;
    Ok(HttpResponse::Ok().json(letter))
}

/// Gives a dead letter up: its module goes on with the next event of the subject.
#[utoipa::path(tag = "operations", params(("module" = String, Path, description = "The module's name"), ("id" = Uuid, Path, description = "The dead letter")),
    request_body = Reason, responses((status = 200, description = "It is given up", body = DeadLetter), (status = 409, description = "It is not dead")),
    security(("bearer" = [])))]
#[post("/ops/{module}/dead-letters/{id}/discard")]
async fn discard_dead_letter(
    ops: Ops,
    path: Path<InModule>,
    reason: Body<Reason>,
    modules: Data<Modules>,
) -> Result<HttpResponse, Problem> {
    let module = modules.load(&path.0.module)?;
    let letter = module
        .discard_dead_letter(&ops.0.actor, path.0.id, &reason.0.reason, reason.0.comment.as_deref())
        .await?;
    Ok(HttpResponse::Ok().json(letter))
}
