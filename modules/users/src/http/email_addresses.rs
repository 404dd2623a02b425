//! Verification and change of email addresses over HTTP.

use actix_web::{HttpRequest, http::StatusCode, post, put, web::Data};
use banyan_http::{Anyone, Body, LoggedIn, Problem, StoredResponse};
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{email::EmailAddress, service::Service};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EmailVerificationRequest {
    email: EmailAddress,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EmailConfirmation {
    /// The one in the mail.
    #[schema(
        min_length = 1,
        max_length = 128,
        example = "wVh8mXw0bV4tYkR1nJc7sDfGh2pLe9uq3Zl0aKi5oTE"
    )]
    token: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EmailChange {
    email: EmailAddress,
    #[schema(value_type = String, format = Password, min_length = 1, max_length = 128, example = "banyan-demo")]
    current_password: SecretString,
}

/// Request the verification of an email address
///
/// Sends a mail with a token that is valid for a day and once, if there is an account with this email address that is not verified and not disabled. The response is
/// the same if there is no such account. An account gets at most three of these mails in half an hour; further requests send none, and the earlier tokens stay valid.
#[utoipa::path(
    tag = "users",
    operation_id = "request_email_verification",
    request_body = EmailVerificationRequest,
    responses(
        (status = 202, description = "If there is such an account, a mail is on its way"),
        (status = 429, description = "`too_many_mail_requests` from this network address: wait as `Retry-After` says"),
    ),
    security((), ("bearer" = []))
)]
#[post("/users/email-verification-requests")]
pub(super) async fn request_email_verification(
    request: HttpRequest,
    anyone: Anyone,
    body: Body<EmailVerificationRequest>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    let address = banyan_http::client_address(&request);
    service
        .request_email_verification(anyone.call(), body.email.as_str(), &address)
        .await?;
    Ok(StoredResponse::empty(StatusCode::ACCEPTED))
}

/// Confirm an email address
///
/// With the token of a mail: the address of the account, or the one it changes to. A change ends all sessions of the user and all other tokens in mails to them; the old
/// address gets a mail about it. Log in with the new address.
#[utoipa::path(
    tag = "users",
    operation_id = "confirm_email",
    request_body = EmailConfirmation,
    responses(
        (status = 204, description = "The address is verified, and is the account's"),
        (status = 409, description = "`email_taken`: somebody else has the address meanwhile"),
    ),
    security((), ("bearer" = []))
)]
#[post("/users/email-confirmations")]
pub(super) async fn confirm_email(
    anyone: Anyone,
    body: Body<EmailConfirmation>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    service.confirm_email(anyone.call(), &body.token).await?;
    Ok(StoredResponse::no_content())
}

/// Change my email address
///
/// Sends a mail to the new address with a token that is valid for a day and once. The old address stays the account's until the new one is confirmed with the token
/// (`POST /api/v1/users/email-confirmations`). Wrong passwords count as failed log-ins.
#[utoipa::path(
    tag = "users",
    operation_id = "change_email",
    request_body = EmailChange,
    responses(
        (status = 202, description = "A mail to the new address is on its way"),
        (status = 403, description = "`wrong_password`: the current password is wrong"),
        (
            status = 409,
            description = "`email_taken`: there is a user with this email address already. Where addresses are verified, only the confirmation tells"
        ),
        (status = 429, description = "`too_many_mails`, `too_many_mail_requests` or `too_many_failed_logins`: wait as `Retry-After` says"),
    ),
    security(("bearer" = []))
)]
#[put("/users/me/email")]
pub(super) async fn change_email(
    request: HttpRequest,
    me: LoggedIn,
    body: Body<EmailChange>,
    service: Data<Service>,
) -> Result<StoredResponse, Problem> {
    let address = banyan_http::client_address(&request);
    let EmailChange {
        email,
        current_password,
    } = body.into_inner();
    service
        .request_email_change(me.call(), me.user_id(), (&current_password, email), &address)
        .await?;
    Ok(StoredResponse::empty(StatusCode::ACCEPTED))
}
