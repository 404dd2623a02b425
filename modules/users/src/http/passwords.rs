//! Passwords over HTTP: the change by a user who knows the old one, and the reset by mail.

use actix_web::{HttpRequest, http::StatusCode, post, put, web::Data};
use banyan_http::{Anyone, Body, LoggedIn, Problem, StoredResponse, Token};
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{email::EmailAddress, password::Password, service::Service};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PasswordChange {
    #[schema(value_type = String, format = Password, min_length = 1, max_length = 128, example = "banyan-demo")]
    current_password: SecretString,
    new_password: Password,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PasswordResetRequest {
    email: EmailAddress,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PasswordReset {
    /// The one in the mail.
    #[schema(
        min_length = 1,
        max_length = 128,
        example = "wVh8mXw0bV4tYkR1nJc7sDfGh2pLe9uq3Zl0aKi5oTE"
    )]
    token: String,
    new_password: Password,
}

/// Change my password
///
/// Ends all other sessions of the caller, and all tokens in mails to them; a mail tells them of it. Wrong tries count as failed log-ins. The new password is checked as at registration.
#[utoipa::path(
    tag = "users",
    operation_id = "change_password",
    request_body = PasswordChange,
    responses(
        (status = 204, description = "Changed"),
        (status = 403, description = "`wrong_password`: the current password is wrong"),
        (status = 429, description = "`too_many_failed_logins`: wait as `Retry-After` says"),
    ),
    security(("bearer" = []))
)]
#[put("/users/me/password")]
pub(super) async fn change_password(
    request: HttpRequest,
    me: LoggedIn,
    token: Token,
    body: Body<PasswordChange>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    let address = banyan_http::client_address(&request);
    service
        .change_password(
            me.call(),
            (me.user_id(), Some(token.0.sid)),
            &body.current_password,
            &body.new_password,
            &address,
        )
        .await?;
    Ok(StoredResponse::no_content())
}

/// Request a password reset
///
/// Sends a mail with a token that is valid for 30 minutes and once, if there is an account with this email address that is not disabled. The response is the same if
/// there is no such account. An account gets at most three of these mails in half an hour; further requests send none, and the earlier tokens stay valid.
#[utoipa::path(
    tag = "users",
    operation_id = "request_password_reset",
    request_body = PasswordResetRequest,
    responses(
        (status = 202, description = "If there is such an account, a mail is on its way"),
        (status = 429, description = "`too_many_mail_requests` from this network address: wait as `Retry-After` says"),
    ),
    security((), ("bearer" = []))
)]
#[post("/users/password-reset-requests")]
pub(super) async fn request_password_reset(
    request: HttpRequest,
    anyone: Anyone,
    body: Body<PasswordResetRequest>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    let address = banyan_http::client_address(&request);
    service
        .request_password_reset(anyone.call(), body.email.as_str(), &address)
        .await?;
    Ok(StoredResponse::empty(StatusCode::ACCEPTED))
}

/// Reset my password
///
/// With the token of a mail. Ends all sessions of the user and all other tokens in mails to them; log in with the new password. The new password is checked as at
/// registration; the token stays valid if it is refused.
#[utoipa::path(
    tag = "users",
    operation_id = "reset_password",
    request_body = PasswordReset,
    responses((status = 204, description = "The password is the new one")),
    security((), ("bearer" = []))
)]
#[post("/users/password-resets")]
pub(super) async fn reset_password(
    request: HttpRequest,
    anyone: Anyone,
    body: Body<PasswordReset>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    let address = banyan_http::client_address(&request);
    service
        .redeem_password_reset(anyone.call(), &body.token, &body.new_password, &address)
        .await?;
    Ok(StoredResponse::no_content())
}
