//! `static`: the endpoints in the settings, which never change.

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Address, Discovery, Endpoints, Instance, Interface};

pub struct StaticEndpoints {
    endpoints: Endpoints,
}

impl StaticEndpoints {
    pub fn new(endpoints: Endpoints) -> StaticEndpoints {
        StaticEndpoints { endpoints }
    }

    #[cfg(feature = "etcd")]
    pub fn knows(&self, module: &str, interface: Interface) -> bool {
        self.endpoints.contains_key(&(module.to_owned(), interface))
    }
}

#[async_trait]
impl Discovery for StaticEndpoints {
    fn watch(&self, module: &str, interface: Interface) -> watch::Receiver<Vec<Address>> {
        let known = self
            .endpoints
            .get(&(module.to_owned(), interface))
            .cloned()
            .unwrap_or_default();
        // A receiver whose sender is dropped never changes.
        watch::channel(known).1
    }

    async fn register(&self, _: Instance, _: CancellationToken) -> anyhow::Result<()> {
        Ok(())
    }
}
