//! Access tokens: what is in them, and when one is believed (RFC 7519, RFC 8725).

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use banyan_core::{Clock, Fault, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How long keys are used before they are asked for again.
const KEYS_FRESH_FOR: Duration = Duration::from_secs(300);
/// An unknown `kid` asks for the keys again, but an attacker who makes kids up cannot make us ask more often than this.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Without any keys nobody can log in, so the source is asked more often.
const ASK_FIRST_KEYS_AFTER: Duration = Duration::from_secs(1);
/// How far the clock of whoever signs may be ahead of ours.
const CLOCK_SKEW: Duration = Duration::from_secs(30);
/// A longer token is none of ours.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// An Ed25519 public key, as it stands in a JWKS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyingKey {
    pub kid: String,
    /// The public key in base64url without padding.
    pub x: String,
}

/// Where the keys come from. The app adapts the Users contract.
#[async_trait]
pub trait KeySource: Send + Sync {
    async fn keys(&self) -> Result<Vec<VerifyingKey>, Fault>;
}

/// What an access token says. Users signs these, the [`Verifier`] reads them. Times are seconds since the epoch (RFC 7519).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The user.
    pub sub: Uuid,
    /// Their names; one that nobody asks for grants nothing.
    pub roles: Vec<String>,
    pub iss: String,
    pub aud: String,
    pub iat: i64,
    pub nbf: i64,
    pub exp: i64,
    /// This token's own id.
    pub jti: Uuid,
    /// The session's family of refresh tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<Uuid>,
}

/// Decides whether a token is believed. One per server, as `actix_web::web::Data`.
#[derive(Clone)]
pub struct Verifier {
    source: Arc<dyn KeySource>,
    clock: Arc<dyn Clock>,
    rules: Validation,
    keys: Arc<RwLock<Arc<Keys>>>,
    /// Held while the source is asked, so that a crowd asks once.
    asking: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Keys {
    by_kid: HashMap<String, DecodingKey>,
    got_at: Option<Timestamp>,
    asked_at: Option<Timestamp>,
}

impl Keys {
    fn is_fresh(&self, now: Timestamp) -> bool {
        self.got_at.is_some_and(|at| now.since(at) < KEYS_FRESH_FOR)
    }

    fn may_ask(&self, now: Timestamp) -> bool {
        let pause = if self.by_kid.is_empty() {
            ASK_FIRST_KEYS_AFTER
        } else {
            ASK_AGAIN_AFTER
        };
        self.asked_at.is_none_or(|at| now.since(at) >= pause)
    }
}

impl Verifier {
    pub fn new(
        source: Arc<dyn KeySource>,
        issuer: impl Into<String>,
        audience: impl Into<String>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        // One algorithm, chosen by us and never by the token (RFC 8725, section 3.1).
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.set_issuer(&[issuer.into()]);
        rules.set_audience(&[audience.into()]);
        rules.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        // Times are compared below, with the clock we were given.
        rules.validate_exp = false;
        rules.validate_nbf = false;
        Verifier {
            source,
            clock,
            rules,
            keys: Arc::default(),
            asking: Arc::default(),
        }
    }

    /// # Errors
    /// `invalid_token` (401) for a token that is not to be believed; `unavailable` (503) if no key was ever got.
    pub async fn verify(&self, token: &str) -> Result<Claims, Fault> {
        let bad = |why: &str| Fault::unauthenticated("invalid_token", format!("The access token {why}."));
        if token.len() > MAX_TOKEN_BYTES {
            return Err(bad("is too long"));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| bad("cannot be read"))?;
        if header.alg != Algorithm::EdDSA || header.crit.is_some() {
            return Err(bad("is not signed the way this shop signs"));
        }
        let kid = header.kid.ok_or_else(|| bad("names no key"))?;
        let key = self
            .find_key(&kid)
            .await?
            .ok_or_else(|| bad("is signed with a key this shop does not know"))?;
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &self.rules)
            .map_err(|_| bad("is not valid here"))?
            .claims;
        let now_s = self.clock.now().as_ms().div_euclid(1000);
        if claims.exp <= now_s {
            return Err(bad("has expired"));
        }
        if claims.nbf > now_s.saturating_add(CLOCK_SKEW.as_secs() as i64) {
            return Err(bad("is not valid yet"));
        }
        Ok(claims)
    }

    /// Whether any token can be checked: keys were got at least once.
    pub fn has_keys(&self) -> bool {
        self.current().got_at.is_some()
    }

    /// Asks for the first keys, so that the first caller need not wait for them. Nothing is asked once there are some.
    pub async fn get_first_keys(&self) {
        let _one_at_a_time = self.asking.lock().await;
        let known = self.current();
        if known.got_at.is_none() {
            self.ask(&known, self.clock.now()).await;
        }
    }

    async fn find_key(&self, kid: &str) -> Result<Option<DecodingKey>, Fault> {
        let known = self.current();
        if let Some(key) = known.by_kid.get(kid) {
            // It may be the last good set that is used: whoever holds a key is not kept waiting for a source that may not answer.
            if !known.is_fresh(self.clock.now()) {
                self.refresh();
            }
            return Ok(Some(key.clone()));
        }
        let _one_at_a_time = self.asking.lock().await;
        let now = self.clock.now();
        let known = self.current();
        if !known.by_kid.contains_key(kid) && known.may_ask(now) {
            self.ask(&known, now).await;
        }
        let known = self.current();
        if known.got_at.is_none() {
            return Err(Fault::unavailable("Access tokens cannot be checked right now."));
        }
        Ok(known.by_kid.get(kid).cloned())
    }

    /// Asks for the keys again beside the request that found them old, unless somebody does already.
    fn refresh(&self) {
        let now = self.clock.now();
        if !self.current().may_ask(now) {
            return;
        }
        let Ok(turn) = self.asking.clone().try_lock_owned() else {
            return;
        };
        let asker = self.clone();
        tokio::spawn(async move {
            let _turn = turn;
            let known = asker.current();
            // Another may have asked between the look and the turn.
            if known.may_ask(now) {
                asker.ask(&known, now).await;
            }
        });
    }

    /// The last good set stays in use when the source does not answer.
    async fn ask(&self, known: &Keys, now: Timestamp) {
        let answer = self.source.keys().await;
        let next = match answer {
            Ok(keys) => Keys {
                by_kid: decoding_keys(keys),
                got_at: Some(now),
                asked_at: Some(now),
            },
            Err(fault) => {
                tracing::warn!(%fault, "the token keys could not be got; the last good ones stay in use");
                Keys {
                    by_kid: known.by_kid.clone(),
                    got_at: known.got_at,
                    asked_at: Some(now),
                }
            }
        };
        *self.keys.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(next);
    }

    fn current(&self) -> Arc<Keys> {
        self.keys
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }
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
