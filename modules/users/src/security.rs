//! The security events of users, in the log of the target [`SECURITY`]. No email address is logged: an account is named by its id.

use banyan_core::SECURITY;
use uuid::Uuid;

/// `by` is who did it, as [`Actor::label`](banyan_core::Actor::label), or empty: the shop itself.
pub fn event(event: &'static str, user: Uuid, by: &str, address: &str, reason: &str) {
    tracing::info!(target: SECURITY, event, %user, by, address, reason, "a security event");
}

/// `user` is absent if it is not known whose account was meant.
pub fn log_in_failed(user: Option<Uuid>, address: &str, reason: &str) {
    let user = user.map(|user| user.to_string()).unwrap_or_default();
    tracing::warn!(target: SECURITY, event = "log_in_failed", user, address, reason, "a log-in failed");
}

/// A user, or somebody with their session, gave a wrong current password.
pub fn password_refused(user: Uuid, address: &str, reason: &str) {
    tracing::warn!(target: SECURITY, event = "password_refused", %user, address, reason, "a change of password was refused");
}
