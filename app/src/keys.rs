//! The keys that tokens are checked with, asked of the users module wherever it runs.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Call, Clock, Fault};
use banyan_http::{KeySource, Verifier, VerifyingKey};
use tokio_util::sync::CancellationToken;
use users_contract::{ListSigningKeys, Users};

use crate::{
    config::Settings,
    health::{Check, State},
};

/// Until users has answered once it is asked this often.
const FIRST_KEYS_PAUSE: Duration = Duration::from_secs(1);

/// Checks tokens of this shop.
pub fn verifier(settings: &Settings, users: Arc<dyn Users>, clock: Arc<dyn Clock>) -> Verifier {
    Verifier::new(
        Arc::new(UsersKeys(users)),
        &settings.auth.issuer,
        &settings.auth.audience,
        clock,
    )
}

/// Gets the first keys as soon as users answers, so that no caller has to wait for them; ends then, or with `stop`.
pub fn get_first(verifier: Arc<Verifier>, stop: CancellationToken) {
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        while !verifier.has_keys() {
            verifier.fetch_first_keys().await;
            tokio::time::sleep(FIRST_KEYS_PAUSE).await;
        }
    }));
}

/// Whether tokens can be checked. Without keys whoever needs no token is answered all the same.
pub struct KeysCheck(pub Arc<Verifier>);

#[async_trait]
impl Check for KeysCheck {
    fn name(&self) -> String {
        "keys:tokens".to_owned()
    }

    async fn state(&self) -> State {
        if self.0.has_keys() {
            State::ok()
        } else {
            State::told("users has not yet told the keys that tokens are signed with")
        }
    }
}

struct UsersKeys(Arc<dyn Users>);

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
