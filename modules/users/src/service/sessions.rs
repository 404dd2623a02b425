//! Log-ins, refreshes and log-outs.

use banyan_core::Fault;
use banyan_http::Claims;
use secrecy::SecretString;
use uuid::Uuid;

use super::{Service, role_names};
use crate::{
    hasher::Slot,
    session::{self, RefreshToken, RevokedReason, Session, Tokens, Verdict},
    store,
    throttle::{self, Limits, LoginAttempt},
    user::User,
};

/// The outcome of the transaction of a refresh.
enum Exchange {
    Rotated { user: User, session_id: Uuid },
    AlreadyRefreshed,
    Reused { user_id: Uuid },
    Invalid,
}

/// The user whose password was right.
#[derive(Clone)]
pub(super) struct Verified {
    pub user_id: Uuid,
    /// The hash that matched; the user's password must still have it when the session is stored.
    pub hash: String,
    /// The same password with the parameters of now, if those of `hash` are outdated.
    pub new_hash: Option<String>,
}

impl Service {
    /// Opens a session if the password is right. `address` is the network address of the client.
    ///
    /// An unknown email address is handled like a known one, including the hash, so that neither the response nor its time reveals which are known.
    ///
    /// # Errors
    /// `invalid_credentials`; `too_many_failed_logins`; `unavailable` if too many requests wait for a password hash.
    pub async fn log_in(&self, email: &str, password: &SecretString, address: &str) -> Result<Tokens, Fault> {
        let attempt = LoginAttempt::new(self.ids.new_id(), email, address, self.clock.now());
        // Checked before a slot is acquired, so that a flood of throttled attempts does not fill the queue.
        self.check_limits(&attempt).await?;
        let slot = self.hasher.slot().await?;
        self.count_as_failed(&attempt).await?;
        let found = store::find_credentials(self.db.read(), &email.to_ascii_lowercase()).await?;
        let hash = found.as_ref().map_or(self.hasher.dummy_hash(), |(_, hash)| hash);
        let matches = slot.verify(password, hash).await?;
        let Some((user, hash)) = found.filter(|_| matches) else {
            count_login("refused");
            return Err(invalid_credentials());
        };
        let new_hash = self.renewed_hash(&slot, password, &hash).await?;
        drop(slot);
        let verified = Verified {
            user_id: user.id,
            hash,
            new_hash,
        };
        let tokens = self.open_session(verified, attempt.id).await?;
        count_login("opened");
        Ok(tokens)
    }

    /// Exchanges a refresh token for new tokens, with the user's current roles.
    ///
    /// # Errors
    /// `already_refreshed` for one that was used within the last 10 s; `invalid_refresh_token` for one that is unknown, expired, revoked or was
    /// used before that; such a use also revokes the session.
    pub async fn refresh(&self, token: &str) -> Result<Tokens, Fault> {
        let hash = session::hash_of(token);
        let secret = session::to_text(self.secrets.new_secret()?);
        let (now, lifetime) = (self.clock.now(), self.settings.refresh_token_lifetime());
        let next = RefreshToken::issue(&secret, Uuid::nil(), now, lifetime);
        let exchange = self
            .db
            .write((hash, next), move |tx, (hash, next)| async move {
                let Some((token, session)) = store::find_token(tx.conn(), &hash).await? else {
                    return Ok(Exchange::Invalid);
                };
                match token.judge(&session, now) {
                    Verdict::Expired => Ok(Exchange::Invalid),
                    Verdict::AlreadyRefreshed => Ok(Exchange::AlreadyRefreshed),
                    Verdict::Reused => {
                        // The revocation must be committed, so this is a result and not an error.
                        store::revoke_session(tx.conn(), session.id, RevokedReason::TokenReused, now).await?;
                        Ok(Exchange::Reused {
                            user_id: session.user_id,
                        })
                    }
                    Verdict::Rotate => {
                        let next = RefreshToken {
                            session_id: session.id,
                            ..next
                        };
                        store::rotate_token(tx.conn(), &hash, &next).await?;
                        let Some(user) = store::find_user(tx.conn(), session.user_id).await? else {
                            return Ok(Exchange::Invalid);
                        };
                        Ok(Exchange::Rotated {
                            user,
                            session_id: session.id,
                        })
                    }
                }
            })
            .await?;
        match exchange {
            Exchange::Rotated { user, session_id } => self.tokens(&user, session_id, secret),
            Exchange::Invalid => Err(invalid_refresh_token()),
            Exchange::AlreadyRefreshed => Err(Fault::conflict(
                "already_refreshed",
                "This refresh token was used a moment ago. Use the tokens that the other request got.",
            )),
            Exchange::Reused { user_id } => {
                metrics::counter!("users_refresh_tokens_reused_total").increment(1);
                tracing::warn!(%user_id, "a refresh token was used twice; its session is revoked");
                Err(invalid_refresh_token())
            }
        }
    }

