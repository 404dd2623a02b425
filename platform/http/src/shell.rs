//! The shell every server wears: request id, trace, time limit, problem+json for whatever goes wrong, security headers, measurements.
//!
//! Wrap it last, so that it is outermost: `App::new()...wrap(rate_limit).wrap(banyan_http::shell(settings))`.

use std::{
    cell::Cell,
    future::{Ready, ready},
    panic::AssertUnwindSafe,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    Error, HttpMessage, HttpRequest, HttpResponse, ResponseError,
    body::{BoxBody, MessageBody},
    dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready},
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
};
use banyan_core::{Fault, FaultKind, Ids, RandomIds, TraceParent};
use futures::future::{FutureExt, LocalBoxFuture};
use tokio::time::{error::Elapsed, timeout_at};
use tracing::{Instrument, Span};

use crate::{
    Prefer, Problem, RequestContext, RouteTemplate, StoredResponse,
    problem::{self, Occurrence},
};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID_LENGTH: usize = 128;
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct ShellSettings {
    /// How long a request may take until its answer begins; what it asked for with `Prefer: wait` comes on top.
    pub time_limit: Duration,
    /// Where request and trace ids come from.
    pub ids: Arc<dyn Ids>,
}

impl Default for ShellSettings {
    fn default() -> Self {
        ShellSettings {
            time_limit: Duration::from_secs(10),
            ids: Arc::new(RandomIds),
        }
    }
}

/// Put into each request by the shell: how long it may take until its answer begins.
#[derive(Clone, Debug)]
pub struct TimeLimit(Rc<Cell<Duration>>);

impl TimeLimit {
    /// This request, and no other, may take at least so long from its beginning: for whoever waits for somebody else's time limit.
    pub fn raise(request: &HttpRequest, to: Duration) {
        if let Some(TimeLimit(limit)) = request.extensions().get() {
            limit.set(limit.get().max(to));
        }
    }

    async fn keep<T>(&self, begun: Instant, working: impl Future<Output = T>) -> Result<T, Elapsed> {
        let mut working = pin!(working);
        loop {
            let limit = self.0.get();
            match timeout_at((begun + limit).into(), working.as_mut()).await {
                // It was raised in the meantime.
                Err(_) if self.0.get() > limit => {}
                ended => return ended,
            }
        }
    }
}

/// The middleware; see the module.
#[derive(Clone, Debug)]
pub struct Shell(ShellSettings);

/// The shell to wrap an actix `App` in.
pub fn shell(settings: ShellSettings) -> Shell {
    Shell(settings)
}

impl<S, B> Transform<S, ServiceRequest> for Shell
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Transform = InShell<S>;
    type InitError = ();
    type Future = Ready<Result<InShell<S>, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(InShell {
            service: Rc::new(service),
            settings: self.0.clone(),
        }))
    }
}

/// A service in its shell.
#[derive(Debug)]
pub struct InShell<S> {
    service: Rc<S>,
    settings: ShellSettings,
}

impl<S, B> Service<ServiceRequest> for InShell<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Error>>;

    forward_ready!(service);

    fn call(&self, mut request: ServiceRequest) -> Self::Future {
        let asked = Asked::of(&request, self.settings.ids.as_ref());
        let wait = Prefer::read(request.headers()).wait.unwrap_or_default();
        let time_limit = TimeLimit(Rc::new(Cell::new(self.settings.time_limit + wait)));
        // A HEAD is a GET whose body is not sent, and not sending it is what the server does by itself (RFC 9110, section 9.3.2).
        if request.method() == Method::HEAD {
            request.head_mut().method = Method::GET;
        }
        request.extensions_mut().insert(asked.context.clone());
        request.extensions_mut().insert(time_limit.clone());
        let service = self.service.clone();
        let span = asked.span();
        let head_fits = head_bytes(&request) <= MAX_HEAD_BYTES;
        async move {
            let working = AssertUnwindSafe(async {
                if !head_fits {
                    let detail = format!("The request line and headers may have {MAX_HEAD_BYTES} bytes.");
                    return Err(Problem(Fault::malformed("header_fields_too_large", detail)).into());
                }
                service.call(request).await
            })
            .catch_unwind();
            let result = match time_limit.keep(asked.begun, working).await {
                Ok(Ok(Ok(response))) => Ok(asked.dress_response(response.map_into_boxed_body())),
                Ok(Ok(Err(error))) => Err(fault_of_error(&error)),
                Ok(Err(panic)) => Err(Fault::internal("panicked", words_of(panic.as_ref()))),
                Err(_) => Err(Fault::timeout(
                    "The answer did not come in time; what happened is not known.",
                )),
            };
            // Without an answer there is no way back to the request, so the rest of the way is an error that knows how it looks.
            let result = result.map_err(|fault| asked.dress_fault(&fault));
            asked.measure(&result);
            result.map_err(Error::from)
        }
        .instrument(span)
        .boxed_local()
    }
}

