//! Access tokens: their claims, and how they are verified (RFC 7519, RFC 8725).

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Clock, Fault, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ended_sessions::{Ended, EndedSessions};

/// The age at which keys are fetched again.
const KEYS_FRESH_FOR: Duration = Duration::from_secs(300);
/// The minimum interval between fetches. An unknown `kid` causes a fetch, and an attacker can make kids up.
const MIN_FETCH_INTERVAL: Duration = Duration::from_secs(10);
/// The same as long as there are no keys. It is shorter, because no token can be verified yet.
const MIN_FIRST_FETCH_INTERVAL: Duration = Duration::from_secs(1);
/// How far the signer's clock may be ahead of this one.
const CLOCK_SKEW: Duration = Duration::from_secs(30);
/// Longer tokens are refused without parsing.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The `typ` of an access token (RFC 9068, section 2.1). It keeps a token of another kind, signed with the same key, from being used as one.
pub const ACCESS_TOKEN_TYPE: &str = "at+jwt";

/// An Ed25519 public key, as it stands in a JWKS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyingKey {
    pub kid: String,
    /// The public key in base64url without padding.
    pub x: String,
}

/// Where the keys come from; the application implements it.
#[async_trait]
pub trait KeySource: Send + Sync {
    async fn keys(&self) -> Result<Vec<VerifyingKey>, Fault>;

    /// The sessions that ended after `since`, or all whose access tokens may not have expired yet. `None` from a source whose sessions do not end.
    async fn ended_sessions(&self, since: Option<Timestamp>) -> Result<Option<EndedSessions>, Fault> {
        let _ = since;
        Ok(None)
    }
}

/// The claims of an access token. Whoever issues tokens signs them, the [`Verifier`] reads them. Times are seconds since the epoch (RFC 7519).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The user.
    pub sub: Uuid,
    /// The names of the user's roles. A role that no handler requires grants nothing.
    pub roles: Vec<String>,
    pub iss: String,
    pub aud: String,
    pub iat: i64,
    pub nbf: i64,
    pub exp: i64,
    /// This token's own id.
    pub jti: Uuid,
    /// The session: when it ends, the token is refused.
    pub sid: Uuid,
}

/// Verifies tokens. One per server, as `actix_web::web::Data`.
#[derive(Clone)]
pub struct Verifier {
    source: Arc<dyn KeySource>,
    clock: Arc<dyn Clock>,
    rules: Validation,
    keys: Arc<RwLock<Arc<Keys>>>,
    ended: Arc<RwLock<Ended>>,
    /// Held during a fetch, so that concurrent requests cause only one.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Keys {
    by_kid: HashMap<String, DecodingKey>,
    fetched_at: Option<Timestamp>,
    attempted_at: Option<Timestamp>,
}

impl Keys {
    fn is_fresh(&self, now: Timestamp) -> bool {
        self.fetched_at.is_some_and(|at| now.since(at) < KEYS_FRESH_FOR)
    }

    fn may_fetch(&self, now: Timestamp) -> bool {
        let interval = if self.by_kid.is_empty() {
            MIN_FIRST_FETCH_INTERVAL
        } else {
            MIN_FETCH_INTERVAL
        };
        self.attempted_at.is_none_or(|at| now.since(at) >= interval)
    }
}

impl Verifier {
    pub fn new(
        source: Arc<dyn KeySource>,
        issuer: impl Into<String>,
        audience: impl Into<String>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        // One fixed algorithm, never one chosen by the token (RFC 8725, section 3.1).
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.set_issuer(&[issuer.into()]);
        rules.set_audience(&[audience.into()]);
        rules.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        // Times are checked in `verify`, with the injected clock.
        rules.validate_exp = false;
        rules.validate_nbf = false;
        Verifier {
            source,
            clock,
            rules,
            keys: Arc::default(),
            ended: Arc::default(),
            fetching: Arc::default(),
        }
    }

