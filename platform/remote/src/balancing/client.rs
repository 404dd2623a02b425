//! Calls to one remote module, whatever protocol carries them.

use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::SemaphorePermit, time::timeout_at};

use super::{
    Balancer, Breaker, BreakerRules, BreakerState, Bulkhead, CallFailure, Connector, InstanceState, Outcome, Picked,
    breaker::BreakerPermit,
};
use crate::discovery::Address;

/// What one attempt at one instance returned.
pub struct Attempt<T> {
    pub response: T,
    /// The module itself says that it cannot respond now, which counts against it in the breaker.
    pub is_unavailable: bool,
}

/// When a call that failed at one instance is made once more, at another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resend {
    /// Only if nothing was sent.
    IfNotConnected,
    /// Also if the connection was lost before a response began: the call is idempotent.
    IfConnectionLost,
}

/// The client of one module: every call of this process to it goes through its bulkhead, its breaker and its balancer.
///
/// A call is made at most twice: if no connection could be made, nothing was sent, and another instance is tried; the same applies if the
/// connection was lost and the call [allows it](Resend). Nothing else is retried here: what may have arrived is retried by sagas and reactions
/// alone, under the same `command_id`.
///
/// What counts against the module in the breaker: no instance, no connection, a lost connection, a timeout, and its own response that it is
/// [unavailable](Attempt::is_unavailable). Every other response shows that it is available.
pub struct ModuleClient<C: Connector> {
    module: &'static str,
    balancer: Balancer<C>,
    breaker: Mutex<Breaker>,
    bulkhead: Bulkhead,
    observe: fn(&'static str, Result<(), &CallFailure>),
}

impl<C: Connector> ModuleClient<C> {
    /// `observe` is called with the result of each attempt.
    pub fn new(
        module: &'static str,
        balancer: Balancer<C>,
        rules: BreakerRules,
        bulkhead: Bulkhead,
        observe: fn(&'static str, Result<(), &CallFailure>),
    ) -> Self {
        ModuleClient {
            module,
            balancer,
            breaker: Mutex::new(Breaker::new(rules, Instant::now())),
            bulkhead,
            observe,
        }
    }

    pub fn module(&self) -> &'static str {
        self.module
    }

    /// Makes a call by `attempt`, which is given an instance's connection and address, and gives up at `deadline`. Its permit in the bulkhead
    /// is kept until `attempt` returns; the instance counts as busy with it until what is returned is dropped.
    ///
    /// # Errors
    /// There is no response; of two attempts, the failure that leaves more unknown.
    pub async fn call<T, F, Fut>(
        &self,
        deadline: Instant,
        resend: Resend,
        attempt: F,
    ) -> Result<(T, Picked<C::Connection>), CallFailure>
    where
        F: Fn(C::Connection, Address) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Attempt<T>, CallFailure>> + Send,
        T: Send,
    {
        let (_permit, mut recorder) = self.acquire(deadline).await?;
        let result = self.attempt_twice(deadline, resend, &attempt).await;
        let available = result.as_ref().is_ok_and(|(attempt, _)| !attempt.is_unavailable);
        recorder.record(if available {
            Outcome::Available
        } else {
            Outcome::Unavailable
        });
        result.map(|(attempt, picked)| (attempt.response, picked))
    }

    /// Acquires a permit of the bulkhead, and one of the breaker.
    async fn acquire(&self, deadline: Instant) -> Result<(SemaphorePermit<'_>, Recorder<'_, C>), CallFailure> {
        let permit = match self.bulkhead.try_acquire() {
            Some(permit) => permit,
            None => {
                if let Some(wait) = self.breaker().rejects(Instant::now()) {
                    return Err(CallFailure::BreakerOpen(wait));
                }
                let turn = timeout_at(deadline.into(), self.bulkhead.acquire()).await;
                turn.map_err(|_| CallFailure::QueueTimeout)?
                    .map_err(|_| CallFailure::QueueFull)?
            }
        };
        let admitted = self.breaker().try_acquire(Instant::now());
        let recorder = Recorder {
            client: self,
            permit: Some(admitted.map_err(CallFailure::BreakerOpen)?),
        };
        Ok((permit, recorder))
    }

