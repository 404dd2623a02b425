//! One request and its response: what outlives the request object, and the finish of every response.

use std::time::Instant;

use actix_web::{
    Error, HttpMessage, HttpRequest, HttpResponse, ResponseError,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
};
use banyan_core::{Fault, FaultKind};
use tracing::Span;

use super::{
    ShellSettings,
    ids::{X_REQUEST_ID, request_id, trace},
    measured,
};
use crate::{
    RequestContext, RouteTemplate, StoredResponse,
    problem::{self, Occurrence},
};

/// What is kept of a request when the request object is gone.
pub struct Exchange {
    pub context: RequestContext,
    method: Method,
    path: String,
    pub begun: Instant,
    tls_only: bool,
}

impl Exchange {
    pub fn begin(request: &ServiceRequest, settings: &ShellSettings) -> Self {
        let ids = settings.ids.as_ref();
        let context = RequestContext {
            request_id: request_id(request.headers(), ids),
            trace: trace(request.headers(), ids),
            method: request.method().clone(),
        };
        Exchange {
            context,
            method: request.method().clone(),
            path: request.path().to_owned(),
            begun: Instant::now(),
            tls_only: settings.tls_only,
        }
    }

    pub fn span(&self) -> Span {
        tracing::info_span!(
            target: "http",
            "request",
            method = %self.method,
            path = %self.path,
            request_id = %self.context.request_id,
            trace_id = %self.context.trace.trace_id(),
        )
    }

    fn occurrence(&self) -> Occurrence {
        Occurrence {
            instance: self.path.clone(),
            trace_id: self.context.trace.trace_id().to_owned(),
        }
    }

    pub fn finish_response(&self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
        let mut response = match fault_in(&response) {
            None => response,
            Some(fault) => {
                let mut rendered = problem::render(&fault, &self.occurrence());
                for (name, value) in response.headers() {
                    if !matches!(*name, header::CONTENT_TYPE | header::CONTENT_LENGTH)
                        && !rendered.headers().contains_key(name)
                    {
                        rendered.headers_mut().append(name.clone(), value.clone());
                    }
                }
                response.into_response(rendered)
            }
        };
        self.add_headers(response.headers_mut());
        response
    }

    pub fn finish_fault(&self, fault: &Fault) -> RenderedFault {
        if fault.kind == FaultKind::Internal {
            tracing::error!(code = %fault.code, detail = %fault.detail, "a request failed with an internal fault");
        }
        let mut response = problem::render(fault, &self.occurrence());
        self.add_headers(response.headers_mut());
        let headers = response.headers().iter();
        let headers = headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
            .collect();
        let body = problem::ProblemBody::of(fault, &self.occurrence()).to_json();
        RenderedFault(StoredResponse {
            status: response.status().as_u16(),
            headers,
            body,
        })
    }

    fn add_headers(&self, headers: &mut HeaderMap) {
        if let Ok(id) = HeaderValue::from_str(&self.context.request_id) {
            headers.insert(X_REQUEST_ID, id);
        }
        let mut set = |name: HeaderName, value: &'static str| {
            if !headers.contains_key(&name) {
                headers.insert(name, HeaderValue::from_static(value));
            }
        };
        set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(header::X_FRAME_OPTIONS, "DENY");
        set(header::REFERRER_POLICY, "no-referrer");
        if self.tls_only {
            set(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
        }
        name_charset(headers);
        let kind = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let policy = if kind.as_deref().is_some_and(|kind| kind.starts_with("text/html")) {
            PAGE_POLICY
        } else {
            "default-src 'none'; frame-ancestors 'none'"
        };
        set_absent(headers, header::CONTENT_SECURITY_POLICY, policy);
        if kind.is_none_or(|kind| kind.contains("json")) {
            set_absent(headers, header::CACHE_CONTROL, "no-store");
        }
    }

    pub fn record(&self, result: &Result<ServiceResponse<BoxBody>, RenderedFault>) {
        let (status, route) = match result {
            Ok(response) => (response.status(), route_of(response.request())),
            Err(rendered) => (rendered.status_code(), None),
        };
        let elapsed = self.begun.elapsed();
        measured::record(route.as_deref(), &self.method, status, elapsed);
        let (status, elapsed_ms) = (status.as_u16(), u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        if status >= 500 {
            tracing::warn!(target: "http", status, elapsed_ms, "responded");
        } else {
            tracing::info!(target: "http", status, elapsed_ms, "responded");
        }
    }
}

fn route_of(request: &HttpRequest) -> Option<String> {
    let template = request
        .extensions()
        .get::<RouteTemplate>()
        .map(|RouteTemplate(template)| template.to_string());
    template.or_else(|| request.match_pattern())
}

fn set_absent(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    if !headers.contains_key(&name) {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// What a page may load: from this server alone, and no other site may frame it. Swagger UI sets styles in its elements.
const PAGE_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'none'; \
                           form-action 'self'; frame-ancestors 'none'";

/// Text without a charset is read in one that the browser guesses.
fn name_charset(headers: &mut HeaderMap) {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let Some(kind) =
        kind.filter(|kind| kind.starts_with("text/") && !kind.contains("charset") && !kind.contains("event-stream"))
    else {
        return;
    };
    if let Ok(kind) = HeaderValue::from_str(&format!("{kind}; charset=utf-8")) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
}

/// The fault behind a response, if it is an error that is not rendered as a problem yet.
fn fault_in(response: &ServiceResponse<BoxBody>) -> Option<Fault> {
    if let Some(error) = response.response().error() {
        return Some(fault_of_error(error));
    }
    let status = response.status();
    let failed = status.is_client_error() || status.is_server_error();
    let kind = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    (failed && !kind.contains("json")).then(|| problem::fault_of_status(status))
}

pub fn fault_of_error(error: &Error) -> Fault {
    if let Some(problem) = error.as_error::<crate::Problem>() {
        return problem.0.clone();
    }
    let status = error.as_response_error().status_code();
    let mut fault = problem::fault_of_status(status);
    if status.is_server_error() {
        fault.detail = error.to_string();
    }
    fault
}

/// The response to a fault, as an error of the service.
#[derive(Debug)]
pub struct RenderedFault(StoredResponse);

impl std::fmt::Display for RenderedFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "responded with {}", self.0.status)
    }
}

impl ResponseError for RenderedFault {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        self.0.clone().into_response()
    }
}
