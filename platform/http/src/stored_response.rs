//! A response as data: it can be stored with the idempotency key of its request and replayed byte for byte.

use actix_web::{
    HttpRequest, HttpResponse, Responder,
    body::BoxBody,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
};
use banyan_core::Fault;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::problem::{self, Occurrence, PROBLEM_JSON, ProblemBody};

const APPLICATION_JSON: &str = "application/json";

/// Status, headers and body of a response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredResponse {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl StoredResponse {
    /// JSON with this status.
    pub fn json(status: StatusCode, body: &impl Serialize) -> Self {
        match serde_json::to_string(body) {
            Ok(body) => StoredResponse {
                status: status.as_u16(),
                headers: vec![content_type(APPLICATION_JSON)],
                body,
            },
            Err(error) => StoredResponse::problem(&unwritable(&error), &Occurrence::default()),
        }
    }

    /// 204.
    pub fn no_content() -> Self {
        StoredResponse::empty(StatusCode::NO_CONTENT)
    }

    /// A response that its status says everything about.
    pub fn empty(status: StatusCode) -> Self {
        StoredResponse {
            status: status.as_u16(),
            headers: Vec::new(),
            body: String::new(),
        }
    }

    pub(crate) fn problem(fault: &Fault, occurrence: &Occurrence) -> Self {
        let mut headers = vec![content_type(PROBLEM_JSON)];
        for (name, value) in problem::headers_of(fault) {
            headers.push((name.as_str().to_owned(), value.to_str().unwrap_or_default().to_owned()));
        }
        StoredResponse {
            status: problem::status_of(fault).as_u16(),
            headers,
            body: ProblemBody::of(fault, occurrence).to_json(),
        }
    }

    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.push((name.as_str().to_owned(), value.to_owned()));
        self
    }

    pub fn with_etag(self, etag: &str) -> Self {
        self.with_header(header::ETAG, etag)
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn into_response(self) -> HttpResponse {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = HttpResponse::build(status).body(self.body);
        response.headers_mut().remove(header::CONTENT_TYPE);
        for (name, value) in self.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                response.headers_mut().append(name, value);
            }
        }
        response
    }
}

/// Only a map whose keys are not strings cannot be serialized. That is a bug, but it must not panic the worker.
fn unwritable(error: &serde_json::Error) -> Fault {
    Fault::internal("unwritable_answer", error.to_string())
}

fn content_type(kind: &str) -> (String, String) {
    (header::CONTENT_TYPE.as_str().to_owned(), kind.to_owned())
}

impl From<StoredResponse> for HttpResponse {
    fn from(response: StoredResponse) -> Self {
        response.into_response()
    }
}

impl Responder for StoredResponse {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        self.into_response()
    }
}

/// 201 with `Location` and, for a resource that has one, its `ETag`.
pub fn created(location: &str, etag: Option<&str>, body: &impl Serialize) -> StoredResponse {
    let response = StoredResponse::json(StatusCode::CREATED, body).with_header(header::LOCATION, location);
    match etag {
        Some(etag) => response.with_etag(etag),
        None => response,
    }
}

/// 200.
pub fn ok(body: &impl Serialize) -> StoredResponse {
    StoredResponse::json(StatusCode::OK, body)
}

/// The body of a response that is sent more than once: see [`ok_json`].
///
/// # Errors
/// A map whose keys are not strings, which is a bug.
pub fn to_json(body: &impl Serialize) -> Result<Bytes, Fault> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|error| unwritable(&error))
}

/// 200, with JSON that was serialized before. Its bytes are shared and not copied.
pub fn ok_json(body: Bytes) -> HttpResponse {
    HttpResponse::Ok().content_type(APPLICATION_JSON).body(body)
}
