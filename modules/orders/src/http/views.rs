//! The routes of the read models, for operators: compare them with their events, and rebuild them.

use actix_web::{HttpResponse, get, post, web::Data};
use banyan_core::Fault;
use banyan_http::{Body, Ops, Problem, Query, Reason};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    rebuild::{Position, Views},
    views::Difference,
};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ContinueFrom {
    /// Where the last call stopped: its `next_cursor`.
    #[param(max_length = 100)]
    cursor: Option<String>,
}

impl ContinueFrom {
    fn position(&self) -> Result<Option<Position>, Fault> {
        self.cursor.as_deref().map(Position::parse).transpose()
    }
}

/// How the read models stand to their events.
#[derive(Serialize, ToSchema)]
struct ViewComparison {
    /// What differs, in words; empty when all is as it should be.
    different: Vec<String>,
    /// Where to go on; null when all was looked at.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// What a rebuild did.
#[derive(Serialize, ToSchema)]
struct RebuiltViews {
    /// How many read models were made.
    orders: u64,
    /// Where to go on; null when all is done.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// Compares every order's read model with the fold of its events. In a large shop one call looks at a part of them and says where to go on.
#[utoipa::path(tag = "operations", params(ContinueFrom), responses((status = 200, description = "What differs", body = ViewComparison)), security(("bearer" = [])))]
#[get("/ops/orders/views")]
pub(super) async fn compare_views(
    _ops: Ops,
    from: Query<ContinueFrom>,
    views: Data<Views>,
) -> Result<HttpResponse, Problem> {
    let (different, next) = views.compare(from.position()?).await?;
    let different = different.iter().map(Difference::to_string).collect();
    Ok(banyan_http::ok(&ViewComparison {
        different,
        next_cursor: next.map(|next| next.to_string()),
    })
    .into())
}

/// Drops every read model and folds it again from its events; orders can be placed and read meanwhile. In a large shop one call does a part of
/// them and says where to go on.
#[utoipa::path(tag = "operations", params(ContinueFrom), request_body = Reason, responses((status = 200, description = "Done", body = RebuiltViews)),
    security(("bearer" = [])))]
#[post("/ops/orders/views/rebuild")]
pub(super) async fn rebuild_views(
    ops: Ops,
    from: Query<ContinueFrom>,
    reason: Body<Reason>,
    views: Data<Views>,
) -> Result<HttpResponse, Problem> {
    let (orders, next) = views
        .rebuild(
            from.position()?,
            &ops.0.actor,
            &reason.0.reason,
            reason.0.comment.as_deref(),
        )
        .await?;
    Ok(banyan_http::ok(&RebuiltViews {
        orders,
        next_cursor: next.map(|next| next.to_string()),
    })
    .into())
}
