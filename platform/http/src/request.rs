//! What the shell knows about the request at hand, and where others find it.

use std::sync::Arc;

use actix_web::{HttpMessage, HttpRequest, http::Method};
use banyan_core::{Call, TraceParent};

use crate::problem::Occurrence;

/// Put into each request by the shell.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The client's, if it sent a sane one, else ours; on every answer as `X-Request-Id`.
    pub request_id: String,
    /// The trace this request belongs to, with our own span as parent of whatever follows.
    pub trace: TraceParent,
    /// The client's method; the shell makes a GET of a HEAD for everybody who answers here.
    pub method: Method,
}

/// The route's template for metrics, put into a request by a handler that does its own routing, such as a proxy.
#[derive(Clone, Debug)]
pub struct RouteTemplate(pub Arc<str>);

impl RequestContext {
    /// `None` when no shell is around the server, as in a handler's own tests.
    pub fn find(request: &HttpRequest) -> Option<Self> {
        request.extensions().get::<RequestContext>().cloned()
    }
}

/// What a module call made for this request carries beside the actor.
pub(crate) fn traced(call: Call, request: &HttpRequest) -> Call {
    call.traced(RequestContext::find(request).map(|context| context.trace))
}

#[cfg_attr(not(feature = "durable"), allow(dead_code, reason = "idempotency alone asks for it"))]
pub(crate) fn occurrence(request: &HttpRequest) -> Occurrence {
    Occurrence {
        instance: request.path().to_owned(),
        trace_id: RequestContext::find(request)
            .map(|context| context.trace.trace_id().to_owned())
            .unwrap_or_default(),
    }
}
