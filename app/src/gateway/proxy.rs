//! Passing requests on to modules that are not in this binary.
//!
//! An attempt that found no connection is made once more, with another instance. So is one whose connection broke before the answer began, if
//! doing it twice is as good as once. When an answer has begun it is the client's, however it goes on.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

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
use tokio::{sync::SemaphorePermit, time::Instant};
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;

use super::{
    Settings, headers,
    routes::{DOCUMENT, Found, Operation, RouteTable},
    upstream::{HttpReach, Lost, Question, Upstream},
};
use crate::{
    bulkhead::Bulkhead,
    config::{self, MODULES},
    discovery::{
        self, Discovery, Interface,
        rotation::{InstanceState, Picked, Rotation},
    },
    mtls::Identity,
};

/// What [`Proxy::get_json`] takes at most.
const MAX_JSON_BYTES: usize = 1024 * 1024;
/// Beyond the module's time limit a request may take so long: its body arrives before that begins to run, and what is said of a module that was too
/// slow is said after it has run out.
const ROOM_FOR_WORDS: Duration = Duration::from_secs(9);

/// The way to the modules that run elsewhere.
pub struct Proxy {
    table: RouteTable,
    remotes: BTreeMap<&'static str, Remote>,
    settings: Settings,
}

/// One module that runs elsewhere.
struct Remote {
    rotation: Rotation<HttpReach>,
    bulkhead: Bulkhead,
}

/// The way to every module that is not among the `local` ones. Must be called within a runtime, in which the connections live.
///
/// # Errors
/// A setting in `[gateway]`, `[discovery]` or `[mtls]` is wrong.
pub fn proxy(
    settings: &config::Settings,
    discovery: &Arc<dyn Discovery>,
    local: &[&str],
    stop: &CancellationToken,
) -> anyhow::Result<Arc<Proxy>> {
    let own = Settings::read(settings)?;
    let probing: discovery::Settings = settings.section("discovery")?;
    let identity = Identity::load(settings)?;
    let reach = HttpReach::new(identity.as_ref(), Duration::from_millis(own.connect_timeout_ms))?;
    let remote = MODULES.into_iter().filter(|module| !local.contains(module));
    let remotes = remote.map(|module| {
        let instances = discovery.watch(module, Interface::Http);
        let rotation =
            Rotation::start(reach.clone(), instances, &probing, stop.clone()).measured_as(module, Interface::Http);
        (
            module,
            Remote {
                rotation,
                bulkhead: Bulkhead::new(own.concurrency, own.queue),
            },
        )
    });
    let remotes: BTreeMap<_, _> = remotes.collect();
    // Where every module is here nobody looks anything up in it.
    let table = if remotes.is_empty() {
        RouteTable::default()
    } else {
        RouteTable::committed()?
    };
    Ok(Arc::new(Proxy {
        table,
        remotes,
        settings: own,
    }))
}

