//! Sessions over HTTP.

use actix_web::{
    HttpRequest, delete, get,
    http::{StatusCode, header},
    post,
    web::Data,
};
use banyan_http::{Body, Listed, LoggedIn, PageQuery, Path, Problem, Query, StoredResponse, Token};
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    security,
    service::Service,
    session::{OpenSession, Tokens},
};

/// What it takes to log in. Not checked any closer than this: what cannot be right is simply not right.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Credentials {
    #[schema(min_length = 1, max_length = 254, example = "demo@banyan.example")]
    email: String,
    #[schema(value_type = String, format = Password, min_length = 1, max_length = 128, example = "banyan-demo")]
    password: SecretString,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RefreshRequest {
    /// The one that came with the latest access token of the session.
    #[schema(min_length = 1, max_length = 128, example = "q3Zl8mXw0bV4tYkR1nJc7sDfGh2pLe9u")]
    refresh_token: String,
}

/// Log in
///
/// Opens a session. After 10 failures within an hour the account waits at this network address, longer with each failure (429). An address from which
/// the account has logged in before is not delayed by the failures of others.
#[utoipa::path(
    tag = "sessions",
    operation_id = "log_in",
    request_body = Credentials,
    responses(
        (status = 201, description = "Logged in", body = Tokens),
        (status = 401, description = "`invalid_credentials`: email address or password is wrong"),
        (status = 403, description = "`account_disabled`: the password is right, but an operator has disabled the account; `email_not_verified`: with `users.verify_email`, until the address is confirmed"),
        (status = 429, description = "`too_many_failed_logins`: wait as `Retry-After` says"),
    )
)]
// This route and the refresh ignore the access token: clients call them because theirs has expired, and many still send it.
#[post("/sessions")]
pub(super) async fn log_in(
    request: HttpRequest,
    body: Body<Credentials>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    let tokens = service
        .log_in(&body.email, &body.password, &banyan_http::client_address(&request))
        .await?;
    Ok(uncached(StoredResponse::json(StatusCode::CREATED, &tokens))
        .with_header(header::LOCATION, "/api/v1/sessions/current"))
}

/// Refresh a session
///
/// Exchanges the refresh token for new tokens. Each is good once. A second use within 10 s, as by two tabs of a browser, is refused and changes
/// nothing; a later one ends the session, because somebody else may have the token.
#[utoipa::path(
    tag = "sessions",
    operation_id = "refresh_session",
    request_body = RefreshRequest,
    responses(
        (status = 200, description = "New tokens, with the user's present roles", body = Tokens),
        (status = 401, description = "`invalid_refresh_token`: unknown, expired, revoked or used before; log in again"),
        (status = 409, description = "`already_refreshed`: used within the last 10 s; use the tokens of that response"),
    )
)]
#[post("/sessions/refresh")]
pub(super) async fn refresh_session(
    body: Body<RefreshRequest>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    let tokens = service.refresh(&body.refresh_token).await?;
    Ok(uncached(banyan_http::ok(&tokens)))
}

/// Log out
///
/// Ends the session of this access token: its refresh tokens are good no more, and its access tokens are refused within 5 s.
#[utoipa::path(
    tag = "sessions",
    operation_id = "log_out",
    responses((status = 204, description = "Logged out")),
    security(("bearer" = []))
)]
#[delete("/sessions/current")]
pub(super) async fn log_out(token: Token, service: Data<Service>) -> Result<StoredResponse, Problem> {
    let user = token.0.sub;
    service.log_out(token.0.sid).await?;
    security::event("session_ended", user, &format!("user:{user}"), "", "logged_out");
    Ok(StoredResponse::no_content())
}

/// List my sessions
///
/// Those that have not ended, newest first.
#[utoipa::path(
    tag = "sessions",
    operation_id = "list_sessions",
    params(PageQuery),
    responses((status = 200, description = "One page", body = Listed<OpenSession>)),
    security(("bearer" = []))
)]
#[get("/sessions")]
pub(super) async fn list_sessions(
    me: LoggedIn,
    token: Token,
    page: Query<PageQuery>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    let sessions = service
        .list_sessions(me.user_id(), Some(token.0.sid), &page.request())
        .await?;
    Ok(banyan_http::ok(&Listed::from(sessions)))
}

/// End one of my sessions
///
/// For example that of a device which was lost. Its access tokens are refused within 5 s.
#[utoipa::path(
    tag = "sessions",
    operation_id = "end_session",
    params(("id" = Uuid, Path, description = "The session's id")),
    responses((status = 204, description = "Ended")),
    security(("bearer" = []))
)]
#[delete("/sessions/{id}")]
pub(super) async fn end_session(
    me: LoggedIn,
    id: Path<Uuid>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    service.end_session(me.user_id(), *id).await?;
    Ok(StoredResponse::no_content())
}

/// Responses with tokens must not be cached (RFC 6749, section 5.1).
fn uncached(response: StoredResponse) -> StoredResponse {
    response.with_header(header::CACHE_CONTROL, "no-store")
}
