//! What this process depends on beyond its own databases, for `/health/ready`: whatever carries events, and the modules elsewhere.
//!
//! None of it keeps requests from being answered: events wait in the outbox, sagas ask again, and pages live without a part.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    bus::Carrier,
    discovery::rotation::why_not_whole,
    health::{Check, State},
    rpc::{BreakerState, RemoteState, Remotes},
    wiring,
};

/// The bus, if it is not this process itself, and every module elsewhere.
pub fn checks(bus: &Arc<dyn Carrier>, remotes: &Arc<Remotes>) -> Vec<Arc<dyn Check>> {
    let mut checks: Vec<Arc<dyn Check>> = Vec::new();
    if !bus.state().links.is_empty() {
        checks.push(Arc::new(BusCheck(bus.clone())));
    }
    let remote = |module| {
        Arc::new(RemoteCheck {
            module,
            remotes: remotes.clone(),
        }) as Arc<dyn Check>
    };
    checks.extend(wiring::asked_elsewhere().into_iter().map(remote));
    checks
}

struct BusCheck(Arc<dyn Carrier>);

#[async_trait]
impl Check for BusCheck {
    fn name(&self) -> String {
        format!("bus:{}", self.0.state().kind)
    }

    async fn state(&self) -> State {
        let state = self.0.state();
        state.lost().map_or_else(State::ok, |link| {
            State::told(format!(
                "{}: {}",
                link.link,
                link.last_error.as_deref().unwrap_or("connecting")
            ))
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

    async fn state(&self) -> State {
        self.remotes
            .states()
            .iter()
            .find(|state| state.module == self.module)
            .map_or_else(State::ok, in_words)
    }
}

fn in_words(state: &RemoteState) -> State {
    let why = why_not_whole(&state.instances);
    match state.breaker {
        BreakerState::Closed => why.map_or_else(State::ok, State::told),
        // Half open with every instance well: whoever calls next closes it, and nobody may have a reason to call.
        BreakerState::HalfOpen => why.map_or_else(State::ok, |why| State::told(format!("breaker half open; {why}"))),
        BreakerState::Open => State::told(format!(
            "breaker open; {}",
            why.as_deref().unwrap_or("every instance answers")
        )),
    }
}
