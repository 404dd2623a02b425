//! What the edge lives on, for `/health/ready`: the HTTP instances of the modules that requests are passed on to.
//!
//! None of it keeps requests from being sent here: those for other modules are answered all the same.

use std::sync::Arc;

use async_trait::async_trait;

use super::Proxy;
use crate::{
    discovery::rotation::why_not_whole,
    health::{Check, State},
};

/// One for each module elsewhere.
pub fn checks(proxy: &Arc<Proxy>) -> Vec<Arc<dyn Check>> {
    let check = |module| {
        Arc::new(HttpCheck {
            module,
            proxy: proxy.clone(),
        }) as Arc<dyn Check>
    };
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
        let instances = self.proxy.states().remove(self.module).unwrap_or_default();
        why_not_whole(&instances).map_or_else(State::ok, State::told)
    }
}
