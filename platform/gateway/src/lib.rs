//! The gateway of a product: requests for modules that run in other processes are forwarded to them.
//!
//! Invariant: the gateway owns no data, and makes no decision that belongs to a module.

mod checks;
mod headers;
mod proxy;
mod routes;
mod upstream;
mod waits;

use std::{sync::Arc, time::Duration};

use actix_web::{
    Error,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    middleware::Next,
};
use banyan_core::refuse_zero;
use serde::Deserialize;

pub use checks::checks;
pub use proxy::Proxy;
pub use routes::{Found, Operation, RouteTable};
pub use upstream::{HttpConnector, UpstreamRequest};

/// `[gateway]`; each setting is described in the file of defaults.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub timeout_ms: u64,
    pub concurrency: usize,
    pub queue: usize,
    #[serde(skip)]
    pub limits: Limits,
}

/// Limits that are not settings; tests vary them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The timeout for making a connection to an instance: looking its name up, TCP and TLS.
    pub connect_timeout: Duration,
    /// The timeout between two parts of a response that has begun. A quiet stream of events sends a comment every 15 s.
    pub response_silence: Duration,
    /// The `Retry-After` of responses for an unavailable or busy module: the time a breaker stays open.
    pub retry_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connect_timeout: Duration::from_secs(1),
            response_silence: Duration::from_secs(60),
            retry_after: Duration::from_secs(2),
        }
    }
}

impl Settings {
    /// # Errors
    /// Names the key and what would be right.
    pub fn check(&self) -> anyhow::Result<()> {
        let limits = [
            ("timeout_ms", self.timeout_ms),
            ("concurrency", self.concurrency as u64),
        ];
        refuse_zero("gateway", &limits).map_err(anyhow::Error::msg)
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// Middleware: a request for a remote module is forwarded to it, every other request goes to the routes of this process. It comes before routing,
/// because a route may be local for some modules and remote for others (`/ops/{module}/...`).
pub async fn dispatch(
    proxy: Arc<Proxy>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let Some(found) = proxy.find(request.method().as_str(), request.path()) else {
        return next.call(request).await;
    };
    let (request, payload) = request.into_parts();
    let response = match proxy.forward(found, request.clone(), payload).await {
        Ok(response) => response,
        Err(problem) => actix_web::HttpResponse::from_error(problem),
    };
    Ok(ServiceResponse::new(request, response))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_zero_is_refused_with_its_key() {
        let file: toml::Table = include_str!("../../host/config/default.toml").parse().unwrap();
        let defaults: Settings = file["gateway"].clone().try_into().unwrap();
        assert!(defaults.check().is_ok());
        let without_permits = Settings {
            concurrency: 0,
            ..defaults
        };
        let error = without_permits.check().unwrap_err();
        assert_eq!(error.to_string(), "gateway.concurrency must be at least 1");
    }
}
