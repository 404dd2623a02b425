//! The remote modules that requests are forwarded to, as checks of `/health/ready`.
//!
//! None of these checks fails readiness: requests for the other modules still succeed.

use std::sync::Arc;

use async_trait::async_trait;
use banyan_core::{Check, CheckResult};
use banyan_remote::balancing::{BreakerState, why_degraded};

use super::Proxy;

/// One check for each remote module.
pub fn checks(proxy: &Arc<Proxy>) -> Vec<Arc<dyn Check>> {
    let check = |module| {
        Arc::new(HttpCheck {
            module,
            proxy: proxy.clone(),
        }) as Arc<dyn Check>
    };
    proxy.modules().map(check).collect()
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

    async fn run(&self) -> CheckResult {
        let why = why_degraded(&self.proxy.instances(self.module));
        match (self.proxy.breaker_state(self.module), why) {
            (Some(BreakerState::Open), why) => CheckResult::degraded(format!(
                "breaker open; {}",
                why.as_deref().unwrap_or("all instances are healthy")
            )),
            (_, Some(why)) => CheckResult::degraded(why),
            (_, None) => CheckResult::ok(),
        }
    }
}
