//! What operators do with the accounts of others, over HTTP.

use actix_web::{delete, get, post, put, web::Data};
use banyan_http::{Body, IfMatch, Listed, Ops, PageQuery, Path, Problem, Query, Reason, StoredResponse};
use serde::Deserialize;
use shared_kernel::Role;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    service::{Service, etag},
    session::OpenSession,
    user::User,
};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RolesChange {
    /// All roles the user shall have.
    #[schema(min_items = 1, max_items = 3)]
    roles: Vec<Role>,
}

/// The path of a session of a user.
#[derive(Deserialize)]
struct SessionOf {
    id: Uuid,
    session_id: Uuid,
}

/// Change a user's roles
///
/// Operators alone, as their roles are now, whatever their access token says. The user's sessions end; the new roles show when they log in
/// again. Nobody takes the role `ops` from themselves, so there is always an operator.
#[utoipa::path(
    tag = "users",
    operation_id = "change_roles",
    params(("id" = Uuid, Path, description = "The user's id"), IfMatch),
    request_body = RolesChange,
    responses(
        (status = 200, description = "The user as they are now", body = User),
        (status = 412, description = "The user is not at the version of `If-Match` any more"),
        (status = 409, description = "`own_operations_role`"),
    ),
    security(("bearer" = []))
)]
#[put("/users/{id}/roles")]
pub(super) async fn change_roles(
    operator: Ops,
    id: Path<Uuid>,
    version: IfMatch,
    body: Body<RolesChange>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    let user = service
        .change_roles(operator.call(), (*id, version), body.into_inner().roles)
        .await?;
    Ok(banyan_http::ok(&user).with_etag(&etag(&user)))
}

/// Disable an account
///
/// Operators alone. The user's sessions end, and they cannot log in until the account is enabled. Nobody disables their own account, so there is
/// always an operator.
#[utoipa::path(
    tag = "users",
    operation_id = "disable_account",
    params(("id" = Uuid, Path, description = "The user's id"), IfMatch),
    request_body = Reason,
    responses(
        (status = 200, description = "The user as they are now", body = User),
        (status = 412, description = "The user is not at the version of `If-Match` any more"),
        (status = 409, description = "`own_account`"),
    ),
    security(("bearer" = []))
)]
#[post("/users/{id}/disable")]
pub(super) async fn disable_account(
    operator: Ops,
    id: Path<Uuid>,
    version: IfMatch,
    body: Body<Reason>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    let user = service
        .disable(operator.call(), (*id, version), body.into_inner())
        .await?;
    Ok(banyan_http::ok(&user).with_etag(&etag(&user)))
}

/// Enable an account
///
/// Operators alone. The user can log in again; their old sessions stay ended.
#[utoipa::path(
    tag = "users",
    operation_id = "enable_account",
    params(("id" = Uuid, Path, description = "The user's id"), IfMatch),
    request_body = Reason,
    responses((status = 200, description = "The user as they are now", body = User)),
    security(("bearer" = []))
)]
#[post("/users/{id}/enable")]
pub(super) async fn enable_account(
    operator: Ops,
    id: Path<Uuid>,
    version: IfMatch,
    body: Body<Reason>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    let user = service
        .enable(operator.call(), (*id, version), body.into_inner())
        .await?;
    Ok(banyan_http::ok(&user).with_etag(&etag(&user)))
}

/// List a user's sessions
///
/// Operators alone. Those that have not ended, newest first.
#[utoipa::path(
    tag = "sessions",
    operation_id = "list_sessions_of_user",
    params(("id" = Uuid, Path, description = "The user's id"), PageQuery),
    responses((status = 200, description = "One page", body = Listed<OpenSession>)),
    security(("bearer" = []))
)]
#[get("/users/{id}/sessions")]
pub(super) async fn list_sessions_of_user(
    operator: Ops,
    id: Path<Uuid>,
    page: Query<PageQuery>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    let sessions = service
        .list_sessions_of(&operator.call().actor, *id, &page.request())
        .await?;
    Ok(banyan_http::ok(&Listed::from(sessions)))
}

/// End a user's sessions
///
/// Operators alone. All of them; their access tokens are refused within 5 s. The user can log in again.
#[utoipa::path(
    tag = "sessions",
    operation_id = "end_sessions_of_user",
    params(("id" = Uuid, Path, description = "The user's id")),
    responses((status = 204, description = "Ended")),
    security(("bearer" = []))
)]
#[delete("/users/{id}/sessions")]
pub(super) async fn end_sessions_of_user(
    operator: Ops,
    id: Path<Uuid>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    service.end_sessions_of(operator.call(), *id).await?;
    Ok(StoredResponse::no_content())
}

/// End a session of a user
///
/// Operators alone.
#[utoipa::path(
    tag = "sessions",
    operation_id = "end_session_of_user",
    params(
        ("id" = Uuid, Path, description = "The user's id"),
        ("session_id" = Uuid, Path, description = "The session's id"),
    ),
    responses((status = 204, description = "Ended")),
    security(("bearer" = []))
)]
#[delete("/users/{id}/sessions/{session_id}")]
pub(super) async fn end_session_of_user(
    operator: Ops,
    of: Path<SessionOf>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    service.end_session_of(operator.call(), of.id, of.session_id).await?;
    Ok(StoredResponse::no_content())
}
