//! The keys that tokens are checked with, asked of the users module wherever it runs.

use std::sync::Arc;

use async_trait::async_trait;
use shared_kernel::{Call, Clock, Fault};
use users_contract::{ListSigningKeys, Users};
use web::{KeySource, Verifier, VerifyingKey};

use crate::config::Settings;

/// Checks tokens of this shop.
pub fn verifier(settings: &Settings, users: Arc<dyn Users>, clock: Arc<dyn Clock>) -> Verifier {
    Verifier::new(Arc::new(UsersKeys(users)), &settings.auth.issuer, &settings.auth.audience, clock)
}

struct UsersKeys(Arc<dyn Users>);

#[async_trait]
impl KeySource for UsersKeys {
    async fn keys(&self) -> Result<Vec<VerifyingKey>, Fault> {
        let keys = self.0.list_signing_keys(&Call::by_module("web"), ListSigningKeys {}).await?;
        Ok(keys.items.into_iter().map(|key| VerifyingKey { kid: key.kid, x: key.x }).collect())
    }
}
