//! The edge of the shop: requests for modules that run elsewhere are passed on to them, and pages are composed from several modules'
//! contracts.
//!
//! Invariant: nothing here owns data or decides anything a module should decide.

mod checks;
mod headers;
mod pages;
mod proxy;
mod routes;
mod upstream;

use std::sync::Arc;

use actix_web::{
    Error,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    middleware::Next,
};
use serde::{Deserialize, Serialize};

use crate::config;

pub use checks::checks;
pub use pages::pages;
pub use proxy::{Proxy, proxy};

/// Whether this binary is an edge.
pub const IS_HERE: bool = true;

/// `[gateway]`; each is described in `config/default.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub timeout_ms: u64,
    pub connect_timeout_ms: u64,
    pub answer_silence_ms: u64,
    pub concurrency: usize,
    pub queue: usize,
    pub retry_after_s: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            timeout_ms: 10_000,
            connect_timeout_ms: 1_000,
            answer_silence_ms: 60_000,
            concurrency: 256,
            queue: 256,
            retry_after_s: 2,
        }
    }
}

impl Settings {
    /// `[gateway]`, checked.
    ///
    /// # Errors
    /// Names the key and what would be right.
    fn read(settings: &config::Settings) -> anyhow::Result<Settings> {
        let own: Settings = settings.section("gateway")?;
        let limits = [
            ("timeout_ms", own.timeout_ms),
            ("connect_timeout_ms", own.connect_timeout_ms),
            ("answer_silence_ms", own.answer_silence_ms),
            ("concurrency", own.concurrency as u64),
        ];
        config::refuse_zero("gateway", &limits)?;
        Ok(own)
    }
}

/// Middleware: what is for a module elsewhere goes there, everything else to the routes of this binary. It comes before routing, because a
/// route may be here for some modules and elsewhere for others (`/ops/{module}/...`).
pub async fn dispatch(
    proxy: Arc<Proxy>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let Some(found) = proxy.find(request.method().as_str(), request.path()) else {
        return next.call(request).await;
    };
    let (request, payload) = request.into_parts();
    let response = match proxy.pass_on(found, request.clone(), payload).await {
        Ok(response) => response,
        Err(problem) => actix_web::HttpResponse::from_error(problem),
    };
    Ok(ServiceResponse::new(request, response))
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod settings_tests {
    use super::*;

    #[test]
    fn every_default_stands_in_the_file() {
        let settings = config::Settings::from_sources(None, []).unwrap();
        assert_eq!(Settings::read(&settings).unwrap(), Settings::default());
    }

    #[test]
    fn a_limit_of_nothing_is_refused_and_named() {
        for key in ["timeout_ms", "connect_timeout_ms", "answer_silence_ms", "concurrency"] {
            let variable = (format!("BANYAN__GATEWAY__{}", key.to_uppercase()), "0".to_owned());
            let settings = config::Settings::from_sources(None, [variable]).unwrap();
            assert_eq!(
                Settings::read(&settings).unwrap_err().to_string(),
                format!("gateway.{key} must be at least 1")
            );
        }
    }
}