    /// # Errors
    /// `invalid_token` (401) for a token that is not valid; `unavailable` (503) if no keys were ever fetched.
    pub async fn verify(&self, token: &str) -> Result<Claims, Fault> {
        let bad = |why: &str| Fault::unauthenticated("invalid_token", format!("The access token {why}."));
        if token.len() > MAX_TOKEN_BYTES {
            return Err(bad("is too long"));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| bad("cannot be read"))?;
        if header.alg != Algorithm::EdDSA || header.crit.is_some() {
            return Err(bad("is not signed with EdDSA"));
        }
        if !header.typ.as_deref().is_some_and(is_access_token_type) {
            return Err(bad("is not an access token: its `typ` is not `at+jwt`"));
        }
        let kid = header.kid.ok_or_else(|| bad("names no key"))?;
        let key = self
            .find_key(&kid)
            .await?
            .ok_or_else(|| bad("is signed with an unknown key"))?;
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &self.rules)
            .map_err(|_| bad("is not valid here"))?
            .claims;
        let now = self.clock.now();
        let now_s = now.as_ms().div_euclid(1000);
        if claims.exp <= now_s {
            return Err(bad("has expired"));
        }
        if claims.nbf > now_s.saturating_add(CLOCK_SKEW.as_secs() as i64) {
            return Err(bad("is not valid yet"));
        }
        if self.ended.read().refuses(&claims, now) {
            return Err(bad("is of a session that has ended, or must be refreshed"));
        }
        Ok(claims)
    }

    /// Fetches the sessions that have ended since the last time; their tokens are refused from then on.
    ///
    /// # Errors
    /// Those of the source. What was known stays in use.
    pub async fn fetch_ended_sessions(&self) -> Result<(), Fault> {
        let since = self.ended.read().since();
        if let Some(list) = self.source.ended_sessions(since).await? {
            self.ended.write().add(list);
        }
        Ok(())
    }

    /// Whether tokens can be verified: keys were fetched at least once.
    pub fn has_keys(&self) -> bool {
        self.current().fetched_at.is_some()
    }

    /// Fetches the first keys, so that the first caller need not wait for them. Does nothing once there are keys.
    pub async fn fetch_first_keys(&self) {
        let _one_at_a_time = self.fetching.lock().await;
        let known = self.current();
        if known.fetched_at.is_none() {
            self.fetch(&known, self.clock.now()).await;
        }
    }

    async fn find_key(&self, kid: &str) -> Result<Option<DecodingKey>, Fault> {
        let known = self.current();
        if let Some(key) = known.by_kid.get(kid) {
            // The last good keys stay in use, so that a known key never waits for a source that may not respond.
            if !known.is_fresh(self.clock.now()) {
                self.refresh();
            }
            return Ok(Some(key.clone()));
        }
        let _one_at_a_time = self.fetching.lock().await;
        let now = self.clock.now();
        let known = self.current();
        if !known.by_kid.contains_key(kid) && known.may_fetch(now) {
            self.fetch(&known, now).await;
        }
        let known = self.current();
        if known.fetched_at.is_none() {
            return Err(Fault::unavailable("Access tokens cannot be checked right now."));
        }
        Ok(known.by_kid.get(kid).cloned())
    }

    /// Fetches the keys in the background of the request that found them outdated, unless a fetch is running.
    fn refresh(&self) {
        let now = self.clock.now();
        if !self.current().may_fetch(now) {
            return;
        }
        let Ok(permit) = self.fetching.clone().try_lock_owned() else {
            return;
        };
        let verifier = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let known = verifier.current();
            // Another task may have fetched them before the lock was taken.
            if known.may_fetch(now) {
                verifier.fetch(&known, now).await;
            }
        });
    }

    /// The last good keys stay in use when the source fails.
    async fn fetch(&self, known: &Keys, now: Timestamp) {
        let next = match self.source.keys().await {
            Ok(keys) => Keys {
                by_kid: decoding_keys(keys),
                fetched_at: Some(now),
                attempted_at: Some(now),
            },
            Err(fault) => {
                tracing::warn!(%fault, "the token keys could not be fetched; the last good ones stay in use");
                Keys {
                    by_kid: known.by_kid.clone(),
                    fetched_at: known.fetched_at,
                    attempted_at: Some(now),
                }
            }
        };
        *self.keys.write() = Arc::new(next);
    }

    fn current(&self) -> Arc<Keys> {
        self.keys.read().clone()
    }
}

/// A media type, whose `application/` may be left out, and whose case does not matter (RFC 7515, section 4.1.9).
fn is_access_token_type(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    typ.strip_prefix("application/").unwrap_or(&typ) == ACCESS_TOKEN_TYPE
}

fn decoding_keys(keys: Vec<VerifyingKey>) -> HashMap<String, DecodingKey> {
    keys.into_iter()
        .filter_map(|key| match DecodingKey::from_ed_components(&key.x) {
            Ok(decoding) => Some((key.kid, decoding)),
            Err(error) => {
                tracing::warn!(kid = %key.kid, %error, "a token key cannot be read");
                None
            }
        })
        .collect()
}
