//! Forwards requests to modules that are not in this process.
//!
//! [`ModuleClient`] protects the module and balances its instances. After a lost connection a request is sent again, to another instance, only
//! if it is idempotent. A response that has begun is passed to the client, and never retried.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse, HttpResponseBuilder, body::SizedStream, dev::Payload,
    http::StatusCode,
};
use anyhow::{Context, anyhow, ensure};
use banyan_core::{Fault, FaultKind};
use banyan_http::{Anyone, Prefer, Problem, RawBody, RequestContext, RouteTemplate, TimeLimit};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http_body_util::{BodyDataStream, BodyExt, Limited};
use hyper::{
    Method, Response,
    body::Incoming,
    header::{AUTHORIZATION, CONTENT_LENGTH, HeaderName, HeaderValue},
    http::uri::PathAndQuery,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;
use uuid::Uuid;

use banyan_remote::{
    balancing::{
        Attempt, Balancer, BreakerRules, BreakerState, Bulkhead, CallFailure, InstanceState, ModuleClient, Picked,
        Resend,
    },
    discovery::{Address, Discovery, Interface, Probing},
    mtls::Identity,
};

use super::{
    Settings, headers,
    routes::{Found, Operation, RouteTable},
    upstream::{HttpConnector, Upstream, UpstreamRequest},
    waits::Waits,
};

/// The maximum size of a response that [`Proxy::get_json`] reads.
const MAX_JSON_BYTES: usize = 1024 * 1024;
/// The time a request may take beyond its module's timeout: its body arrives before that timeout starts, and the problem that reports the timeout is
/// written after it ends.
const PROBLEM_MARGIN: Duration = Duration::from_secs(9);

/// Forwards requests to the remote modules.
pub struct Proxy {
    table: RouteTable,
    clients: BTreeMap<&'static str, ModuleClient<HttpConnector>>,
    waits: BTreeMap<&'static str, Waits>,
    settings: Settings,
    document: &'static str,
}

impl Proxy {
    /// Forwards requests to these `modules`; `document` is the OpenAPI document of the whole product, which is the route table. Must be called
    /// within a runtime, in which the connections live.
    ///
    /// # Errors
    /// A setting in `[gateway]` or `[mtls]` is wrong; a document without an owner for each operation.
    pub fn start(
        settings: Settings,
        document: &'static str,
        modules: &[&'static str],
        discovery: &Arc<dyn Discovery>,
        probing: Probing,
        identity: Option<&Identity>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Arc<Proxy>> {
        settings.check()?;
        let connector = HttpConnector::new(identity, settings.limits.connect_timeout)?;
        let client = |module: &&'static str| {
            let instances = discovery.watch(module, Interface::Http);
            let balancer = Balancer::start(connector.clone(), instances, probing, stop.clone())
                .measured_as(module, Interface::Http);
            let bulkhead = Bulkhead::new(settings.concurrency, settings.queue);
            let client = ModuleClient::new(module, balancer, BreakerRules::default(), bulkhead, count_attempt);
            (*module, client)
        };
        let clients: BTreeMap<_, _> = modules.iter().map(client).collect();
        let waits = modules.iter().map(|module| (*module, Waits::of(settings.concurrency)));
        // If every module is local, the table is never used.
        let table = if clients.is_empty() {
            RouteTable::default()
        } else {
            RouteTable::read(document)?
        };
        Ok(Arc::new(Proxy {
            table,
            clients,
            waits: waits.collect(),
            settings,
            document,
        }))
    }

    /// The operation that this request is for, if its module is remote.
    pub fn find(&self, method: &str, path: &str) -> Option<Found<'static>> {
        let found = self.table.find(method, path)?;
        let (module, _) = self.clients.get_key_value(found.module)?;
        Some(Found {
            module,
            operation: found.operation,
        })
    }

    /// Whether every module is local.
    pub fn is_idle(&self) -> bool {
        self.clients.is_empty()
    }

    /// The document of every operation this process serves or forwards, as JSON: that of this process alone (`own`) if every module is local.
    ///
    /// # Errors
    /// The document of this process cannot be written, which would be a bug.
    pub fn document(&self, own: &OpenApi) -> anyhow::Result<String> {
        if self.is_idle() {
            Ok(own.to_json()?)
        } else {
            Ok(self.document.to_owned())
        }
    }

    /// The remote modules.
    pub fn modules(&self) -> impl Iterator<Item = &'static str> {
        self.clients.keys().copied()
    }

    /// A remote module's instances; empty for a local module.
    pub fn instances(&self, module: &str) -> Vec<InstanceState> {
        self.clients
            .get(module)
            .map(ModuleClient::instances)
            .unwrap_or_default()
    }

    /// The state of a remote module's breaker.
    pub fn breaker_state(&self, module: &str) -> Option<BreakerState> {
        self.clients.get(module).map(|client| client.breaker_state().0)
    }

    /// Forwards the request to an instance of the module that [`find`](Proxy::find) returned.
    ///
    /// # Errors
    /// 401 for an invalid token where tokens are read (a request without a token is forwarded), 413 and 408 for the body, 503
    /// `module_unavailable` and `module_busy`, 504.
    pub async fn forward(
        &self,
        found: Found<'static>,
        request: HttpRequest,
        mut payload: Payload,
    ) -> Result<HttpResponse, Problem> {
        request
            .extensions_mut()
            .insert(RouteTemplate(found.operation.template.clone()));
        let wait = Prefer::extract(&request).await.unwrap_or_default().wait;
        TimeLimit::raise(
            &request,
            self.settings.timeout() + PROBLEM_MARGIN + wait.unwrap_or_default(),
        );
        let user = match found.operation.reads_tokens {
            true => find_user(&request).await?,
            false => None,
        };
        let RawBody(body) = RawBody::from_request(&request, &mut payload).await?;
        let mut upstream_request = upstream_request(&request, &found.operation, body)?;
        // Held until the response begins, as the permit of the module.
        let permit = wait.and_then(|_| self.waits.get(found.module)?.try_acquire(user));
        let wait = wait.filter(|_| permit.is_some()).unwrap_or_default();
        if permit.is_none() {
            upstream_request.headers.remove("prefer");
        }
        let response = self.send(found.module, &upstream_request, wait).await?;
        Ok(response.into_response(self.settings.limits.response_silence))
    }

    /// Gets `path_and_query` from an instance of `module`, with the access token of the request `from` and in the same trace.
    ///
    /// # Errors
    /// No successful JSON response; the text says why, for logs.
    pub async fn get_json(&self, module: &str, path_and_query: &str, from: &HttpRequest) -> anyhow::Result<Value> {
        let target = PathAndQuery::try_from(path_and_query)?;
        let mut headers = headers::for_instance(from);
        let kept = [
            AUTHORIZATION.as_str(),
            "forwarded",
            "traceparent",
            "tracestate",
            "via",
            "x-request-id",
        ];
        let others: Vec<HeaderName> = headers
            .keys()
            .filter(|name| !kept.contains(&name.as_str()))
            .cloned()
            .collect();
        others.iter().for_each(|name| drop(headers.remove(name)));
        headers.insert(hyper::header::ACCEPT, HeaderValue::from_static("application/json"));
        let request = UpstreamRequest {
            method: Method::GET,
            target,
            headers,
            body: Bytes::new(),
            repeatable: true,
        };
        let Forwarded {
            response,
            picked: _picked,
        } = self.send(module, &request, Duration::ZERO).await?;
        ensure!(
            response.status().is_success(),
            "{module} responded with {}",
            response.status()
        );
        let body = Limited::new(response.into_body(), MAX_JSON_BYTES).collect();
        let reading = tokio::time::timeout(self.settings.timeout(), body);
        let body = reading
            .await
            .context("the response took too long")?
            .map_err(|error| anyhow!(error))?
            .to_bytes();
        serde_json::from_slice(&body).context("the response is not JSON")
    }

    /// The permit in the module's bulkhead is held until its response begins; long streams hold none.
    async fn send(&self, module: &str, request: &UpstreamRequest, wait: Duration) -> Result<Forwarded, Fault> {
        let deadline = Instant::now() + self.settings.timeout() + wait;
        let Some(client) = self.clients.get(module) else {
            return Err(self.unavailable(module));
        };
        let resend = if request.repeatable {
            Resend::IfConnectionLost
        } else {
            Resend::IfNotConnected
        };
        let attempt = |upstream: Upstream, address: Address| async move {
            match upstream.send(request).await {
                Ok(response) => Ok(Attempt {
                    response,
                    is_unavailable: false,
                }),
                Err(failure) => {
                    tracing::warn!(module, instance = %address, %failure, "an instance did not respond");
                    Err(failure)
                }
            }
        };
        match client.call(deadline, resend, attempt).await {
            Ok((response, picked)) => Ok(Forwarded { response, picked }),
            Err(failure) => {
                if !matches!(
                    failure,
                    CallFailure::NotConnected(_) | CallFailure::ConnectionLost(_) | CallFailure::Timeout
                ) {
                    count(client.module(), outcome_of(&failure));
                }
                Err(self.fault(module, request, &failure))
            }
        }
    }

    /// 503 says that nothing happened, 504 that the outcome is unknown.
    fn fault(&self, module: &str, request: &UpstreamRequest, failure: &CallFailure) -> Fault {
        match failure {
            CallFailure::Timeout => Fault::timeout(format!(
                "The module {module} did not respond in time; what happened is not known."
            )),
            CallFailure::ConnectionLost(_) if !request.method.is_safe() => {
                let detail =
                    format!("The connection to {module} broke before it responded; what happened is not known.");
                Fault::new(FaultKind::Timeout, "connection_lost", detail)
            }
            CallFailure::QueueFull | CallFailure::QueueTimeout => {
                let detail = format!("Too many requests to the module {module} are under way; nothing has happened.");
                self.retry_later(Fault::new(FaultKind::Unavailable, "module_busy", detail))
            }
            _ => self.unavailable(module),
        }
    }

    fn unavailable(&self, module: &str) -> Fault {
        let detail = format!("The module {module} cannot be reached now; nothing has happened.");
        self.retry_later(Fault::new(FaultKind::Unavailable, "module_unavailable", detail))
    }

    fn retry_later(&self, fault: Fault) -> Fault {
        fault.retry_after(self.settings.limits.retry_after)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("modules", &self.clients.keys())
            .finish_non_exhaustive()
    }
}

