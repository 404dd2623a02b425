//! What the shell knows about the current request, and how to find it.

use std::sync::Arc;

use actix_web::{HttpMessage, HttpRequest, http::Method};
use banyan_core::{Call, TraceParent};

use crate::problem::Occurrence;

/// Put into each request by the shell.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The client's, if it sent a valid one, else a generated one; in every response as `X-Request-Id`.
    pub request_id: String,
    /// The trace this request belongs to, with the span of this request as the parent of what follows.
    pub trace: TraceParent,
    /// The client's method. The shell turns a HEAD into a GET, so handlers see only GET.
    pub method: Method,
}

/// The route's template for metrics, put into a request by a handler that does its own routing, such as a proxy.
#[derive(Clone, Debug)]
pub struct RouteTemplate(pub Arc<str>);

impl RequestContext {
    /// `None` without the shell, as in a handler's own tests.
    pub fn find(request: &HttpRequest) -> Option<Self> {
        request.extensions().get::<RequestContext>().cloned()
    }
}

/// Path and query of the request. Scheme and host are part of the URI in HTTP/2, and behind some proxies, so the same request would have two URIs.
#[cfg_attr(not(feature = "durable"), allow(dead_code, reason = "only idempotency calls it"))]
pub(crate) fn target(request: &HttpRequest) -> &str {
    let target = request.uri().path_and_query();
    target.map_or("/", actix_web::http::uri::PathAndQuery::as_str)
}

/// Adds this request's trace to a call made on its behalf.
pub(crate) fn traced(call: Call, request: &HttpRequest) -> Call {
    call.traced(RequestContext::find(request).map(|context| context.trace))
}

#[cfg_attr(not(feature = "durable"), allow(dead_code, reason = "only idempotency calls it"))]
pub(crate) fn occurrence(request: &HttpRequest) -> Occurrence {
    Occurrence {
        instance: request.path().to_owned(),
        trace_id: RequestContext::find(request)
            .map(|context| context.trace.trace_id().to_owned())
            .unwrap_or_default(),
    }
}
