//! How a [`Fault`] looks to a client: `application/problem+json` of RFC 9457.
//!
//! A handler returns `Err(Problem)`; the shell renders it again with what only the request knows (`instance`, `trace_id`).

use actix_web::{
    HttpResponse, ResponseError,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
};
use banyan_core::{Fault, FaultKind, FieldError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// A fault as an error of a handler.
#[derive(Clone, Debug)]
pub struct Problem(pub Fault);

/// What every error looks like (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// Names the sort of problem; stable.
    #[serde(rename = "type")]
    #[schema(format = "uri-reference", example = "https://banyan.example/problems/not_found")]
    pub kind: String,
    /// The sort of problem in words, the same for all of its sort.
    #[schema(example = "Not found")]
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599, example = 404)]
    pub status: u16,
    /// Stable and snake_case, for programs to branch on.
    #[schema(example = "not_found")]
    pub code: String,
    /// What went wrong this time, in a sentence.
    pub detail: String,
    /// The path of the request.
    pub instance: String,
    /// Finds this request in logs and traces.
    pub trace_id: String,
    /// The fields that broke a rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<FieldError>,
}

/// Which request a problem belongs to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Occurrence {
    pub instance: String,
    pub trace_id: String,
}

/// Codes of this crate with a more specific status than that of their kind. Kinds of faults are about meaning; only HTTP makes these distinctions.
const STATUS_OF_CODE: [(&str, StatusCode); 8] = [
    ("misdirected_request", StatusCode::MISDIRECTED_REQUEST),
    ("method_not_allowed", StatusCode::METHOD_NOT_ALLOWED),
    ("not_acceptable", StatusCode::NOT_ACCEPTABLE),
    ("request_timeout", StatusCode::REQUEST_TIMEOUT),
    ("body_too_large", StatusCode::PAYLOAD_TOO_LARGE),
    ("unsupported_media_type", StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ("expectation_failed", StatusCode::EXPECTATION_FAILED),
    ("header_fields_too_large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
];

/// The HTTP status of a fault.
pub fn status_of(fault: &Fault) -> StatusCode {
    if let Some((_, status)) = STATUS_OF_CODE.iter().find(|(code, _)| *code == fault.code) {
        return *status;
    }
    match fault.kind {
        FaultKind::Malformed => StatusCode::BAD_REQUEST,
        FaultKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        FaultKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        FaultKind::Forbidden => StatusCode::FORBIDDEN,
        FaultKind::NotFound => StatusCode::NOT_FOUND,
        FaultKind::Conflict => StatusCode::CONFLICT,
        FaultKind::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        FaultKind::TooMany => StatusCode::TOO_MANY_REQUESTS,
        FaultKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        FaultKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        FaultKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// The fault for a status that the framework responded with.
pub(crate) fn fault_of_status(status: StatusCode) -> Fault {
    let reason = status.canonical_reason().unwrap_or("Error");
    if let Some((code, _)) = STATUS_OF_CODE.iter().find(|(_, known)| *known == status) {
        return Fault::malformed(code, format!("{reason}."));
    }
    match status.as_u16() {
        401 => Fault::unauthenticated("unauthenticated", "This needs an access token."),
        403 => Fault::forbidden("This is not allowed."),
        404 => Fault::not_found("resource"),
        409 => Fault::conflict("conflict", "The present state does not allow this."),
        412 => Fault::new(
            FaultKind::PreconditionFailed,
            "precondition_failed",
            "The condition does not hold.",
        ),
        422 => Fault::invalid("invalid", "The request breaks a rule."),
        429 => Fault::new(FaultKind::TooMany, "too_many_requests", "Too many requests."),
        502 | 503 => Fault::unavailable("The service is unavailable at the moment."),
        504 => Fault::timeout("The response did not arrive in time."),
        500.. => Fault::internal("internal_error", format!("the framework responded with {status}")),
        _ => Fault::malformed("bad_request", "The request cannot be understood."),
    }
}

impl ProblemBody {
    /// What a client may see of `fault`: of an internal one only that it happened.
    pub(crate) fn of(fault: &Fault, occurrence: &Occurrence) -> Self {
        let internal = fault.kind == FaultKind::Internal;
        let (code, detail) = if internal {
            (
                "internal_error",
                "Something went wrong on our side. It has been logged under this trace_id.",
            )
        } else {
            (fault.code.as_str(), fault.detail.as_str())
        };
        ProblemBody {
            kind: format!("https://banyan.example/problems/{code}"),
            title: title_of(code),
            status: status_of(fault).as_u16(),
            code: code.to_owned(),
            detail: detail.to_owned(),
            instance: occurrence.instance.clone(),
            trace_id: occurrence.trace_id.clone(),
            errors: if internal { Vec::new() } else { fault.errors.clone() },
        }
    }

    pub(crate) fn to_json(&self) -> String {
        // Strings and numbers can always be serialized.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// `idempotency_key_reused` reads `Idempotency key reused`.
pub(crate) fn title_of(code: &str) -> String {
    let words = code.replace('_', " ");
    let mut letters = words.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

/// The headers that belong to a fault.
pub(crate) fn headers_of(fault: &Fault) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    if let Some(wait) = fault.retry_after {
        // Whole seconds, at least one.
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        headers.extend(
            HeaderValue::from_str(&seconds.to_string())
                .ok()
                .map(|value| (header::RETRY_AFTER, value)),
        );
    }
    // RFC 6750, section 3: no error attribute without a token.
    let challenge = match (fault.kind, fault.code.as_str()) {
        (FaultKind::Unauthenticated, "invalid_token") => Some(r#"Bearer realm="banyan", error="invalid_token""#),
        (FaultKind::Unauthenticated, _) => Some(r#"Bearer realm="banyan""#),
        (FaultKind::Forbidden, "insufficient_role") => Some(r#"Bearer realm="banyan", error="insufficient_scope""#),
        _ => None,
    };
    headers.extend(challenge.map(|value| (header::WWW_AUTHENTICATE, HeaderValue::from_static(value))));
    headers
}

/// The complete response.
pub(crate) fn render(fault: &Fault, occurrence: &Occurrence) -> HttpResponse {
    let mut response = HttpResponse::build(status_of(fault))
        .insert_header((header::CONTENT_TYPE, PROBLEM_JSON))
        .body(ProblemBody::of(fault, occurrence).to_json());
    for (name, value) in headers_of(fault) {
        response.headers_mut().insert(name, value);
    }
    response
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Problem(fault)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        status_of(&self.0)
    }

    fn error_response(&self) -> HttpResponse {
        if self.0.kind == FaultKind::Internal {
            tracing::error!(code = %self.0.code, detail = %self.0.detail, "a request failed with an internal fault");
        }
        render(&self.0, &Occurrence::default())
    }
}
