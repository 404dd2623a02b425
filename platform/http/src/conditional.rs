//! Conditional requests (RFC 9110, section 13): a strong `ETag` on single resources, `If-None-Match`, `If-Match`.

use std::{
    fmt::Display,
    future::{Ready, ready},
};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse,
    dev::Payload,
    http::{
        Method,
        header::{self, HeaderName, HeaderValue},
    },
};
use banyan_core::{Fault, FaultKind};
use bytes::Bytes;
use serde::Serialize;
use utoipa::{
    IntoParams,
    openapi::path::{Parameter, ParameterIn},
};

use crate::{openapi::header_parameter, stored_response};

/// A strong entity tag of a version: `"7"`. `version` must be visible ASCII without a quote, as numbers and hashes are.
pub fn etag(version: impl Display) -> String {
    format!("\"{version}\"")
}

/// 200 with the body and its `ETag`, or 304 without a body if the client already has this version. Nobody stores a response to a caller with a token.
pub fn ok_with_etag(request: &HttpRequest, etag: &str, body: &impl Serialize) -> HttpResponse {
    conditional(request, etag, false, || stored_response::ok(body).into_response())
}

/// As [`ok_with_etag`], with JSON that was serialized before and is the same for every caller.
pub fn ok_json_with_etag(request: &HttpRequest, etag: &str, body: Bytes) -> HttpResponse {
    conditional(request, etag, true, || stored_response::ok_json(body))
}

fn conditional(request: &HttpRequest, etag: &str, is_public: bool, ok: impl FnOnce() -> HttpResponse) -> HttpResponse {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_known =
        reads && Condition::read(request, &header::IF_NONE_MATCH).is_some_and(|condition| condition.holds_weakly(etag));
    let mut response = if is_known {
        HttpResponse::NotModified().finish()
    } else {
        ok()
    };
    let headers = response.headers_mut();
    let keeps = if is_public || !request.headers().contains_key(header::AUTHORIZATION) {
        // Only the client itself may cache it, and it revalidates each time.
        "private, no-cache"
    } else {
        // What is shown to a user by name is kept nowhere; a client that remembers its ETag may still ask whether it changed.
        "no-store"
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keeps));
    if let Ok(etag) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, etag);
    }
    response
}

/// Refuses the change (412) if the client names the version it wants to change and that is not the current one.
///
/// # Errors
/// `precondition_failed`.
pub fn check_if_match(request: &HttpRequest, etag: &str) -> Result<(), Fault> {
    IfMatch::of(request).check(etag)
}

/// The value of `If-Match` or `If-None-Match`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Any,
    /// Each with whether it is weak.
    OneOf(Vec<(bool, String)>),
}

impl Condition {
    /// `None` without such a header. An unreadable value matches nothing: then a read returns the full body and a change is refused, which is safe
    /// in both cases.
    fn read(request: &HttpRequest, name: &HeaderName) -> Option<Self> {
        let mut tags = Vec::new();
        let mut present = false;
        for value in request.headers().get_all(name) {
            present = true;
            let text = value.to_str().unwrap_or_default();
            if text.trim() == "*" {
                return Some(Condition::Any);
            }
            tags.extend(entity_tags(text));
        }
        present.then_some(Condition::OneOf(tags))
    }

    fn holds_weakly(&self, etag: &str) -> bool {
        match self {
            Condition::Any => true,
            Condition::OneOf(tags) => tags.iter().any(|(_, tag)| tag == etag),
        }
    }

    fn holds_strongly(&self, etag: &str) -> bool {
        match self {
            Condition::Any => true,
            Condition::OneOf(tags) => tags.iter().any(|(weak, tag)| !weak && tag == etag),
        }
    }
}