    async fn attempt_twice<T, F, Fut>(
        &self,
        deadline: Instant,
        resend: Resend,
        attempt: &F,
    ) -> Result<(Attempt<T>, Picked<C::Connection>), CallFailure>
    where
        F: Fn(C::Connection, Address) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Attempt<T>, CallFailure>> + Send,
        T: Send,
    {
        let first = self.balancer.pick().ok_or(CallFailure::NoInstance)?;
        let failure = match self.attempt(deadline, &first, attempt).await {
            Ok(response) => return Ok((response, first)),
            Err(failure) => failure,
        };
        let again = match &failure {
            CallFailure::NotConnected(_) => true,
            CallFailure::ConnectionLost(_) => resend == Resend::IfConnectionLost,
            _ => false,
        };
        let other = if again { self.balancer.pick_other(&first) } else { None };
        drop(first);
        let Some(other) = other else { return Err(failure) };
        match self.attempt(deadline, &other, attempt).await {
            Ok(response) => Ok((response, other)),
            Err(second) if second == CallFailure::Timeout || !failure.may_have_arrived() => Err(second),
            Err(_) => Err(failure),
        }
    }

    async fn attempt<T, F, Fut>(
        &self,
        deadline: Instant,
        picked: &Picked<C::Connection>,
        attempt: &F,
    ) -> Result<Attempt<T>, CallFailure>
    where
        F: Fn(C::Connection, Address) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Attempt<T>, CallFailure>> + Send,
        T: Send,
    {
        let running = attempt(picked.connection().clone(), picked.address().clone());
        let result = timeout_at(deadline.into(), running)
            .await
            .unwrap_or(Err(CallFailure::Timeout));
        (self.observe)(self.module, result.as_ref().map(drop));
        if let Err(failure) = &result {
            tracing::debug!(module = self.module, instance = %picked.address(), %failure, "an instance did not respond");
            if matches!(failure, CallFailure::NotConnected(_)) {
                picked.refused();
            }
        }
        result
    }

    /// All known instances.
    pub fn instances(&self) -> Vec<InstanceState> {
        self.balancer.states()
    }

    /// Calls that wait for a permit.
    pub fn waiting(&self) -> usize {
        self.bulkhead.waiting()
    }

    /// The breaker's state, and the share of recent calls that found the module unavailable, 0 to 1.
    pub fn breaker_state(&self) -> (BreakerState, f64) {
        let (now, breaker) = (Instant::now(), self.breaker());
        (breaker.state(now), breaker.failure_rate(now))
    }

    /// The breaker's state as a gauge shows it: 0 closed, 1 half open, 2 open. It changes with the time alone, too.
    pub fn breaker_level(&self) -> f64 {
        match self.breaker().state(Instant::now()) {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 1.0,
            BreakerState::Open => 2.0,
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock()
    }
}

/// A call that the breaker let through. Dropped without a record, it says nothing about the module.
struct Recorder<'a, C: Connector> {
    client: &'a ModuleClient<C>,
    permit: Option<BreakerPermit>,
}

impl<C: Connector> Recorder<'_, C> {
    fn record(&mut self, outcome: Outcome) {
        let Some(permit) = self.permit.take() else { return };
        let now = Instant::now();
        let (before, after) = {
            let mut breaker = self.client.breaker();
            let before = breaker.state(now);
            breaker.record(permit, outcome, now);
            (before, breaker.state(now))
        };
        if before != after {
            announce(self.client.module, after);
        }
    }
}

impl<C: Connector> Drop for Recorder<'_, C> {
    fn drop(&mut self) {
        self.record(Outcome::Unknown);
    }
}

fn announce(module: &'static str, state: BreakerState) {
    match state {
        BreakerState::Open => tracing::warn!(module, "the breaker opens: the module is unavailable"),
        BreakerState::HalfOpen => {}
        BreakerState::Closed => tracing::info!(module, "the breaker closes: the module is available again"),
    }
}

/// A breaker's default rules: five calls within five seconds are enough to tell that a module is unavailable, if half of them
/// or more found it so; two probes after two seconds tell that it is back.
impl Default for BreakerRules {
    fn default() -> Self {
        BreakerRules {
            window: Duration::from_secs(5),
            calls: 5,
            failure_rate: 0.5,
            open: Duration::from_secs(2),
            probes: 2,
        }
    }
}