impl Proxy {
    /// The operation that this request is for, if its module runs elsewhere.
    pub fn find(&self, method: &str, path: &str) -> Option<Found<'static>> {
        let found = self.table.find(method, path)?;
        let (module, _) = self.remotes.get_key_value(found.module)?;
        Some(Found {
            module,
            operation: found.operation,
        })
    }

    /// Whether every module is in this binary.
    pub fn is_idle(&self) -> bool {
        self.remotes.is_empty()
    }

    /// The document of everything that can be asked here, as JSON: of this binary alone if nothing is elsewhere.
    ///
    /// # Errors
    /// The document of this binary cannot be written, which would be a bug.
    pub fn document(&self, own: &OpenApi) -> anyhow::Result<String> {
        if self.is_idle() {
            Ok(own.to_json()?)
        } else {
            Ok(DOCUMENT.to_owned())
        }
    }

    /// The remote modules and their instances.
    pub fn states(&self) -> BTreeMap<&'static str, Vec<InstanceState>> {
        self.remotes
            .iter()
            .map(|(module, remote)| (*module, remote.rotation.states()))
            .collect()
    }

    /// Has the request answered by an instance of the module it was [found](Proxy::find) to be for.
    ///
    /// # Errors
    /// 401 for a token that is not valid where one is read (without one the module decides), 413 and 408 for the body, 503
    /// `module_unavailable` and `module_busy`, 504.
    pub async fn pass_on(
        &self,
        found: Found<'static>,
        request: HttpRequest,
        mut payload: Payload,
    ) -> Result<HttpResponse, Problem> {
        request
            .extensions_mut()
            .insert(RouteTemplate(found.operation.template.clone()));
        let wait = Prefer::extract(&request)
            .await
            .unwrap_or_default()
            .wait
            .unwrap_or_default();
        TimeLimit::raise(
            &request,
            Duration::from_millis(self.settings.timeout_ms) + ROOM_FOR_WORDS + wait,
        );
        if found.operation.reads_tokens {
            refuse_bad_token(&request).await?;
        }
        let RawBody(body) = RawBody::from_request(&request, &mut payload).await?;
        let question = question(&request, &found.operation, body)?;
        let answered = self.ask(found.module, &question, wait).await?;
        Ok(answered.into_response(Duration::from_millis(self.settings.answer_silence_ms)))
    }

    /// Asks an instance of `module` for `path_and_query`, in the name of whoever sent `from` and in the same trace.
    ///
    /// # Errors
    /// There is no such answer; says why, for logs.
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
        let question = Question {
            method: Method::GET,
            target,
            headers,
            body: Bytes::new(),
            repeatable: true,
        };
        let Answered {
            answer,
            picked: _picked,
        } = self.ask(module, &question, Duration::ZERO).await?;
        ensure!(answer.status().is_success(), "{module} answered {}", answer.status());
        let limit = Duration::from_millis(self.settings.timeout_ms);
        let reading = tokio::time::timeout(limit, Limited::new(answer.into_body(), MAX_JSON_BYTES).collect());
        let body = reading
            .await
            .context("the answer took too long")?
            .map_err(|error| anyhow!(error))?
            .to_bytes();
        serde_json::from_slice(&body).context("the answer is not JSON")
    }

    async fn ask(&self, module: &str, question: &Question, wait: Duration) -> Result<Answered, Fault> {
        let until = Instant::now() + Duration::from_millis(self.settings.timeout_ms) + wait;
        let Some(Remote { rotation, bulkhead }) = self.remotes.get(module) else {
            return Err(self.away(module));
        };
        // A place is kept until the answer begins: streams that go on for long take none.
        let _place = self.enter(module, bulkhead, until).await?;
        let Some(first) = rotation.pick() else {
            measure(module, "nobody");
            return Err(self.away(module));
        };
        let lost = match attempt(module, &first, question, until).await {
            Ok(answer) => return Ok(Answered { answer, picked: first }),
            Err(lost) => lost,
        };
        let other = match &lost {
            Lost::Refused(_) => rotation.pick_other(&first),
            Lost::Broken(_) if question.repeatable => rotation.pick_other(&first),
            Lost::Broken(_) | Lost::TooLate => None,
        };
        drop(first);
        let Some(other) = other else {
            return Err(self.fault(module, question, &[lost]));
        };
        match attempt(module, &other, question, until).await {
            Ok(answer) => Ok(Answered { answer, picked: other }),
            Err(again) => Err(self.fault(module, question, &[lost, again])),
        }
    }

    /// A place among the requests to this module, so that one that hangs takes only its share of this process.
    async fn enter<'b>(
        &self,
        module: &str,
        bulkhead: &'b Bulkhead,
        until: Instant,
    ) -> Result<SemaphorePermit<'b>, Fault> {
        if let Some(place) = bulkhead.try_enter() {
            return Ok(place);
        }
        if let Ok(Ok(place)) = tokio::time::timeout_at(until, bulkhead.enter()).await {
            return Ok(place);
        }
        measure(module, "busy");
        let detail = format!("Too many requests to the module {module} are under way; nothing has happened.");
        Err(self.come_back(Fault::new(FaultKind::Unavailable, "module_busy", detail)))
    }

    /// 503 says that nothing happened, 504 that nobody knows.
    fn fault(&self, module: &str, question: &Question, attempts: &[Lost]) -> Fault {
        let sent = attempts
            .iter()
            .any(|lost| matches!(lost, Lost::Broken(_) | Lost::TooLate));
        if attempts.contains(&Lost::TooLate) {
            too_late(module)
        } else if sent && !question.method.is_safe() {
            let detail = format!("The connection to {module} broke before it answered; what happened is not known.");
            Fault::new(FaultKind::Timeout, "connection_lost", detail)
        } else {
            self.away(module)
        }
    }

    fn away(&self, module: &str) -> Fault {
        let detail = format!("The module {module} cannot be reached now; nothing has happened.");
        self.come_back(Fault::new(FaultKind::Unavailable, "module_unavailable", detail))
    }

    fn come_back(&self, fault: Fault) -> Fault {
        fault.retry_after(Duration::from_secs(self.settings.retry_after_s))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("remote", &self.remotes.keys())
            .finish_non_exhaustive()
    }
}

