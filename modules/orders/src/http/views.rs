//! The routes of the read models, for operators: are they what the events say, and make them anew.

use actix_web::{HttpResponse, get, post, web::Data};
use serde::Serialize;
use utoipa::ToSchema;
use web::{Body, Ops, Problem, Reason};

use crate::{rebuild::Views, views::Difference};

/// How the read models stand to their events.
#[derive(Serialize, ToSchema)]
struct ViewComparison {
    /// What differs, in words; empty when all is as it should be.
    different: Vec<String>,
}

/// What a rebuild did.
#[derive(Serialize, ToSchema)]
struct RebuiltViews {
    /// How many read models there are now.
    orders: u64,
}

/// Compares every order's read model with the fold of its events.
#[utoipa::path(tag = "operations", responses((status = 200, description = "What differs", body = ViewComparison)), security(("bearer" = [])))]
#[get("/ops/orders/views")]
pub(super) async fn compare_views(_ops: Ops, views: Data<Views>) -> Result<HttpResponse, Problem> {
    let different = views.compare().await?.iter().map(Difference::to_string).collect();
    Ok(web::ok(&ViewComparison { different }).into())
}

/// Drops every read model and folds it again from its events; orders can be placed and read meanwhile.
#[utoipa::path(tag = "operations", request_body = Reason, responses((status = 200, description = "Done", body = RebuiltViews)),
    security(("bearer" = [])))]
#[post("/ops/orders/views/rebuild")]
pub(super) async fn rebuild_views(ops: Ops, reason: Body<Reason>, views: Data<Views>) -> Result<HttpResponse, Problem> {
    let orders = views.rebuild(&ops.0.actor, &reason.0.reason, reason.0.comment.as_deref()).await?;
    Ok(web::ok(&RebuiltViews { orders }).into())
}
