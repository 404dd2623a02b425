//! The dependencies of this process beyond its own databases: the bus, and the remote modules it calls.
//!
//! None of these checks fails readiness: events wait in the outbox, sagas retry their calls, and pages are shown without the unavailable part.

use std::sync::Arc;

use async_trait::async_trait;
use banyan_bus::Carrier;
use banyan_core::{Check, CheckResult};
use banyan_remote::{
    balancing::{BreakerState, why_degraded},
    grpc::{RemoteState, Remotes},
};

/// A check for the bus, if it connects to a broker, and one for every remote module that is called.
pub fn checks(bus: &Arc<dyn Carrier>, remotes: &Arc<Remotes>, called: &[&'static str]) -> Vec<Arc<dyn Check>> {
    let mut checks: Vec<Arc<dyn Check>> = Vec::new();
    if !bus.state().links.is_empty() {
        checks.push(Arc::new(BusCheck(bus.clone())));
    }
    let remote = |module: &&'static str| {
        Arc::new(RemoteCheck {
            module,
            remotes: remotes.clone(),
        }) as Arc<dyn Check>
    };
    checks.extend(called.iter().map(remote));
    checks
}

struct BusCheck(Arc<dyn Carrier>);

#[async_trait]
impl Check for BusCheck {
    fn name(&self) -> String {
        format!("bus:{}", self.0.state().kind)
    }

    async fn run(&self) -> CheckResult {
        let state = self.0.state();
        state.lost().map_or_else(CheckResult::ok, |link| {
            let why = link.last_error.as_deref().unwrap_or("connecting");
            CheckResult::degraded(format!("{}: {why}", link.link))
        })
    }
}

struct RemoteCheck {
    module: &'static str,
    remotes: Arc<Remotes>,
}

#[async_trait]
impl Check for RemoteCheck {
    fn name(&self) -> String {
        format!("module:{}", self.module)
    }

    async fn run(&self) -> CheckResult {
        let states = self.remotes.states();
        let state = states.iter().find(|state| state.module == self.module);
        state.map_or_else(CheckResult::ok, result_of)
    }
}

fn result_of(state: &RemoteState) -> CheckResult {
    let why = why_degraded(&state.instances);
    match state.breaker {
        BreakerState::Closed => why.map_or_else(CheckResult::ok, CheckResult::degraded),
        // Half open with every instance healthy: the next call closes it, and there may be no reason to make one.
        BreakerState::HalfOpen => why.map_or_else(CheckResult::ok, |why| {
            CheckResult::degraded(format!("breaker half open; {why}"))
        }),
        BreakerState::Open => CheckResult::degraded(format!(
            "breaker open; {}",
            why.as_deref().unwrap_or("all instances are healthy")
        )),
    }
}