/// As it came over the wire, or nearly: method, target and headers with their separators.
fn head_bytes(request: &ServiceRequest) -> usize {
    let line = request.method().as_str().len() + request.uri().to_string().len() + 12;
    line + request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum::<usize>()
}

/// What is kept of a request for the time when it is gone.
struct Asked {
    context: RequestContext,
    method: Method,
    path: String,
    begun: Instant,
}

impl Asked {
    fn of(request: &ServiceRequest, ids: &dyn Ids) -> Self {
        let context = RequestContext {
            request_id: request_id(request.headers(), ids),
            trace: trace(request.headers(), ids),
            method: request.method().clone(),
        };
        Asked {
            context,
            method: request.method().clone(),
            path: request.path().to_owned(),
            begun: Instant::now(),
        }
    }

    fn span(&self) -> Span {
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

    fn dress_response(&self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
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

    fn dress_fault(&self, fault: &Fault) -> Dressed {
        if fault.kind == FaultKind::Internal {
            tracing::error!(code = %fault.code, detail = %fault.detail, "a request met a fault of ours");
        }
        let mut response = problem::render(fault, &self.occurrence());
        self.add_headers(response.headers_mut());
        let headers = response.headers().iter();
        let headers = headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
            .collect();
        let body = problem::ProblemBody::of(fault, &self.occurrence()).to_json();
        Dressed(StoredResponse {
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
        // Pages (the documentation, the console) say for themselves what they may load.
        if is_data(headers) {
            set_absent(
                headers,
                header::CONTENT_SECURITY_POLICY,
                "default-src 'none'; frame-ancestors 'none'",
            );
            set_absent(headers, header::CACHE_CONTROL, "no-store");
        }
    }

    fn measure(&self, result: &Result<ServiceResponse<BoxBody>, Dressed>) {
        let (status, route) = match result {
            Ok(response) => (response.status().as_u16(), route_of(response.request())),
            Err(dressed) => (dressed.0.status, None),
        };
        let elapsed = self.begun.elapsed();
        // The pattern and not the path: ids in labels would make a time series each.
        let labels = [
            ("method", known_method(&self.method).to_owned()),
            ("route", route.unwrap_or_else(|| "none".to_owned())),
            ("status", status.to_string()),
        ];
        metrics::counter!("http_requests_total", &labels).increment(1);
        metrics::histogram!("http_request_duration_seconds", &labels[..2]).record(elapsed.as_secs_f64());
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if status >= 500 {
            tracing::warn!(target: "http", status, elapsed_ms, "answered");
        } else {
            tracing::info!(target: "http", status, elapsed_ms, "answered");
        }
    }
}

fn route_of(request: &HttpRequest) -> Option<String> {
    let answered_as = request
        .extensions()
        .get::<RouteTemplate>()
        .map(|RouteTemplate(route)| route.to_string());
    answered_as.or_else(|| request.match_pattern())
}

fn set_absent(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    if !headers.contains_key(&name) {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn is_data(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_none_or(|kind| kind.contains("json"))
}

/// Anybody can send any word as a method; only the usual ones become labels.
fn known_method(method: &Method) -> &str {
    match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known,
        _ => "other",
    }
}

/// The fault behind an answer, if it is one and is not dressed yet.
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

fn fault_of_error(error: &Error) -> Fault {
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

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(|words| (*words).to_owned());
    words
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a handler panicked".to_owned())
}

/// A sane id of the client's is kept, so that it finds its request in our logs.
fn request_id(headers: &HeaderMap, ids: &dyn Ids) -> String {
    let sane = |id: &&str| {
        (1..=MAX_REQUEST_ID_LENGTH).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    };
    let given = headers
        .get(X_REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(sane);
    given.map_or_else(|| ids.new_id().to_string(), str::to_owned)
}

/// The client's trace goes on, with a span of ours as the parent of what follows (W3C Trace Context, section 3.4); without one a trace begins.
fn trace(headers: &HeaderMap, ids: &dyn Ids) -> TraceParent {
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

/// An answer on its way out as an error.
#[derive(Debug)]
struct Dressed(StoredResponse);

impl std::fmt::Display for Dressed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "answered {}", self.0.status)
    }
}

impl ResponseError for Dressed {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        self.0.clone().into_response()
    }
}
