//! The way to one module that runs elsewhere: every call of this process to it goes through its one edge.
//!
//! In this order: the bulkhead (so many calls at once, so many waiting), the breaker (a module that was found away is not waited for), the time
//! limit, and an instance in rotation. Where no connection could be made, nothing was sent, and one more attempt is made at another instance.
//! Nothing else is repeated here: what may have arrived is repeated by sagas and reactions alone, under the same `command_id`.
//!
//! What counts against the module in the breaker: no instance, no connection, a connection lost, no answer in time, and its own answer that it
//! is `unavailable` or out of time (its database is away, its queues are full), because asking it more helps neither side. Every other fault is
//! an answer, and shows that it is there.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use banyan_core::{Call, timeout_from_header, timeout_to_header};
use futures::{FutureExt, future::BoxFuture};
use http_body_util::{BodyExt, Full, Limited};
use tokio::{sync::SemaphorePermit, time::timeout_at};
use tonic::{
    Status,
    body::Body,
    codegen::{
        Bytes, Service,
        http::{self, HeaderMap, HeaderValue},
    },
    transport::Channel,
};

use super::{
    MESSAGE_BYTES, RemoteState, Settings,
    breaker::{Admission, Breaker, BreakerState, Outcome},
    instances::Instances,
    wire::{self, Failure},
};
use crate::{
    bulkhead::Bulkhead,
    discovery::rotation::{Picked, Rotation},
};

/// A gRPC channel to whichever instances of one module are well. Clones are the same edge.
#[derive(Clone)]
pub struct Edge(Arc<Inner>);

struct Inner {
    module: &'static str,
    rotation: Rotation<Instances>,
    breaker: Mutex<Breaker>,
    bulkhead: Bulkhead,
    timeout: Duration,
}

impl Edge {
    pub fn new(module: &'static str, rotation: Rotation<Instances>, settings: &Settings) -> Self {
        let breaker = Mutex::new(Breaker::new(settings.breaker_rules(), Instant::now()));
        let bulkhead = Bulkhead::new(settings.concurrency, settings.queue);
        Edge(Arc::new(Inner {
            module,
            rotation,
            breaker,
            bulkhead,
            timeout: Duration::from_millis(settings.timeout_ms),
        }))
    }

    pub fn state(&self) -> RemoteState {
        let now = Instant::now();
        let (breaker, failure_rate) = {
            let breaker = self.0.breaker();
            (breaker.state(now), breaker.failure_rate(now))
        };
        RemoteState {
            module: self.0.module.to_owned(),
            breaker,
            failure_rate,
            waiting: self.0.bulkhead.waiting(),
            instances: self.0.rotation.states(),
        }
    }

    /// Writes down how the breaker is, which changes with the time alone, too.
    pub fn measure(&self) {
        let level = match self.0.breaker().state(Instant::now()) {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 1.0,
            BreakerState::Open => 2.0,
        };
        metrics::gauge!("banyan_rpc_breaker_state", "module" => self.0.module).set(level);
    }
}

impl Service<http::Request<Body>> for Edge {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // Whether there is room is decided in the call, which may wait for it no longer than its time limit.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let edge = self.0.clone();
        async move { edge.call(request).await }.boxed()
    }
}

impl Inner {
    async fn call(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let begun = Instant::now();
        let deadline = begun + patience(told_timeout(request.headers()).unwrap_or(self.timeout));
        let (answer, outcome) = match self.enter(deadline).await {
            Ok((_place, mut admitted)) => {
                let answer = timeout_at(deadline.into(), self.send(request, deadline)).await;
                let answer = answer.unwrap_or(Err(Failure::Late)).and_then(wire::read);
                let outcome = if answer.as_ref().is_ok_and(|answer| !answer.is_away) {
                    Outcome::Present
                } else {
                    Outcome::Away
                };
                admitted.settle(outcome);
                (
                    answer,
                    if outcome == Outcome::Present {
                        "answered"
                    } else {
                        "away"
                    },
                )
            }
            Err(failure) => (Err(failure), "refused"),
        };
        let labels = [("module", self.module), ("outcome", outcome)];
        metrics::histogram!("banyan_rpc_call_seconds", &labels).record(begun.elapsed().as_secs_f64());
        answer.map(|answer| answer.response).map_err(|failure| {
            tracing::debug!(
                module = self.module,
                reason = failure.reason(),
                "a call was not answered"
            );
            wire::status(&failure.fault(self.module))
        })
    }

