//! The problems that clients may meet beside the shared ones, for the OpenAPI document.

use banyan_http::KnownProblem;

pub(super) const PROBLEMS: &[KnownProblem] = &[
    KnownProblem::of(
        409,
        "email_taken",
        "There is a user with this email address already.",
        &["register", "change_email", "confirm_email"],
    ),
    KnownProblem::of(
        422,
        "invalid_email",
        "This is not an email address.",
        &[
            "register",
            "request_password_reset",
            "request_email_verification",
            "change_email",
        ],
    ),
    KnownProblem::of(
        422,
        "invalid_token",
        "This token is unknown, has expired or was used. Request a new mail.",
        &["reset_password", "confirm_email"],
    ),
    KnownProblem::of(
        429,
        "too_many_mail_requests",
        "Too many mails were requested from this network address.",
        &["request_password_reset", "request_email_verification", "change_email"],
    ),
    KnownProblem::of(
        429,
        "too_many_mails",
        "You have requested several of these mails within half an hour.",
        &["change_email"],
    ),
    KnownProblem::of(
        403,
        "email_not_verified",
        "Verify your email address first.",
        &["log_in"],
    ),
    KnownProblem::of(
        422,
        "invalid_name",
        "A name has at least one visible character.",
        &["register", "change_me"],
    ),
    KnownProblem::of(
        422,
        "invalid_address",
        "A part that the country requires is missing, or its postal code has another form.",
        &["change_me"],
    ),
    KnownProblem::of(
        422,
        "invalid_password",
        "A password must not be the email address or a part of it.",
        &["register", "change_password", "reset_password"],
    ),
    KnownProblem::of(
        401,
        "invalid_credentials",
        "The email address or the password is wrong.",
        &["log_in"],
    ),
    KnownProblem::of(
        429,
        "too_many_failed_logins",
        "Too many failed log-ins.",
        &["log_in", "change_password", "change_email"],
    ),
    KnownProblem::of(
        429,
        "too_many_registrations",
        "Too many registrations from this network address.",
        &["register"],
    ),
    KnownProblem::of(403, "account_disabled", "This account is disabled.", &["log_in"]),
    KnownProblem::of(
        403,
        "wrong_password",
        "The current password is wrong.",
        &["change_password", "change_email"],
    ),
    KnownProblem::of(
        409,
        "own_account",
        "Another operator must disable your account.",
        &["disable_account"],
    ),
    KnownProblem::of(
        401,
        "invalid_refresh_token",
        "The refresh token is unknown, expired, revoked or used.",
        &["refresh_session"],
    ),
    KnownProblem::of(
        409,
        "own_operations_role",
        "Nobody takes the role ops from himself.",
        &["change_roles"],
    ),
    KnownProblem::of(
        409,
        "already_refreshed",
        "This refresh token has just been exchanged by another request.",
        &["refresh_session"],
    ),
];
