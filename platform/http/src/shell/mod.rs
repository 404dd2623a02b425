//! The shell, the middleware around every server: request id, trace, time limit, problem+json for every error, security headers, metrics.
//!
//! Wrap it last, so that it is outermost: `App::new()...wrap(rate_limit).wrap(banyan_http::shell(settings))`.

mod exchange;
mod ids;
mod measured;

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
    Error, HttpMessage, HttpRequest,
    body::{BoxBody, MessageBody},
    dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready},
    http::Method,
};
use banyan_core::{Fault, Ids, RandomIds};
use futures::future::{FutureExt, LocalBoxFuture};
use tokio::time::{error::Elapsed, timeout_at};
use tracing::Instrument;

use crate::{AllowedHosts, Prefer, Problem};
use exchange::{Exchange, fault_of_error};

const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What the shell needs from the settings.
#[derive(Clone, Debug)]
pub struct ShellSettings {
    /// The maximum time until a response begins; the wait that a request asks for with `Prefer: wait` is added.
    pub time_limit: Duration,
    /// Where request and trace ids come from.
    pub ids: Arc<dyn Ids>,
    /// The hosts under whose names clients may call.
    pub hosts: AllowedHosts,
    /// Whether browsers are told to use TLS alone from now on (HSTS, RFC 6797).
    pub tls_only: bool,
}

impl Default for ShellSettings {
    fn default() -> Self {
        ShellSettings {
            time_limit: Duration::from_secs(10),
            ids: Arc::new(RandomIds),
            hosts: AllowedHosts::default(),
            tls_only: false,
        }
    }
}

/// Put into each request by the shell: the maximum time until its response begins.
#[derive(Clone, Debug)]
pub struct TimeLimit(Rc<Cell<Duration>>);

impl TimeLimit {
    /// Raises the limit of this request to at least `to`, counted from its beginning: for a handler that calls a server with a longer limit.
    pub fn raise(request: &HttpRequest, to: Duration) {
        if let Some(TimeLimit(limit)) = request.extensions().get() {
            limit.set(limit.get().max(to));
        }
    }

    async fn enforce<T>(&self, begun: Instant, working: impl Future<Output = T>) -> Result<T, Elapsed> {
        let mut working = pin!(working);
        loop {
            let limit = self.0.get();
            match timeout_at((begun + limit).into(), working.as_mut()).await {
                // The limit was raised in the meantime.
                Err(_) if self.0.get() > limit => {}
                ended => return ended,
            }
        }
    }
}

/// The middleware.
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
    type Transform = ShellService<S>;
    type InitError = ();
    type Future = Ready<Result<ShellService<S>, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(ShellService {
            service: Rc::new(service),
            settings: self.0.clone(),
        }))
    }
}

/// A service inside the shell.
#[derive(Debug)]
pub struct ShellService<S> {
    service: Rc<S>,
    settings: ShellSettings,
}

impl<S, B> Service<ServiceRequest> for ShellService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Error>>;

    forward_ready!(service);

    fn call(&self, mut request: ServiceRequest) -> Self::Future {
        let exchange = Exchange::begin(&request, &self.settings);
        let wait = Prefer::read(request.headers()).wait.unwrap_or_default();
        let time_limit = TimeLimit(Rc::new(Cell::new(self.settings.time_limit + wait)));
        // A HEAD is a GET whose body is not sent, and not sending it is what the server does by itself (RFC 9110, section 9.3.2).
        if request.method() == Method::HEAD {
            request.head_mut().method = Method::GET;
        }
        request.extensions_mut().insert(exchange.context.clone());
        request.extensions_mut().insert(time_limit.clone());
        let service = self.service.clone();
        let span = exchange.span();
        let head_fits = head_bytes(&request) <= MAX_HEAD_BYTES;
        let host_is_served = self.settings.hosts.check(&request);
        async move {
            let working = AssertUnwindSafe(async {
                if !head_fits {
                    let detail = format!("The request line and headers may have {MAX_HEAD_BYTES} bytes.");
                    return Err(Problem(Fault::malformed("header_fields_too_large", detail)).into());
                }
                host_is_served.map_err(Problem)?;
                service.call(request).await
            })
            .catch_unwind();
            let result = match time_limit.enforce(exchange.begun, working).await {
                Ok(Ok(Ok(response))) => Ok(exchange.finish_response(response.map_into_boxed_body())),
                Ok(Ok(Err(error))) => Err(fault_of_error(&error)),
                Ok(Err(panic)) => Err(Fault::internal("panicked", message_of(panic.as_ref()))),
                Err(_) => Err(Fault::timeout(
                    "The response did not arrive in time; the outcome is not known.",
                )),
            };
            // Without a response the request object is lost, so the fault leaves as an error that carries its rendered response.
            let result = result.map_err(|fault| exchange.finish_fault(&fault));
            exchange.record(&result);
            result.map_err(Error::from)
        }
        .instrument(span)
        .boxed_local()
    }
}

/// Approximately the size on the wire: method, target and headers with their separators.
fn head_bytes(request: &ServiceRequest) -> usize {
    let uri = request.uri();
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len())
        + uri.authority().map_or(0, |authority| authority.as_str().len());
    let line = request.method().as_str().len() + target + 12;
    line + request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum::<usize>()
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let message = panic.downcast_ref::<&str>().map(|message| (*message).to_owned());
    message
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a handler panicked".to_owned())
}
