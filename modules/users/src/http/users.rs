//! Registration and profiles over HTTP.

use actix_web::{
    HttpRequest, HttpResponse, get,
    http::{StatusCode, header},
    patch, post,
    web::Data,
};
use banyan_http::{Anyone, Body, HasRole, Listed, LoggedIn, PageQuery, Path, Problem, Query, StoredResponse};
use serde::Deserialize;
use shared_kernel::Staff;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::{
    service::{Registered, Service, etag},
    user::{ProfileChange, Registration, User},
};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct UserFilter {
    /// The one user with this email address, in any case.
    #[param(min_length = 1, max_length = 254)]
    email: Option<String>,
}

/// Register
///
/// Makes a customer. Everybody may; the email address must be new, whatever its case. A password has 8 to 128 characters, and is neither one of the 10,000
/// most common ones, nor the email address or the part of it before the `@`, nor the name of the shop.
#[utoipa::path(
    tag = "users",
    operation_id = "register",
    request_body = Registration,
    responses(
        (status = 201, description = "Registered; log in with `POST /api/v1/sessions`", body = User),
        (
            status = 202,
            description = "With `users.verify_email`: a mail to the address says how it goes on, the same for a new address and a known one"
        ),
        (
            status = 409,
            description = "`email_taken`: there is a user with this email address already; not with `users.verify_email`"
        ),
        (status = 429, description = "`too_many_registrations` from this network address: wait as `Retry-After` says"),
    ),
    security((), ("bearer" = []))
)]
#[post("/users")]
pub(super) async fn register(
    request: HttpRequest,
    anyone: Anyone,
    body: Body<Registration>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    let address = banyan_http::client_address(&request);
    let registered = service.register(anyone.call(), body.into_inner(), &address).await?;
    Ok(match registered {
        Registered::User(user) => {
            banyan_http::created(&format!("/api/v1/users/{}", user.id), Some(&etag(&user)), &user)
        }
        Registered::Mail => StoredResponse::empty(StatusCode::ACCEPTED),
    })
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
pub(super) async fn show_me(
    request: HttpRequest,
    me: LoggedIn,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
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
pub(super) async fn change_me(
    request: HttpRequest,
    me: LoggedIn,
    body: Body<ProfileChange>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let expected = expected_version(&request, &service.load_visible(&me.call().actor, me.user_id()).await?)?;
    let user = service
        .change_profile(me.call(), me.user_id(), body.into_inner().checked()?, expected)
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
pub(super) async fn list_users(
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
pub(super) async fn show_user(
    request: HttpRequest,
    caller: LoggedIn,
    id: Path<Uuid>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let user = service.load_visible(&caller.call().actor, *id).await?;
    Ok(banyan_http::ok_with_etag(&request, &etag(&user), &user))
}

/// The version that `If-Match` requires; `None` without the header.
fn expected_version(request: &HttpRequest, user: &User) -> Result<Option<i64>, Problem> {
    banyan_http::check_if_match(request, &etag(user))?;
    Ok(request.headers().contains_key(header::IF_MATCH).then_some(user.version))
}