    /// Ends a session: its refresh tokens become invalid. Its access token is valid until it expires.
    ///
    /// # Errors
    /// As any write.
    pub async fn log_out(&self, session_id: Uuid) -> Result<(), Fault> {
        let now = self.clock.now();
        self.db
            .write((), move |tx, ()| async move {
                store::revoke_session(tx.conn(), session_id, RevokedReason::LoggedOut, now).await
            })
            .await
    }

    /// Deletes expired refresh tokens, and the sessions that have none left. What a failure leaves is deleted the next time.
    pub async fn delete_expired_sessions(&self) {
        let now = self.clock.now();
        loop {
            let deleted = self.db.write(
                (),
                move |tx, ()| async move { store::delete_expired(tx.conn(), now).await },
            );
            match deleted.await {
                Ok(0) => return,
                Ok(_) => {}
                Err(fault) => {
                    tracing::warn!(%fault, "expired sessions could not be deleted");
                    return;
                }
            }
        }
    }

    async fn check_limits(&self, attempt: &LoginAttempt) -> Result<(), Fault> {
        let checked = check_limits(self.db.read(), attempt, self.settings.failure_limits()).await;
        if checked.is_err() {
            count_login("throttled");
        }
        checked
    }

    /// Counts the attempt as failed before the password is checked, under the same limits: see [`throttle`].
    async fn count_as_failed(&self, attempt: &LoginAttempt) -> Result<(), Fault> {
        let limits = self.settings.failure_limits();
        self.db
            .write(attempt.clone(), move |tx, attempt| async move {
                check_limits(tx.conn(), &attempt, limits).await?;
                store::insert_failure(tx.conn(), &attempt, attempt.at.minus(throttle::WINDOW)).await
            })
            .await
    }

    async fn renewed_hash(
        &self,
        slot: &Slot<'_>,
        password: &SecretString,
        hash: &str,
    ) -> Result<Option<String>, Fault> {
        if slot.is_outdated(hash) {
            slot.hash(password).await.map(Some)
        } else {
            Ok(None)
        }
    }

    /// Opens a session with the user's roles as they are when it is stored, so that a change of roles either shows in the session or ends it.
    pub(super) async fn open_session(&self, verified: Verified, attempt_id: Uuid) -> Result<Tokens, Fault> {
        let secret = session::to_text(self.secrets.new_secret()?);
        let now = self.clock.now();
        let session = Session {
            id: self.ids.new_id(),
            user_id: verified.user_id,
            created_at: now,
            revoked_at: None,
        };
        let token = RefreshToken::issue(&secret, session.id, now, self.settings.refresh_token_lifetime());
        let session_id = session.id;
        let context = (session, token, verified);
        let user = self
            .db
            .write(context, move |tx, (session, token, verified)| async move {
                let locked = store::lock_credentials(tx.conn(), session.user_id).await?;
                let (user, _) = locked
                    .filter(|(_, hash)| *hash == verified.hash)
                    .ok_or_else(invalid_credentials)?;
                store::delete_failure(tx.conn(), attempt_id).await?;
                if let Some(new) = &verified.new_hash {
                    store::replace_hash(tx.conn(), session.user_id, &verified.hash, new).await?;
                }
                store::insert_session(tx.conn(), &session, &token).await?;
                Ok(user)
            })
            .await?;
        self.tokens(&user, session_id, secret)
    }

    fn tokens(&self, user: &User, session_id: Uuid, refresh_token: String) -> Result<Tokens, Fault> {
        let now_s = self.clock.now().as_ms().div_euclid(1_000);
        let lifetime = self.settings.access_token_lifetime();
        let claims = Claims {
            sub: user.id,
            roles: role_names(&user.roles),
            iss: self.settings.issuer.clone(),
            aud: self.settings.audience.clone(),
            iat: now_s,
            nbf: now_s,
            exp: now_s.saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)),
            jti: self.ids.new_id(),
            sid: Some(session_id),
        };
        Ok(Tokens {
            access_token: self.keys.sign(&claims)?,
            token_type: "Bearer",
            expires_in: lifetime.as_secs(),
            refresh_token,
        })
    }
}

async fn check_limits(conn: &impl store::Readable, attempt: &LoginAttempt, limits: Limits) -> Result<(), Fault> {
    let since = attempt.at.minus(throttle::WINDOW);
    let (of_account, of_address) = store::latest_failures(conn, attempt, since, limits).await?;
    let account = throttle::retry_after(&of_account, limits.per_account, attempt.at);
    let address = throttle::retry_after(&of_address, limits.per_address, attempt.at);
    throttle::check(account.max(address))
}

fn invalid_credentials() -> Fault {
    Fault::unauthenticated("invalid_credentials", "Email address or password is wrong.")
}

fn invalid_refresh_token() -> Fault {
    Fault::unauthenticated(
        "invalid_refresh_token",
        "The refresh token is not valid any more. Log in again.",
    )
}

fn count_login(outcome: &'static str) {
    metrics::counter!("banyan_logins_total", "outcome" => outcome).increment(1);
}
