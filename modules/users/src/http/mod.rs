//! The REST resources of users and sessions.

mod email_addresses;
mod operators;
mod passwords;
mod problems;
mod sessions;
mod users;

use std::sync::Arc;

use actix_web::{get, http::header, web::Data};
use banyan_http::{Routes, StoredResponse};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{keys::Jwk, service::Service};

/// Everything under `/api/v1`.
pub fn routes(service: Arc<Service>) -> Routes {
    let service = Data::from(service);
    Routes::new(move |config| {
        config.app_data(service.clone());
        // `/users/me` before `/users/{id}`, and `/sessions/current` before `/sessions/{id}`: the first route that matches is taken.
        config
            .service(sessions::log_in)
            .service(sessions::refresh_session)
            .service(sessions::log_out)
            .service(sessions::list_sessions)
            .service(sessions::end_session)
            .service(passwords::change_password)
            .service(passwords::request_password_reset)
            .service(passwords::reset_password)
            .service(email_addresses::request_email_verification)
            .service(email_addresses::confirm_email)
            .service(email_addresses::change_email)
            .service(users::register)
            .service(users::show_me)
            .service(users::change_me)
            .service(users::list_users)
            .service(users::show_user)
            .service(operators::change_roles)
            .service(operators::disable_account)
            .service(operators::enable_account)
            .service(operators::list_sessions_of_user)
            .service(operators::end_sessions_of_user)
            .service(operators::end_session_of_user);
    })
    .with_problems(problems::PROBLEMS)
}

/// Routes outside `/api/v1`, at paths defined by standards.
pub fn well_known(service: Arc<Service>) -> Routes {
    let service = Data::from(service);
    Routes::new(move |config| {
        config.app_data(service.clone());
        config.service(show_keys);
    })
}

/// A JWK Set (RFC 7517, section 5).
#[derive(Serialize, ToSchema)]
struct KeySet {
    keys: Vec<Jwk>,
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
