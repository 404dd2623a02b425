//! What the edge lives on, for `/health/ready`: the HTTP instances of the modules that requests are passed on to.
//!
//! None of it keeps requests from being sent here: those for other modules are answered all the same.

use std::sync::Arc;

use async_trait::async_trait;

use super::Proxy;
use crate::{
    discovery::rotation::InstanceState,
    health::{Check, State},
};

/// One for each module elsewhere.
pub fn checks(proxy: &Arc<Proxy>) -> Vec<Arc<dyn Check>> {
    let check = |module| Arc::new(HttpCheck { module, proxy: proxy.clone() }) as Arc<dyn Check>;
    proxy.states().into_keys().map(check).collect()
}

struct HttpCheck {
    module: &'static str,
    proxy: Arc<Proxy>,
}

#[async_trait]
impl Check for HttpCheck {
    fn name(&self) -> String {
        format!("http:{}", self.module)
    }

    async fn state(&self) -> State {
        in_words(&self.proxy.states().remove(self.module).unwrap_or_default())
    }
}

fn in_words(instances: &[InstanceState]) -> State {
    let well = instances.iter().filter(|instance| instance.in_rotation).count();
    let all = instances.len();
    if well == all && all > 0 {
        return State::ok();
    }
    let why = instances.iter().find_map(|instance| Some(format!("; {}: {}", instance.address, instance.reason.as_ref()?)));
    State::told(format!("{well} of {all} instances answer{}", why.unwrap_or_default()))
}
