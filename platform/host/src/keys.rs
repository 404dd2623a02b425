//! The public keys of access tokens, fetched from the module that signs them, local or remote.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Actor, Check, CheckResult, Fault};
use banyan_http::{ENDED_SESSIONS_INTERVAL, KeySource, Verifier, VerifyingKey};
use banyan_remote::grpc::TokenVerifier;
use tokio_util::sync::CancellationToken;

/// The interval between two requests for the first keys.
const FIRST_KEYS_INTERVAL: Duration = Duration::from_secs(1);

/// Fetches the first keys as soon as they are available, so that no request waits for them; ends then, or with `stop`.
pub fn fetch_first(verifier: Arc<Verifier>, stop: CancellationToken) {
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        while !verifier.has_keys() {
            verifier.fetch_first_keys().await;
            tokio::time::sleep(FIRST_KEYS_INTERVAL).await;
        }
    }));
}

/// Fetches the sessions that have ended, again and again, so that their tokens are refused here within 5 s; ends with `stop`.
pub fn follow_ended_sessions(verifier: Arc<Verifier>, stop: CancellationToken) {
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        let mut is_known = true;
        loop {
            let fetch = tokio::time::timeout(ENDED_SESSIONS_INTERVAL, verifier.fetch_ended_sessions());
            let fetched = fetch.await.unwrap_or_else(|_| Err(Fault::unavailable("no response in time")));
            match &fetched {
                Err(fault) if is_known => {
                    tracing::warn!(%fault, "the sessions that have ended are not known; the last known ones stay refused");
                }
                Ok(()) if !is_known => tracing::info!("the sessions that have ended are known again"),
                _ => {}
            }
            is_known = fetched.is_ok();
            tokio::time::sleep(ENDED_SESSIONS_INTERVAL).await;
        }
    }));
}

/// Whether tokens can be checked. Without keys, requests that need no token still succeed.
pub struct KeysCheck(pub Arc<Verifier>);

#[async_trait]
impl Check for KeysCheck {
    fn name(&self) -> String {
        "keys:tokens".to_owned()
    }

    async fn run(&self) -> CheckResult {
        if self.0.has_keys() {
            CheckResult::ok()
        } else {
            CheckResult::degraded("the public keys of access tokens are not known yet")
        }
    }
}

/// The key source of a product without users: every token is refused.
pub struct NoKeys;

#[async_trait]
impl KeySource for NoKeys {
    async fn keys(&self) -> Result<Vec<VerifyingKey>, Fault> {
        Ok(Vec::new())
    }
}

/// Verifies the tokens of users whose calls arrive from other processes, as those of their requests.
pub struct UserTokens(pub Arc<Verifier>);

#[async_trait]
impl TokenVerifier for UserTokens {
    async fn verify(&self, token: &str) -> Result<Actor, Fault> {
        let claims = self.0.verify(token).await?;
        Ok(Actor::User {
            id: claims.sub,
            roles: claims.roles,
        })
    }
}
