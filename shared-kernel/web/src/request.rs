//! What the shell knows about the request at hand, and where others find it.

use std::net::IpAddr;

use actix_web::{HttpMessage, HttpRequest};
use shared_kernel::{Call, TraceParent};

use crate::problem::Occurrence;

/// Put into each request by the shell.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The client's, if it sent a sane one, else ours; on every answer as `X-Request-Id`.
    pub request_id: String,
    /// The trace this request belongs to, with our own span as parent of whatever follows.
    pub trace: TraceParent,
}

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

pub(crate) fn occurrence(request: &HttpRequest) -> Occurrence {
    Occurrence {
        instance: request.path().to_owned(),
        trace_id: RequestContext::find(request).map(|context| context.trace.trace_id().to_owned()).unwrap_or_default(),
    }
}

/// Whom to count a caller as who has not said who they are: the address the connection came from. An IPv6 client commands a whole /64, so
/// that is what is counted. Headers that any client can write are not believed.
pub fn client_address(request: &HttpRequest) -> String {
    request.peer_addr().map_or_else(|| "unknown".to_owned(), |peer| address_label(peer.ip()))
}

pub(crate) fn address_label(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_counted_as_what_its_owner_commands() {
        let label = |text: &str| address_label(text.parse().unwrap());
        assert_eq!(label("192.0.2.7"), "192.0.2.7");
        assert_eq!(label("::ffff:192.0.2.7"), "192.0.2.7", "the same client over a dual-stack socket");
        assert_eq!(label("2001:db8:1:2:aaaa::1"), label("2001:db8:1:2:bbbb::2"));
        assert_ne!(label("2001:db8:1:2::1"), label("2001:db8:1:3::1"));
    }
}
