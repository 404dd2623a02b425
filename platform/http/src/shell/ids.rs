//! Request ids and traces: the client's if it sent valid ones, else new ones.

use actix_web::http::header::{HeaderMap, HeaderName};
use banyan_core::{Ids, TraceParent};

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID_LENGTH: usize = 128;

/// A valid id from the client is kept, so that the client can find its request in the logs.
pub fn request_id(headers: &HeaderMap, ids: &dyn Ids) -> String {
    let is_valid = |id: &&str| {
        (1..=MAX_REQUEST_ID_LENGTH).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    };
    let given = headers
        .get(X_REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(is_valid);
    given.map_or_else(|| ids.new_id().to_string(), str::to_owned)
}

/// The client's trace with a new span as the parent of what follows (W3C Trace Context, section 3.4); a new trace without one.
pub fn trace(headers: &HeaderMap, ids: &dyn Ids) -> TraceParent {
    let span = ids.new_id().as_u64_pair().1;
    let given = headers
        .get("traceparent")
        .and_then(|value| value.to_str().ok())
        .and_then(TraceParent::parse);
    let resumed = given.and_then(|given| {
        let text = given.to_string();
        let flags = text.rsplit('-').next().unwrap_or("00");
        TraceParent::parse(&format!("00-{}-{:016x}-{flags}", given.trace_id(), span.max(1)))
    });
    resumed.unwrap_or_else(|| TraceParent::start(ids.new_id(), span))
}