/// A response that has begun, and the instance that sends it: in flight until the last byte.
struct Forwarded {
    response: Response<Incoming>,
    picked: Picked<Upstream>,
}

impl Forwarded {
    /// The response as sent to the client; ended if no part of the body arrives within `silence`.
    fn into_response(self, silence: Duration) -> HttpResponse {
        let (head, body) = self.response.into_parts();
        let status = StatusCode::from_u16(head.status.as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
        let mut response = HttpResponseBuilder::new(status);
        for header in headers::for_client(&head.headers) {
            response.append_header(header);
        }
        let length = head
            .headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let body = parts(body, self.picked, silence);
        match (status, length) {
            (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED, _) => response.finish(),
            (_, Some(length)) => response.body(SizedStream::new(length, body)),
            (_, None) => response.streaming(body),
        }
    }
}

/// The parts of a response's body; the instance counts as busy until the last one. An instance whose host lost power sends nothing, not even the end
/// of the connection, so `silence` ends the response as well: the client sees that it is incomplete, and may retry.
fn parts(body: Incoming, picked: Picked<Upstream>, silence: Duration) -> impl Stream<Item = anyhow::Result<Bytes>> {
    stream::try_unfold(
        (BodyDataStream::new(body), picked),
        move |(mut body, picked)| async move {
            let part = match tokio::time::timeout(silence, body.next()).await {
                Ok(part) => part.transpose().map_err(anyhow::Error::from),
                Err(_) => Err(anyhow!("no data for {} ms", silence.as_millis())),
            };
            let broken = |error: &anyhow::Error| {
                tracing::warn!(instance = %picked.address(), %error, "a response ended before it was complete");
            };
            Ok(part.inspect_err(broken)?.map(|part| (part, (body, picked))))
        },
    )
}

fn count_attempt(module: &'static str, result: Result<(), &CallFailure>) {
    count(module, result.map_or_else(outcome_of, |()| "answered"));
}

/// The label of a failure in the metrics.
fn outcome_of(failure: &CallFailure) -> &'static str {
    match failure {
        CallFailure::NotConnected(_) => "refused",
        CallFailure::ConnectionLost(_) => "broken",
        CallFailure::Timeout => "too_late",
        CallFailure::QueueFull | CallFailure::QueueTimeout => "busy",
        CallFailure::NoInstance | CallFailure::NotServed | CallFailure::NotAllowed(_) => "nobody",
        CallFailure::BreakerOpen(_) => "breaker_open",
    }
}