/// `"a", W/"b,c"`: an entity tag may contain a comma, so the quotes decide where one ends. Parsing stops at the first thing that is not an entity tag.
fn entity_tags(text: &str) -> Vec<(bool, String)> {
    let mut tags = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let Some((opaque, after)) = quoted.strip_prefix('"').and_then(|inner| inner.split_once('"')) else {
            break;
        };
        tags.push((weak, format!("\"{opaque}\"")));
        rest = after.trim_start_matches([' ', '\t', ',']);
    }
    tags
}

/// Documents that an operation honours `If-None-Match`: `params(banyan_http::IfNoneMatch)`.
#[derive(Clone, Copy, Debug)]
pub struct IfNoneMatch;

impl IntoParams for IfNoneMatch {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![header_parameter(
            "If-None-Match",
            "An ETag the client has: if it is still the present one, 304 says so without a body.",
        )]
    }
}

/// `If-Match`: the version that the client wants to change, for a check in the transaction that changes it. It also documents that an operation
/// honours the header: `params(banyan_http::IfMatch)`.
#[derive(Clone, Debug, Default)]
pub struct IfMatch(Option<Condition>);

impl IfMatch {
    fn of(request: &HttpRequest) -> Self {
        IfMatch(Condition::read(request, &header::IF_MATCH))
    }

    /// Whether the client sent the header.
    pub fn is_present(&self) -> bool {
        self.0.is_some()
    }

    /// Refuses the change (412) if the client names another version than the current one, whose entity tag is `etag`. Always allowed without the
    /// header.
    ///
    /// # Errors
    /// `precondition_failed`.
    pub fn check(&self, etag: &str) -> Result<(), Fault> {
        match &self.0 {
            Some(condition) if !condition.holds_strongly(etag) => Err(Fault::new(
                FaultKind::PreconditionFailed,
                "precondition_failed",
                "It has changed since you read it: read it again and repeat the change with its new ETag.",
            )),
            _ => Ok(()),
        }
    }
}

impl FromRequest for IfMatch {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(IfMatch::of(request)))
    }
}

impl IntoParams for IfMatch {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![header_parameter(
            "If-Match",
            "The ETag of the version the client means to change.",
        )]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn request_with(name: HeaderName, values: &[&'static str]) -> HttpRequest {
        values
            .iter()
            .fold(TestRequest::get(), |request, value| {
                request.append_header((name.clone(), *value))
            })
            .to_http_request()
    }

    #[test]
    fn a_client_that_has_the_current_version_gets_304() {
        for values in [
            &["\"7\""][..],
            &["W/\"7\""],
            &["*"],
            &["\"1\", \"7\""],
            &["\"1\"", "\"7\""],
            &["\"a,b\" ,, \"7\""],
        ] {
            let response = ok_with_etag(&request_with(header::IF_NONE_MATCH, values), "\"7\"", &1);
            assert_eq!(response.status(), 304, "{values:?}");
            assert_eq!(response.headers().get(header::ETAG).unwrap(), "\"7\"");
        }
    }

    #[test]
    fn a_client_that_has_another_version_gets_the_body() {
        for values in [&[][..], &["\"8\""], &["7"], &["\"1\", \"8\""], &["\"7"], &["\"1,7\""]] {
            assert_eq!(
                ok_with_etag(&request_with(header::IF_NONE_MATCH, values), "\"7\"", &1).status(),
                200,
                "{values:?}"
            );
        }
    }

    #[test]
    fn a_change_of_an_outdated_version_is_refused_and_a_weak_tag_never_matches() {
        for values in [&[][..], &["\"7\""], &["*"], &["\"1\", \"7\""]] {
            assert_eq!(
                check_if_match(&request_with(header::IF_MATCH, values), "\"7\""),
                Ok(()),
                "{values:?}"
            );
        }
        for values in [&["\"8\""][..], &["W/\"7\""], &["nonsense"], &[""]] {
            let fault = check_if_match(&request_with(header::IF_MATCH, values), "\"7\"").unwrap_err();
            assert_eq!(crate::status_of(&fault), 412, "{values:?}");
        }
    }
}
