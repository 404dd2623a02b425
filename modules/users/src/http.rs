//! The REST resources of users and sessions.

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse, delete, get,
    http::{StatusCode, header},
    patch, post, put,
    web::Data,
};
use banyan_http::{
    Anyone, Body, HasRole, Listed, LoggedIn, Ops, PageQuery, Path, Problem, Query, Routes, StoredResponse, Token,
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use shared_kernel::Role;
use shared_kernel::Staff;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    keys::Jwk,
    service::Service,
    session::Tokens,
    user::{ProfileChange, Registration, User},
};

/// Everything under `/api/v1`.
pub fn routes(service: Arc<Service>) -> Routes {
    let service = Data::from(service);
    Routes::new(move |config| {
        config.app_data(service.clone());
        config
            .service(register)
            .service(log_in)
            .service(refresh_session)
            .service(log_out);
        // `/users/me` before `/users/{id}`: the first route that matches is taken.
        config
            .service(show_me)
            .service(change_me)
            .service(list_users)
            .service(show_user)
            .service(change_roles);
    })
}

/// Routes outside `/api/v1`, at paths defined by standards.
pub fn well_known(service: Arc<Service>) -> Routes {
    let service = Data::from(service);
    Routes::new(move |config| {
        config.app_data(service.clone());
        config.service(show_keys);
    })
}

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

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RolesChange {
    /// All roles the user shall have.
    #[schema(min_items = 1, max_items = 3)]
    roles: Vec<Role>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct UserFilter {
    /// The one user with this email address, in any case.
    #[param(min_length = 1, max_length = 254)]
    email: Option<String>,
}

/// A JWK Set (RFC 7517, section 5).
#[derive(Serialize, ToSchema)]
struct KeySet {
    keys: Vec<Jwk>,
}

/// Register
///
/// Makes a customer. Everybody may; the email address must be new, whatever its case.
#[utoipa::path(
    tag = "users",
    operation_id = "register",
    request_body = Registration,
    responses(
        (status = 201, description = "Registered; log in with `POST /api/v1/sessions`", body = User),
        (status = 409, description = "`email_taken`: there is a user with this email address already"),
    ),
    security((), ("bearer" = []))
)]
#[post("/users")]
async fn register(anyone: Anyone, body: Body<Registration>, service: Data<Service>) -> Result<StoredResponse, Problem> {
    let user = service.register(anyone.call(), body.into_inner()).await?;
    Ok(banyan_http::created(
        &format!("/api/v1/users/{}", user.id),
        Some(&etag(&user)),
        &user,
    ))
}

/// Log in
///
/// Opens a session. After 10 failures within a minute the account, after 100 the network address, has to wait (429).
#[utoipa::path(
    tag = "sessions",
    operation_id = "log_in",
    request_body = Credentials,
    responses(
        (status = 201, description = "Logged in", body = Tokens),
        (status = 401, description = "`invalid_credentials`: email address or password is wrong"),
        (status = 429, description = "`too_many_failed_logins`: wait as `Retry-After` says"),
    )
)]
// This route and the refresh ignore the access token: clients call them because theirs has expired, and many still send it.
#[post("/sessions")]
async fn log_in(
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
async fn refresh_session(body: Body<RefreshRequest>, service: Data<Service>) -> Result<StoredResponse, Problem> {
    let tokens = service.refresh(&body.refresh_token).await?;
    Ok(uncached(banyan_http::ok(&tokens)))
}

/// Log out
///
/// Ends the session of this access token: its refresh tokens are good no more. The access token itself lives until it expires.
#[utoipa::path(
    tag = "sessions",
    operation_id = "log_out",
    responses((status = 204, description = "Logged out")),
    security(("bearer" = []))
)]
#[delete("/sessions/current")]
async fn log_out(token: Token, service: Data<Service>) -> Result<StoredResponse, Problem> {
    if let Some(session_id) = token.0.sid {
        service.log_out(session_id).await?;
    }
    Ok(StoredResponse::no_content())
}

/// Show my profile
#[utoipa::path(
    tag = "users",
    operation_id = "show_me",
    params(banyan_http::IfNoneMatch),
    responses((status = 200, description = "The caller", body = User)),
    security(("bearer" = []))
)]
#[get("/users/me")]
async fn show_me(request: HttpRequest, me: LoggedIn, service: Data<Service>) -> Result<HttpResponse, Problem> {
    let user = service.load_visible(&me.call().actor, me.user_id()).await?;
    Ok(banyan_http::ok_with_etag(&request, &etag(&user), &user))
}

