//! A token bucket per caller, where the caller is the user if the token is valid, else the network address.
//!
//! Headers are those of the IETF draft httpapi-ratelimit-headers.

use std::{
    future::{Ready, ready},
    num::NonZeroU32,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use actix_web::{
    Error,
    body::{BoxBody, MessageBody},
    dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready},
    http::header::{HeaderMap, HeaderName, HeaderValue},
};
use banyan_core::{Fault, FaultKind};
use futures::future::{FutureExt, LocalBoxFuture};
use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::DefaultKeyedStateStore,
};

use crate::{Problem, address, auth};

/// The number of checks after which full buckets are dropped.
const CLEAN_EVERY: u64 = 10_000;

type Buckets = RateLimiter<String, DefaultKeyedStateStore<String>, DefaultClock, StateInformationMiddleware>;

/// A token bucket per key. Clones share their buckets.
#[derive(Clone)]
pub struct Limiter {
    buckets: Arc<Buckets>,
    checks: Arc<AtomicU64>,
    clock: DefaultClock,
    quota: Quota,
}

/// What is left after an allowed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    pub remaining: u32,
    /// The time until the bucket is full again.
    pub full_in: Duration,
}

impl Limiter {
    /// One request every `period`, and up to `burst` at once.
    pub fn new(period: Duration, burst: u32) -> Self {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let period = period.max(Duration::from_nanos(1));
        let quota = Quota::with_period(period)
            .unwrap_or(Quota::per_second(NonZeroU32::MIN))
            .allow_burst(burst);
        let buckets = RateLimiter::keyed(quota).with_middleware::<StateInformationMiddleware>();
        Limiter {
            buckets: Arc::new(buckets),
            checks: Arc::default(),
            clock: DefaultClock::default(),
            quota,
        }
    }

    pub fn per_second(rate: u32, burst: u32) -> Self {
        Limiter::new(Duration::from_secs(1) / rate.max(1), burst)
    }

    pub fn per_minute(rate: u32, burst: u32) -> Self {
        Limiter::new(Duration::from_secs(60) / rate.max(1), burst)
    }

    /// Takes a token from the bucket of `key`.
    ///
    /// # Errors
    /// `too_many_requests` (429) with the time to wait.
    pub fn check(&self, key: &str) -> Result<Allowance, Fault> {
        if self.checks.fetch_add(1, Ordering::Relaxed) % CLEAN_EVERY == CLEAN_EVERY - 1 {
            self.buckets.retain_recent();
            self.buckets.shrink_to_fit();
        }
        match self.buckets.check_key(&key.to_owned()) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let missing = self.quota.burst_size().get().saturating_sub(remaining);
                Ok(Allowance {
                    remaining,
                    full_in: self.quota.replenish_interval() * missing,
                })
            }
            Err(not_until) => {
                let wait = not_until.wait_time_from(self.clock.now());
                Err(Fault::new(
                    FaultKind::TooMany,
                    "too_many_requests",
                    "Too many requests: wait as Retry-After says.",
                )
                .retry_after(wait))
            }
        }
    }

    fn window_s(&self) -> u64 {
        whole_seconds(self.quota.burst_size_replenished_in()).max(1)
    }
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limiter")
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}

fn whole_seconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// The middleware. Create it once, outside the server's factory, so that all workers share the buckets; wrap it inside the shell.
#[derive(Clone, Debug)]
pub struct RateLimit {
    limiter: Limiter,
    /// `RateLimit-Policy`, the same in every response.
    policy: HeaderValue,
    /// Only paths with this prefix are limited: health checks and metrics are not.
    prefix: &'static str,
}

impl RateLimit {
    /// Limits everything under `/api/`.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let limiter = Limiter::per_second(per_second, burst);
        let policy = format!("\"caller\";q={};w={}", limiter.quota.burst_size(), limiter.window_s());
        RateLimit {
            limiter,
            policy: HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("")),
            prefix: "/api/",
        }
    }

    fn write_headers(&self, headers: &mut HeaderMap, remaining: u32, reset: Duration) {
        headers.insert(HeaderName::from_static("ratelimit-policy"), self.policy.clone());
        let state = format!("\"caller\";r={remaining};t={}", whole_seconds(reset));
        if let Ok(state) = HeaderValue::try_from(state) {
            headers.insert(HeaderName::from_static("ratelimit"), state);
        }
    }
}

impl<S, B> Transform<S, ServiceRequest> for RateLimit
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Transform = Limited<S>;
    type InitError = ();
    type Future = Ready<Result<Limited<S>, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(Limited {
            service: Rc::new(service),
            limit: self.clone(),
        }))
    }
}

/// A service behind its limit.
#[derive(Debug)]
pub struct Limited<S> {
    service: Rc<S>,
    limit: RateLimit,
}

impl<S, B> Service<ServiceRequest> for Limited<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Error>>;

    forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let (service, limit) = (self.service.clone(), self.limit.clone());
        async move {
            if !request.path().starts_with(limit.prefix) {
                return Ok(service.call(request).await?.map_into_boxed_body());
            }
            // An unverified token is ignored: made-up users would each get a bucket of their own.
            let user = auth::actor_of_service_request(&request)
                .await
                .ok()
                .filter(|actor| actor.user_id().is_some());
            let address = || address::client_address(request.request());
            let key = user.map_or_else(address, |actor| actor.label());
            match limit.limiter.check(&key) {
                Ok(allowance) => {
                    let mut response = service.call(request).await?.map_into_boxed_body();
                    limit.write_headers(response.headers_mut(), allowance.remaining, allowance.full_in);
                    Ok(response)
                }
                Err(fault) => {
                    let wait = fault.retry_after.unwrap_or_default();
                    let mut response = request.error_response(Problem(fault));
                    limit.write_headers(response.headers_mut(), 0, wait);
                    Ok(response)
                }
            }
        }
        .boxed_local()
    }
}
