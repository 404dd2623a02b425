//! Stands in the place of `mod.rs` in a binary that is not an edge: it answers for its own modules, and passes nothing on.

use std::sync::Arc;

use actix_web::{
    Error, HttpRequest,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    middleware::Next,
};
use anyhow::bail;
use banyan_http::Routes;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;

use crate::{config::Settings, discovery::Discovery, health::Check, rpc::Contracts};

/// Whether this binary is an edge.
pub const IS_HERE: bool = false;

/// Passes nothing on.
pub struct Proxy;

/// # Errors
/// Never.
pub fn proxy(_: &Settings, _: &Arc<dyn Discovery>, _: &[&str], _: &CancellationToken) -> anyhow::Result<Arc<Proxy>> {
    Ok(Arc::new(Proxy))
}

/// Nothing that it would live on.
pub fn checks(_: &Arc<Proxy>) -> Vec<Arc<dyn Check>> {
    Vec::new()
}

pub fn pages(_: &Contracts) -> Option<Routes> {
    None
}

/// Everything is for the routes of this binary.
pub async fn dispatch(
    _: Arc<Proxy>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    next.call(request).await
}

impl Proxy {
    pub fn is_idle(&self) -> bool {
        true
    }

    /// # Errors
    /// The document of this binary cannot be written, which would be a bug.
    pub fn document(&self, own: &OpenApi) -> anyhow::Result<String> {
        Ok(own.to_json()?)
    }

    /// # Errors
    /// Always.
    pub async fn get_json(&self, module: &str, _: &str, _: &HttpRequest) -> anyhow::Result<Value> {
        bail!("{module} is elsewhere, and only the gateway asks there")
    }
}