/// An answer that has begun, and who gives it: in flight until its last byte.
struct Answered {
    answer: Response<Incoming>,
    picked: Picked<Upstream>,
}

impl Answered {
    /// As the client gets it; ended if nothing comes for as long as `silence`.
    fn into_response(self, silence: Duration) -> HttpResponse {
        let (head, body) = self.answer.into_parts();
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

/// The parts of an answer's body; whoever gives it is in flight as long as that goes on. An instance whose host has lost its power says nothing, not
/// even that the connection is over, so silence ends the answer as well: the client sees that it is not whole, and may ask again.
fn parts(body: Incoming, picked: Picked<Upstream>, silence: Duration) -> impl Stream<Item = anyhow::Result<Bytes>> {
    stream::try_unfold(
        (BodyDataStream::new(body), picked),
        move |(mut body, picked)| async move {
            let part = match tokio::time::timeout(silence, body.next()).await {
                Ok(part) => part.transpose().map_err(anyhow::Error::from),
                Err(_) => Err(anyhow!("nothing came for {} ms", silence.as_millis())),
            };
            let broken = |error: &anyhow::Error| tracing::warn!(instance = %picked.address(), %error, "an answer broke off on its way through");
            Ok(part.inspect_err(broken)?.map(|part| (part, (body, picked))))
        },
    )
}

async fn attempt(
    module: &str,
    picked: &Picked<Upstream>,
    question: &Question,
    until: Instant,
) -> Result<Response<Incoming>, Lost> {
    let asked = tokio::time::timeout_at(until, picked.connection().ask(question))
        .await
        .unwrap_or(Err(Lost::TooLate));
    let outcome = match &asked {
        Ok(_) => "answered",
        Err(Lost::Refused(_)) => "refused",
        Err(Lost::Broken(_)) => "broken",
        Err(Lost::TooLate) => "too_late",
    };
    measure(module, outcome);
    if let Err(lost) = &asked {
        tracing::warn!(module, instance = %picked.address(), %lost, "an instance did not answer");
        if matches!(lost, Lost::Refused(_)) {
            picked.refused();
        }
    }
    asked
}

fn measure(module: &str, outcome: &'static str) {
    metrics::counter!("banyan_gateway_attempts_total", "module" => module.to_owned(), "outcome" => outcome)
        .increment(1);
}

/// Every module checks tokens for itself; a bad one need not get that far. Who cannot be checked here is checked there.
async fn refuse_bad_token(request: &HttpRequest) -> Result<(), Problem> {
    match Anyone::extract(request).await {
        Err(Problem(fault)) if fault.kind == FaultKind::Unauthenticated => Err(Problem(fault)),
        _ => Ok(()),
    }
}

fn question(request: &HttpRequest, operation: &Operation, body: Bytes) -> Result<Question, Fault> {
    let malformed = || Fault::malformed("bad_request", "The request cannot be understood.");
    let method = RequestContext::find(request).map_or_else(|| request.method().clone(), |context| context.method);
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", actix_web::http::uri::PathAndQuery::as_str);
    let method = Method::from_bytes(method.as_str().as_bytes()).map_err(|_| malformed())?;
    let headers = headers::for_instance(request);
    let repeatable = headers::is_idempotent(&method, &headers, operation.remembers_keys);
    Ok(Question {
        method,
        target: PathAndQuery::try_from(target).map_err(|_| malformed())?,
        headers,
        body,
        repeatable,
    })
}

fn too_late(module: &str) -> Fault {
    Fault::timeout(format!(
        "The module {module} did not answer in time; what happened is not known."
    ))
}