fn count(module: &'static str, outcome: &'static str) {
    metrics::counter!("banyan_gateway_attempts_total", "module" => module, "outcome" => outcome).increment(1);
}

/// The user whose token the request carries. Every module checks tokens itself; the gateway saves it the bad ones. A token that cannot be checked here,
/// for want of keys, is forwarded.
async fn find_user(request: &HttpRequest) -> Result<Option<Uuid>, Problem> {
    match Anyone::extract(request).await {
        Ok(anyone) => Ok(anyone.call().actor.user_id()),
        Err(Problem(fault)) if fault.kind == FaultKind::Unauthenticated => Err(Problem(fault)),
        Err(_) => Ok(None),
    }
}

fn upstream_request(request: &HttpRequest, operation: &Operation, body: Bytes) -> Result<UpstreamRequest, Fault> {
    let malformed = || Fault::malformed("bad_request", "The request cannot be understood.");
    let method = RequestContext::find(request).map_or_else(|| request.method().clone(), |context| context.method);
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", actix_web::http::uri::PathAndQuery::as_str);
    let method = Method::from_bytes(method.as_str().as_bytes()).map_err(|_| malformed())?;
    let headers = headers::for_instance(request);
    let repeatable = headers::is_idempotent(&method, &headers, operation.remembers_keys);
    Ok(UpstreamRequest {
        method,
        target: PathAndQuery::try_from(target).map_err(|_| malformed())?,
        headers,
        body,
        repeatable,
    })
}
