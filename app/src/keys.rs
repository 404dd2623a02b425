//! The public keys of access tokens, fetched from users.

use std::sync::Arc;

use async_trait::async_trait;
use banyan_core::{Call, Fault};
use banyan_http::{KeySource, VerifyingKey};
use users_contract::{ListSigningKeys, Users};

pub struct UsersKeys(pub Arc<dyn Users>);

#[async_trait]
impl KeySource for UsersKeys {
    async fn keys(&self) -> Result<Vec<VerifyingKey>, Fault> {
        let keys = self
            .0
            .list_signing_keys(&Call::by_module("web"), ListSigningKeys {})
            .await?;
        Ok(keys
            .items
            .into_iter()
            .map(|key| VerifyingKey { kid: key.kid, x: key.x })
            .collect())
    }
}
