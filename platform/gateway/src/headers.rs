//! Which headers the gateway forwards, in both directions, and which it sets itself.
//!
//! Headers in which a client states its own address, and headers with this product's own names, are not forwarded. The gateway sets `Forwarded`
//! instead (RFC 7239), with the client that [`banyan_http::client_ip`] finds behind trusted proxies.

use std::net::IpAddr;

use actix_web::{
    HttpRequest,
    http::header::{self as outer, HeaderMap as OuterHeaders},
};
use banyan_core::TraceParent;
use banyan_http::{OverTls, RequestContext};
use hyper::{
    Method,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: &str = "tracestate";
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Headers about one connection, which are not forwarded (RFC 9110, section 7.6.1), like every header that `Connection` names.
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Request headers that the gateway sets or handles itself: `Expect` has been handled once the body has arrived, and the connection to the
/// instance has its own `Host` and length.
const SET_BY_GATEWAY: [&str; 8] = [
    "content-length",
    "expect",
    "forwarded",
    "host",
    "traceparent",
    TRACESTATE,
    "x-real-ip",
    "x-request-id",
];

/// Response headers that the shell and the rate limit of the gateway set on every response.
const SET_BY_SHELL: [&str; 3] = ["ratelimit", "ratelimit-policy", "x-request-id"];

/// The headers of a request as they are sent to an instance.
pub fn for_instance(request: &HttpRequest) -> HeaderMap {
    let from = request.headers();
    let named = named_by_connection(from.get_all(outer::CONNECTION).map(outer::HeaderValue::as_bytes));
    let mut headers = HeaderMap::with_capacity(from.len() + 4);
    for (name, value) in from {
        let name = name.as_str();
        let is_dropped = HOP_BY_HOP.contains(&name)
            || SET_BY_GATEWAY.contains(&name)
            || name.starts_with("x-forwarded-")
            || name.starts_with("banyan-");
        if !is_dropped && !named.iter().any(|named| named == name) {
            append(&mut headers, name, value.as_bytes());
        }
    }
    headers.extend(
        HeaderValue::from_str(&forwarded(request))
            .ok()
            .map(|value| (header::FORWARDED, value)),
    );
    headers.append(header::VIA, via(request.version()));
    if let Some(context) = RequestContext::find(request) {
        headers.extend(
            HeaderValue::from_str(&context.request_id)
                .ok()
                .map(|value| (X_REQUEST_ID, value)),
        );
        headers.extend(
            HeaderValue::from_str(&context.trace.to_string())
                .ok()
                .map(|value| (TRACEPARENT, value)),
        );
        let received = from
            .get(TRACEPARENT.as_str())
            .and_then(|value| TraceParent::parse(value.to_str().ok()?));
        // `tracestate` belongs to the trace in which it was written (W3C Trace Context, section 3.3).
        if received.is_some_and(|received| received.trace_id() == context.trace.trace_id()) {
            from.get_all(TRACESTATE)
                .for_each(|value| append(&mut headers, TRACESTATE, value.as_bytes()));
        }
    }
    headers
}

/// The headers of an instance's response as they are sent to the client, without the length: the code that writes the body sets it.
pub fn for_client(from: &HeaderMap) -> OuterHeaders {
    let named = named_by_connection(from.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes));
    let mut headers = OuterHeaders::with_capacity(from.len());
    for (name, value) in from {
        let name = name.as_str();
        let is_dropped = HOP_BY_HOP.contains(&name) || SET_BY_SHELL.contains(&name) || name == "content-length";
        if is_dropped || named.iter().any(|named| named == name) {
            continue;
        }
        // Both libraries accept the same names and values, so the conversion does not fail.
        if let (Ok(name), Ok(value)) = (
            outer::HeaderName::from_bytes(name.as_bytes()),
            outer::HeaderValue::from_bytes(value.as_bytes()),
        ) {
            headers.append(name, value);
        }
    }
    headers
}

/// Whether a request is idempotent: by its method (RFC 9110, section 9.2.2), or because it carries an `Idempotency-Key` and the operation
/// remembers keys. A client can send a key to any operation; most ignore it.
pub fn is_idempotent(method: &Method, headers: &HeaderMap, remembers_keys: bool) -> bool {
    method.is_idempotent() || (remembers_keys && *method == Method::POST && headers.contains_key(IDEMPOTENCY_KEY))
}

/// The value of `Via` (RFC 9110, section 7.6.3): the protocol version of the received request, and this gateway.
fn via(version: actix_web::http::Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        actix_web::http::Version::HTTP_10 => "1.0 banyan",
        _ => "1.1 banyan",
    })
}

fn append(headers: &mut HeaderMap, name: &str, value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
        headers.append(name, value);
    }
}

fn named_by_connection<'v>(values: impl Iterator<Item = &'v [u8]>) -> Vec<String> {
    let text = values.map(|value| String::from_utf8_lossy(value).into_owned());
    let names = text.flat_map(|value| {
        value
            .split(',')
            .map(|name| name.trim().to_ascii_lowercase())
            .collect::<Vec<_>>()
    });
    names.filter(|name| !name.is_empty()).collect()
}

/// The value of `Forwarded`: the client, as the rate limit identifies it. The instance trusts this gateway and does not know the proxies in front of
/// it, so they are not listed. Host and protocol are those of the connection to this gateway, so they are left out behind a proxy.
fn forwarded(request: &HttpRequest) -> String {
    let client = banyan_http::client_ip(request);
    let address = client.map_or_else(|| "unknown".to_owned(), node);
    if client != request.peer_addr().map(|peer| peer.ip().to_canonical()) {
        return format!("for={address}");
    }
    let host = requested_host(request)
        .map(|host| format!(";host=\"{host}\""))
        .unwrap_or_default();
    format!(
        "for={address}{host};proto={}",
        if request.app_data::<OverTls>().is_some() {
            "https"
        } else {
            "http"
        }
    )
}

