//! Sagas for operators: listing them, inspecting one, and retrying, compensating or abandoning it. Undoing what an abandoned one has left is in
//! [`super::leftovers`].

use actix_web::{HttpResponse, get, post, web::Data};
use banyan_durable::{SagaDetails, SagaFilter, SagaState, SagaView};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_actix_web::service_config::ServiceConfig;

use super::{InModule, Modules};
use crate::{Body, Listed, Ops, PageQuery, Path, Problem, Query, Reason};

pub fn register(config: &mut ServiceConfig<'_>) {
    config
        .service(list_sagas)
        .service(show_saga)
        .service(retry_saga)
        .service(compensate_saga)
        .service(abandon_saga);
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SagaQuery {
    /// Only those in this state.
    #[param(inline)]
    state: Option<SagaState>,
    /// Only those of this kind: `checkout`, `cancellation`.
    #[param(min_length = 1, max_length = 64)]
    kind: Option<String>,
    /// Only those about this: an order's id.
    #[param(min_length = 1, max_length = 64)]
    business_key: Option<String>,
}

/// A module's sagas, newest first.
#[utoipa::path(tag = "operations", params(("module" = String, Path, description = "The module's name"), SagaQuery, PageQuery),
    responses((status = 200, description = "Sagas", body = Listed<SagaView>)), security(("bearer" = [])))]
#[get("/ops/{module}/sagas")]
async fn list_sagas(
    _ops: Ops,
    module: Path<String>,
    query: Query<SagaQuery>,
    page: Query<PageQuery>,
    modules: Data<Modules>,
) -> Result<HttpResponse, Problem> {
    let SagaQuery {
        state,
        kind,
        business_key,
    } = query.0;
    let sagas = modules
        .load(&module.0)?
        .sagas()
        .list(
            &SagaFilter {
                state,
                kind,
                business_key,
            },
            &page.0.request(),
        )
        .await?;
    Ok(HttpResponse::Ok().json(Listed::from(sagas)))
}

/// One saga with its state, the command on its way, its log, and what it has left in other modules if it is parked or abandoned.
#[utoipa::path(tag = "operations", params(("module" = String, Path, description = "The module's name"), ("id" = Uuid, Path, description = "The saga")),
    responses((status = 200, description = "The saga", body = SagaDetails)), security(("bearer" = [])))]
#[get("/ops/{module}/sagas/{id}")]
async fn show_saga(ops: Ops, path: Path<InModule>, modules: Data<Modules>) -> Result<HttpResponse, Problem> {
    let sagas = modules.load(&path.0.module)?.sagas();
    let mut saga = sagas.show(path.0.id).await?;
    saga.leftovers = sagas.leftovers(ops.call(), &saga.saga).await;
    Ok(HttpResponse::Ok().json(saga))
}

/// Lets a parked saga go on where it stopped, or one that waits try at once.
#[utoipa::path(tag = "operations", params(("module" = String, Path, description = "The module's name"), ("id" = Uuid, Path, description = "The saga")),
    request_body = Reason, responses((status = 200, description = "It goes on", body = SagaView), (status = 409, description = "It has ended")),
    security(("bearer" = [])))]
#[post("/ops/{module}/sagas/{id}/retry")]
async fn retry_saga(
    ops: Ops,
    path: Path<InModule>,
    reason: Body<Reason>,
    modules: Data<Modules>,
) -> Result<HttpResponse, Problem> {
    let sagas = modules.load(&path.0.module)?.sagas();
    let saga = sagas
        .retry(&ops.0.actor, path.0.id, &reason.0.reason, reason.0.comment.as_deref())
        .await?;
    Ok(HttpResponse::Ok().json(saga))
}

/// Has a saga undone, unless it has passed its point of no return.
#[utoipa::path(tag = "operations", params(("module" = String, Path, description = "The module's name"), ("id" = Uuid, Path, description = "The saga")),
    request_body = Reason, responses((status = 200, description = "It is told at its next run", body = SagaView), (status = 409, description = "It has ended")),
    security(("bearer" = [])))]
#[post("/ops/{module}/sagas/{id}/compensate")]
async fn compensate_saga(
    ops: Ops,
    path: Path<InModule>,
    reason: Body<Reason>,
    modules: Data<Modules>,
) -> Result<HttpResponse, Problem> {
    let sagas = modules.load(&path.0.module)?.sagas();
    let saga = sagas
        .compensate(&ops.0.actor, path.0.id, &reason.0.reason, reason.0.comment.as_deref())
        .await?;
    Ok(HttpResponse::Ok().json(saga))
}

/// Gives a parked saga up as it stands. What it did remains until an operator undoes it: see its `leftovers`.
#[utoipa::path(tag = "operations", params(("module" = String, Path, description = "The module's name"), ("id" = Uuid, Path, description = "The saga")),
    request_body = Reason, responses((status = 200, description = "It is over", body = SagaView), (status = 409, description = "It is not parked")),
    security(("bearer" = [])))]
#[post("/ops/{module}/sagas/{id}/abandon")]
async fn abandon_saga(
    ops: Ops,
    path: Path<InModule>,
    reason: Body<Reason>,
    modules: Data<Modules>,
) -> Result<HttpResponse, Problem> {
    let sagas = modules.load(&path.0.module)?.sagas();
    let saga = sagas
        .abandon(&ops.0.actor, path.0.id, &reason.0.reason, reason.0.comment.as_deref())
        .await?;
    Ok(HttpResponse::Ok().json(saga))
}