    /// A place in the bulkhead, and the breaker's leave.
    async fn enter(&self, deadline: Instant) -> Result<(SemaphorePermit<'_>, Admitted<'_>), Failure> {
        let place = match self.bulkhead.try_enter() {
            Some(place) => place,
            None => {
                if let Some(wait) = self.breaker().refuses(Instant::now()) {
                    return Err(Failure::Open(wait));
                }
                let turn = timeout_at(deadline.into(), self.bulkhead.enter()).await;
                turn.map_err(|_| Failure::NoTurn)?.map_err(|_| Failure::Crowded)?
            }
        };
        let admission = self.breaker().admit(Instant::now()).map_err(Failure::Open)?;
        Ok((
            place,
            Admitted {
                edge: self,
                admission: Some(admission),
            },
        ))
    }

    async fn send(
        &self,
        request: http::Request<Body>,
        deadline: Instant,
    ) -> Result<http::Response<wire::Whole>, Failure> {
        let (head, body) = request.into_parts();
        // Messages are single and in memory already; held in one piece they can be sent a second time.
        let message = body
            .collect()
            .await
            .map_err(|status| Failure::Lost(status.to_string()))?
            .to_bytes();
        let first = self.rotation.pick().ok_or(Failure::Nowhere)?;
        match attempt(&first, &head, &message, deadline).await {
            Err(Failure::NotConnected(why)) => {
                first.refused();
                let Some(other) = self.rotation.pick_other(&first) else {
                    return Err(Failure::NotConnected(why));
                };
                let second = attempt(&other, &head, &message, deadline).await;
                if matches!(second, Err(Failure::NotConnected(_))) {
                    other.refused();
                }
                second
            }
            answer => answer,
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks one instance, and waits for the whole answer.
async fn attempt(
    instance: &Picked<Channel>,
    head: &http::request::Parts,
    message: &Bytes,
    deadline: Instant,
) -> Result<http::Response<wire::Whole>, Failure> {
    let mut request = http::Request::from_parts(head.clone(), Body::new(Full::new(message.clone())));
    // What is left of the time, so that an instance does not work on for somebody who has gone.
    let left = timeout_to_header(deadline.saturating_duration_since(Instant::now()));
    if let Ok(left) = HeaderValue::try_from(left) {
        request.headers_mut().insert(Call::TIMEOUT, left);
    }
    let mut channel = instance.connection().clone();
    poll_fn(|context| channel.poll_ready(context))
        .await
        .map_err(Failure::of_transport)?;
    let (head, body) = channel.call(request).await.map_err(Failure::of_transport)?.into_parts();
    let body = Limited::new(body, MESSAGE_BYTES)
        .collect()
        .await
        .map_err(|error| Failure::Lost(error.to_string()))?;
    Ok(http::Response::from_parts(head, body))
}

/// The time limit a call came with.
fn told_timeout(headers: &HeaderMap) -> Option<Duration> {
    timeout_from_header(headers.get(Call::TIMEOUT)?.to_str().ok()?)
}

/// How long a call waits that was told to wait for `told`: a little less, because its caller keeps a clock of its own, and one that gives up
/// first never hears which module it was, nor does the breaker.
fn patience(told: Duration) -> Duration {
    told - (told / 20).min(Duration::from_millis(25))
}

/// A call the breaker let through; given up, it settles by itself.
struct Admitted<'a> {
    edge: &'a Inner,
    admission: Option<Admission>,
}

impl Admitted<'_> {
    fn settle(&mut self, outcome: Outcome) {
        let Some(admission) = self.admission.take() else { return };
        let now = Instant::now();
        let (before, after) = {
            let mut breaker = self.edge.breaker();
            let before = breaker.state(now);
            breaker.settle(admission, outcome, now);
            (before, breaker.state(now))
        };
        if before != after {
            announce(self.edge.module, after);
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.settle(Outcome::Unknown);
    }
}

fn announce(module: &'static str, state: BreakerState) {
    match state {
        BreakerState::Open => tracing::warn!(module, "the breaker opens: the module was found away"),
        BreakerState::HalfOpen => {}
        BreakerState::Closed => tracing::info!(module, "the breaker closes: the module is back"),
    }
}