/// RFC 7239, section 6: an IPv6 address is written in brackets, and therefore in quotes.
fn node(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\"[{v6}]\""),
    }
}

/// The host that the client requested, if it needs no escaping in a quoted string.
fn requested_host(request: &HttpRequest) -> Option<&str> {
    let authority = request.uri().authority().map(actix_web::http::uri::Authority::as_str);
    let host = authority.or_else(|| request.headers().get(outer::HOST)?.to_str().ok())?;
    let needs_no_escape = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".:-_[]".contains(&byte));
    needs_no_escape.then_some(host)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use banyan_http::TrustedProxies;

    use super::*;

    fn forwarded_headers(headers: &[(&str, &str)]) -> HeaderMap {
        forwarded_headers_from("203.0.113.7:4711", &[], headers)
    }

    fn forwarded_headers_from(peer: &str, trusted: &[&str], headers: &[(&str, &str)]) -> HeaderMap {
        let trusted = trusted.iter().map(|address| address.parse::<IpAddr>().unwrap().into());
        let request = TestRequest::get()
            .peer_addr(peer.parse().unwrap())
            .app_data(TrustedProxies(trusted.collect()));
        let request = headers
            .iter()
            .fold(request, |request, (name, value)| request.append_header((*name, *value)));
        for_instance(&request.to_http_request())
    }

    fn value<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap())
            .unwrap_or_default()
    }

    #[test]
    fn connection_headers_are_not_forwarded() {
        let headers = forwarded_headers(&[
            ("connection", "keep-alive, X-Secret-Hop"),
            ("connection", "other"),
            ("x-secret-hop", "1"),
            ("other", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "Basic eDp5"),
            ("proxy-connection", "keep-alive"),
            ("expect", "100-continue"),
            ("content-length", "12"),
            ("host", "shop.example"),
            ("accept", "application/json"),
            ("authorization", "Bearer x"),
            ("idempotency-key", "k"),
        ]);
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["accept", "authorization", "forwarded", "idempotency-key", "via"]
        );
    }

    #[test]
    fn a_client_cannot_set_its_own_address() {
        let headers = forwarded_headers(&[
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-host", "evil.example"),
            ("x-real-ip", "1.2.3.4"),
            ("banyan-actor", "ops"),
            ("host", "shop.example:8443"),
        ]);
        assert_eq!(headers.len(), 2, "{headers:?}");
        assert_eq!(value(&headers, "via"), "1.1 banyan");
        assert_eq!(
            value(&headers, "forwarded"),
            "for=203.0.113.7;host=\"shop.example:8443\";proto=http"
        );
    }

    #[test]
    fn behind_a_trusted_proxy_forwarded_names_the_client_the_proxy_reported() {
        let from = |headers: &[(&str, &str)]| {
            value(
                &forwarded_headers_from("[2001:db8::1]:9", &["2001:db8::1"], headers),
                "forwarded",
            )
            .to_owned()
        };
        assert_eq!(
            from(&[("forwarded", "for=6.6.6.6, for=1.2.3.4;proto=https")]),
            "for=1.2.3.4"
        );
        assert_eq!(
            from(&[
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-for", "[2001:db8::9]:4711")
            ]),
            "for=\"[2001:db8::9]\""
        );
        assert_eq!(
            from(&[("x-forwarded-for", "x\", for=9.9.9.9")]),
            "for=\"[2001:db8::1]\";proto=http"
        );
    }

    #[test]
    fn a_host_that_would_need_escaping_is_left_out() {
        let headers = forwarded_headers(&[("host", "a\";for=9.9.9.9")]);
        assert_eq!(value(&headers, "forwarded"), "for=203.0.113.7;proto=http");
    }

    #[test]
    fn a_response_loses_connection_headers_and_those_the_shell_sets() {
        let mut from = HeaderMap::new();
        for (name, value) in [
            ("connection", "X-Hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("keep-alive", "timeout=5"),
            ("content-length", "3"),
            ("ratelimit", "\"caller\";r=1;t=1"),
            ("ratelimit-policy", "\"caller\";q=1;w=1"),
            ("x-request-id", "inner"),
            ("etag", "\"7\""),
            ("location", "/api/v1/orders/7"),
            ("retry-after", "2"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ] {
            from.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let headers = for_client(&from);
        let mut left: Vec<(&str, &[u8])> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        left.sort_unstable();
        let expected: [(&str, &[u8]); 5] = [
            ("etag", b"\"7\""),
            ("location", b"/api/v1/orders/7"),
            ("retry-after", b"2"),
            ("set-cookie", b"a=1"),
            ("set-cookie", b"b=2"),
        ];
        assert_eq!(left, expected);
    }

    #[test]
    fn a_post_is_idempotent_only_with_a_key_that_is_remembered() {
        let mut keyed = HeaderMap::new();
        keyed.insert(IDEMPOTENCY_KEY, HeaderValue::from_static("k"));
        let bare = HeaderMap::new();
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE] {
            assert!(is_idempotent(&method, &bare, false), "{method}");
        }
        assert!(is_idempotent(&Method::POST, &keyed, true));
        assert!(!is_idempotent(&Method::POST, &bare, true) && !is_idempotent(&Method::POST, &keyed, false));
        assert!(
            !is_idempotent(&Method::PATCH, &keyed, true),
            "keys are not remembered for PATCH"
        );
    }
}
