//! The gRPC channel to one remote module.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use banyan_core::{Call, timeout_from_header, timeout_to_header};
use futures::{FutureExt, future::BoxFuture};
use http_body_util::{BodyExt, Full, Limited};
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
    connector::GrpcConnector,
    wire::{self, Whole},
};
use crate::balancing::{Attempt, Balancer, Bulkhead, CallFailure, ModuleClient, Resend};

/// A gRPC channel to the healthy instances of one module. Clones share it.
#[derive(Clone)]
pub struct ModuleChannel(Arc<Inner>);

struct Inner {
    client: ModuleClient<GrpcConnector>,
    timeout: Duration,
}

impl ModuleChannel {
    pub fn new(module: &'static str, balancer: Balancer<GrpcConnector>, settings: &Settings) -> Self {
        let bulkhead = Bulkhead::new(settings.concurrency, settings.queue);
        let client = ModuleClient::new(module, balancer, settings.breaker_rules(), bulkhead, |_, _| {});
        ModuleChannel(Arc::new(Inner {
            client,
            timeout: Duration::from_millis(settings.timeout_ms),
        }))
    }

    pub fn state(&self) -> RemoteState {
        let client = &self.0.client;
        let (breaker, failure_rate) = client.breaker_state();
        RemoteState {
            module: client.module().to_owned(),
            breaker,
            failure_rate,
            waiting: client.waiting(),
            instances: client.instances(),
        }
    }

    /// Records the state of the breaker, which also changes with time alone.
    pub fn measure(&self) {
        let client = &self.0.client;
        metrics::gauge!("banyan_rpc_breaker_state", "module" => client.module()).set(client.breaker_level());
    }
}

impl Service<http::Request<Body>> for ModuleChannel {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // The call itself waits for a permit, within its timeout.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let channel = self.0.clone();
        async move { channel.call(request).await }.boxed()
    }
}

impl Inner {
    async fn call(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let (begun, module) = (Instant::now(), self.client.module());
        let deadline = begun + shortened(given_timeout(request.headers()).unwrap_or(self.timeout));
        let result = self.send(request, deadline).await;
        let outcome = match &result {
            Ok(response) if !response.is_unavailable => "answered",
            Err(failure) if !failure.is_of_module() => "refused",
            _ => "away",
        };
        let labels = [("module", module), ("outcome", outcome)];
        metrics::histogram!("banyan_rpc_call_seconds", &labels).record(begun.elapsed().as_secs_f64());
        result.map(|attempt| attempt.response).map_err(|failure| {
            tracing::debug!(module, %failure, "a call got no response");
            wire::status(&failure.fault(module))
        })
    }

    async fn send(
        &self,
        request: http::Request<Body>,
        deadline: Instant,
    ) -> Result<Attempt<http::Response<Body>>, CallFailure> {
        let (head, body) = request.into_parts();
        // A call has a single message, which is in memory already; kept in one piece it can be sent a second time.
        let message = body.collect().await;
        let message = message
            .map_err(|status| CallFailure::ConnectionLost(status.to_string()))?
            .to_bytes();
        let attempt = |connection, _| {
            let (head, message) = (head.clone(), message.clone());
            async move {
                let attempt = wire::read(send_once(connection, &head, message, deadline).await?)?;
                let is_unavailable = attempt.is_unavailable;
                Ok(Attempt {
                    response: attempt,
                    is_unavailable,
                })
            }
        };
        let (response, _picked) = self.client.call(deadline, Resend::IfNotConnected, attempt).await?;
        Ok(response)
    }
}

/// Sends a message to one instance, and waits for the whole response.
async fn send_once(
    mut channel: Channel,
    head: &http::request::Parts,
    message: Bytes,
    deadline: Instant,
) -> Result<http::Response<Whole>, CallFailure> {
    let mut request = http::Request::from_parts(head.clone(), Body::new(Full::new(message)));
    // The remaining timeout, so that an instance does not go on working for a caller that has given up.
    let left = timeout_to_header(deadline.saturating_duration_since(Instant::now()));
    if let Ok(left) = HeaderValue::try_from(left) {
        request.headers_mut().insert(Call::TIMEOUT, left);
    }
    poll_fn(|context| channel.poll_ready(context))
        .await
        .map_err(wire::failure_of)?;
    let (head, body) = channel.call(request).await.map_err(wire::failure_of)?.into_parts();
    let body = Limited::new(body, MESSAGE_BYTES)
        .collect()
        .await
        .map_err(|error| CallFailure::ConnectionLost(error.to_string()))?;
    Ok(http::Response::from_parts(head, body))
}

/// The timeout in the call's headers.
fn given_timeout(headers: &HeaderMap) -> Option<Duration> {
    timeout_from_header(headers.get(Call::TIMEOUT)?.to_str().ok()?)
}

/// A little less than the caller's timeout, which the caller measures too: if it gave up first, neither it nor the breaker would learn which
/// module did not respond.
fn shortened(timeout: Duration) -> Duration {
    timeout - (timeout / 20).min(Duration::from_millis(25))
}