/// Change my profile
///
/// What is not sent stays. `If-Match` with the profile's `ETag` keeps one from overwriting a change made elsewhere.
#[utoipa::path(
    tag = "users",
    operation_id = "change_me",
    params(banyan_http::IfMatch),
    request_body = ProfileChange,
    responses(
        (status = 200, description = "The profile as it is now", body = User),
        (status = 412, description = "The profile is not at the version of `If-Match` any more"),
    ),
    security(("bearer" = []))
)]
#[patch("/users/me")]
async fn change_me(
    request: HttpRequest,
    me: LoggedIn,
    body: Body<ProfileChange>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let expected = expected_version(&request, &service.load_visible(&me.call().actor, me.user_id()).await?)?;
    let user = service
        .change_profile(me.call(), me.user_id(), body.into_inner(), expected)
        .await?;
    Ok(banyan_http::ok_with_etag(&request, &etag(&user), &user))
}

/// List users
///
/// Newest first.
#[utoipa::path(
    tag = "users",
    operation_id = "list_users",
    params(UserFilter, PageQuery),
    responses((status = 200, description = "One page", body = Listed<User>)),
    security(("bearer" = []))
)]
#[get("/users")]
async fn list_users(
    _staff: HasRole<Staff>,
    filter: Query<UserFilter>,
    page: Query<PageQuery>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    let users = service.list(&page.request(), filter.email.as_deref()).await?;
    Ok(banyan_http::ok(&Listed::from(users)))
}

/// Show a user
///
/// Staff see everybody, others themselves.
#[utoipa::path(
    tag = "users",
    operation_id = "show_user",
    params(("id" = Uuid, Path, description = "The user's id"), banyan_http::IfNoneMatch),
    responses((status = 200, description = "The user", body = User)),
    security(("bearer" = []))
)]
#[get("/users/{id}")]
async fn show_user(
    request: HttpRequest,
    caller: LoggedIn,
    id: Path<Uuid>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let user = service.load_visible(&caller.call().actor, *id).await?;
    Ok(banyan_http::ok_with_etag(&request, &etag(&user), &user))
}

/// Change a user's roles
///
/// Operators alone, as their roles are now, whatever their access token says. The user's sessions end; the new roles show when they log in
/// again. Nobody takes the role `ops` from themselves, so there is always an operator.
#[utoipa::path(
    tag = "users",
    operation_id = "change_roles",
    params(("id" = Uuid, Path, description = "The user's id")),
    request_body = RolesChange,
    responses(
        (status = 200, description = "The user as they are now", body = User),
        (status = 409, description = "`own_operations_role`"),
    ),
    security(("bearer" = []))
)]
#[put("/users/{id}/roles")]
async fn change_roles(
    operator: Ops,
    id: Path<Uuid>,
    body: Body<RolesChange>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    let user = service
        .change_roles(operator.call(), *id, body.into_inner().roles)
        .await?;
    Ok(banyan_http::ok(&user).with_etag(&etag(&user)))
}

/// Show the keys of access tokens
///
/// The public keys, as a JWK Set. The first one signs; the others are still believed.
#[utoipa::path(tag = "sessions", operation_id = "show_keys", responses((status = 200, description = "The keys", body = KeySet)))]
#[get("/.well-known/jwks.json")]
async fn show_keys(service: Data<Service>) -> StoredResponse {
    banyan_http::ok(&KeySet {
        keys: service.jwks().to_vec(),
    })
    .with_header(header::CACHE_CONTROL, "public, max-age=300")
}

fn etag(user: &User) -> String {
    banyan_http::etag(user.etag_version())
}

/// The version that `If-Match` requires; `None` without the header.
fn expected_version(request: &HttpRequest, user: &User) -> Result<Option<i64>, Problem> {
    banyan_http::check_if_match(request, &etag(user))?;
    Ok(request.headers().contains_key(header::IF_MATCH).then_some(user.version))
}

/// Responses with tokens must not be cached (RFC 6749, section 5.1).
fn uncached(response: StoredResponse) -> StoredResponse {
    response.with_header(header::CACHE_CONTROL, "no-store")
}
