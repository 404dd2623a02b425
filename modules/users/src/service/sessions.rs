//! Log-ins, refreshes and log-outs.

use std::time::Duration;

use banyan_core::{Fault, FaultKind, Page, PageRequest, Timestamp};
use banyan_http::Claims;
use secrecy::SecretString;
use users_contract::{EndedSession, EndedSessions};
use uuid::Uuid;

use super::{Service, role_names};
use crate::{
    fair_queue::Work,
    hasher::Slot,
    security,
    session::{self, OpenSession, RefreshToken, RevokedReason, Session, Tokens, Verdict},
    store,
    throttle::{self, Limits, LoginAttempt},
    user::User,
};

/// How much longer than its access tokens an ended session is listed: a refresh and the end of its session may happen at the same moment.
const ENDED_SLACK: Duration = Duration::from_secs(60);

/// The outcome of the transaction of a refresh.
enum Exchange {
    Rotated { user: Box<User>, session: Session },
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
    /// `invalid_credentials`; `account_disabled`; `email_not_verified`; `too_many_failed_logins`; `unavailable` if too many requests wait for a password hash.
    pub async fn log_in(&self, email: &str, password: &SecretString, address: &str) -> Result<Tokens, Fault> {
        let attempt = LoginAttempt::new(self.ids.new_id(), email, address, self.clock.now());
        // Checked before a slot is acquired, so that a flood of throttled attempts does not fill the queue.
        let refused = |fault: &Fault| security::log_in_failed(None, address, &fault.code);
        self.check_limits(&attempt).await.inspect_err(refused)?;
        let slot = self.hasher.slot(Work::LogIn, address).await?;
        self.count_as_failed(&attempt).await.inspect_err(refused)?;
        let found = store::find_credentials(self.db.read(), &email.to_ascii_lowercase()).await?;
        let hash = found.as_ref().map_or(self.hasher.dummy_hash(), |(_, hash)| hash);
        let matches = slot.verify(password, hash).await?;
        let known = found.as_ref().map(|(user, _)| user.id);
        let Some((user, hash)) = found.filter(|_| matches) else {
            count_login("refused");
            let reason = known.map_or("unknown_account", |_| "wrong_password");
            security::log_in_failed(known, address, reason);
            return Err(invalid_credentials());
        };
        let new_hash = self.renewed_hash(&slot, password, &hash).await?;
        drop(slot);
        let verified = Verified {
            user_id: user.id,
            hash,
            new_hash,
        };
        let opened = self.open_session(verified, &attempt).await;
        let tokens = opened.inspect_err(|fault| security::log_in_failed(known, address, &fault.code))?;
        count_login("opened");
        security::event("log_in", user.id, &format!("user:{}", user.id), address, "");
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
        let now = self.clock.now();
        let (life, session_life) = (self.settings.refresh_token_lifetime(), self.settings.session_lifetime());
        let next = RefreshToken::issue(&secret, Uuid::nil(), now, now.plus(life));
        let exchange = self
            .db
            .write((hash, next), move |tx, (hash, next)| async move {
                let Some((token, session)) = store::find_token(tx.conn(), &hash).await? else {
                    return Ok(Exchange::Invalid);
                };
                let ends_at = session.ends_at(session_life);
                if now >= ends_at {
                    return Ok(Exchange::Invalid);
                }
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
                            expires_at: next.expires_at.min(ends_at),
                            ..next
                        };
                        store::rotate_token(tx.conn(), &hash, &next).await?;
                        let Some(user) = store::find_user(tx.conn(), session.user_id).await? else {
                            return Ok(Exchange::Invalid);
                        };
                        let user = Box::new(user);
                        Ok(Exchange::Rotated { user, session })
                    }
                }
            })
            .await?;
        match exchange {
            Exchange::Rotated { user, session } => self.tokens(&user, &session, secret),
            Exchange::Invalid => Err(invalid_refresh_token()),
            Exchange::AlreadyRefreshed => Err(Fault::conflict(
                "already_refreshed",
                "This refresh token was used a moment ago. Use the tokens that the other request got.",
            )),
            Exchange::Reused { user_id } => {
                metrics::counter!("users_refresh_tokens_reused_total").increment(1);
                security::event("session_ended", user_id, "", "", "refresh_token_reused");
                Err(invalid_refresh_token())
            }
        }
    }

    /// Ends a session: its refresh tokens become invalid, and its access tokens are refused everywhere within 5 s.
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

    /// The open sessions of a user; `current` is the one of the caller.
    ///
    /// # Errors
    /// `invalid_parameter` for a cursor of another list.
    pub async fn list_sessions(
        &self,
        user_id: Uuid,
        current: Option<Uuid>,
        page: &PageRequest,
    ) -> Result<Page<OpenSession>, Fault> {
        let open = store::list_sessions(self.db.read(), user_id, self.clock.now(), page).await?;
        let items = open.items.into_iter().map(|(session, token)| OpenSession {
            id: session.id,
            created_at: session.created_at,
            refreshed_at: token.issued_at,
            expires_at: token.expires_at,
            current: current == Some(session.id),
        });
        Ok(Page {
            items: items.collect(),
            next: open.next,
        })
    }

    /// Ends one of the caller's own sessions.
    ///
    /// # Errors
    /// `not_found`, also for a session of somebody else.
    pub async fn end_session(&self, user_id: Uuid, id: Uuid) -> Result<(), Fault> {
        let now = self.clock.now();
        let ended = self.db.write((), move |tx, ()| async move {
            store::revoke_session_of(tx.conn(), user_id, id, RevokedReason::EndedByUser, now).await
        });
        if ended.await? {
            security::event(
                "session_ended",
                user_id,
                &format!("user:{user_id}"),
                "",
                "ended_by_user",
            );
            Ok(())
        } else {
            Err(Fault::not_found("session"))
        }
    }

    /// The sessions that ended after `since`, or all whose access tokens may not have expired, but at most `limit`, the latest ones.
    ///
    /// # Errors
    /// As any query.
    pub async fn list_ended(&self, since: Option<Timestamp>, limit: usize) -> Result<EndedSessions, Fault> {
        let now = self.clock.now();
        let life = Duration::from_secs(self.settings.access_token_seconds);
        let earliest = now.minus(life).minus(ENDED_SLACK);
        let since = since.map_or(earliest, |since| since.max(earliest));
        let mut ended = store::list_revoked(self.db.read(), since, limit as u64 + 1).await?;
        let unlisted = ended.split_off(ended.len().min(limit));
        let items = ended.into_iter().map(|(id, ended_at)| EndedSession {
            id: id.to_string(),
            ended_at_ms: ended_at.as_ms(),
        });
        Ok(EndedSessions {
            items: items.collect(),
            as_of_ms: now.as_ms(),
            refused_until_ms: unlisted.first().map(|(_, ended_at)| ended_at.as_ms()),
            access_token_seconds: self.settings.access_token_seconds,
        })
    }

    /// Deletes expired refresh tokens, the sessions that have none left, the addresses without a log-in for long, and expired mails. What a failure leaves is
    /// deleted the next time.
    pub async fn delete_expired(&self) {
        let now = self.clock.now();
        let known_since = now.minus(throttle::KNOWN_FOR);
        loop {
            let deleted = self.db.write((), move |tx, ()| async move {
                let addresses = store::delete_old_addresses(tx.conn(), known_since, store::CLEANUP_BATCH).await?;
                let mails = store::delete_old_mails(tx.conn(), now, store::CLEANUP_BATCH).await?;
                Ok(addresses + mails + store::delete_expired(tx.conn(), now).await?)
            });
            match deleted.await {
                Ok(0) => return,
                Ok(_) => {}
                Err(fault) => {
                    tracing::warn!(%fault, "expired sessions, addresses and mails could not be deleted");
                    return;
                }
            }
        }
    }

    pub(super) async fn check_limits(&self, attempt: &LoginAttempt) -> Result<(), Fault> {
        let checked = check_limits(self.db.read(), attempt, self.settings.failure_limits()).await;
        if checked.is_err() {
            count_login("throttled");
        }
        checked.map(drop)
    }

    /// Counts the attempt as failed before the password is checked, under the same limits: see [`throttle`].
    pub(super) async fn count_as_failed(&self, attempt: &LoginAttempt) -> Result<(), Fault> {
        let limits = self.settings.failure_limits();
        self.db
            .write(attempt.clone(), move |tx, attempt| async move {
                let known_address = check_limits(tx.conn(), &attempt, limits).await?;
                store::insert_failure(tx.conn(), &attempt, known_address).await
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
    pub(super) async fn open_session(&self, verified: Verified, attempt: &LoginAttempt) -> Result<Tokens, Fault> {
        let secret = session::to_text(self.secrets.new_secret()?);
        let now = self.clock.now();
        let session = Session {
            id: self.ids.new_id(),
            user_id: verified.user_id,
            created_at: now,
            revoked_at: None,
        };
        let ends_at = session.ends_at(self.settings.session_lifetime());
        let expires_at = now.plus(self.settings.refresh_token_lifetime()).min(ends_at);
        let token = RefreshToken::issue(&secret, session.id, now, expires_at);
        let context = (session.clone(), token, verified, attempt.clone());
        let verify_email = self.settings.verify_email;
        let user = self
            .db
            .write(context, move |tx, (session, token, verified, attempt)| async move {
                let locked = store::lock_credentials(tx.conn(), session.user_id).await?;
                let (user, _) = locked
                    .filter(|(_, hash)| *hash == verified.hash)
                    .ok_or_else(invalid_credentials)?;
                if user.disabled_at.is_some() {
                    return Err(Fault::new(
                        FaultKind::Forbidden,
                        "account_disabled",
                        "This account is disabled. Ask the shop's operators.",
                    ));
                }
                if verify_email && user.email_verified_at.is_none() {
                    let detail = "Verify your email address first, with the token in the mail to it. POST /api/v1/users/email-verification-requests sends another one.";
                    return Err(Fault::new(FaultKind::Forbidden, "email_not_verified", detail));
                }
                store::delete_failure(tx.conn(), attempt.id).await?;
                store::remember_address(tx.conn(), &attempt).await?;
                if let Some(new) = &verified.new_hash {
                    store::replace_hash(tx.conn(), session.user_id, &verified.hash, new).await?;
                }
                store::insert_session(tx.conn(), &session, &token).await?;
                Ok(user)
            })
            .await?;
        self.tokens(&user, &session, secret)
    }

    fn tokens(&self, user: &User, session: &Session, refresh_token: String) -> Result<Tokens, Fault> {
        let now = self.clock.now();
        let now_s = now.as_ms().div_euclid(1_000);
        // An access token does not outlive its session.
        let rest = session.ends_at(self.settings.session_lifetime()).since(now);
        let lifetime_s = self.settings.access_token_seconds.min(rest.as_secs().max(1));
        let claims = Claims {
            sub: user.id,
            roles: role_names(&user.roles),
            iss: self.settings.issuer.clone(),
            aud: self.settings.audience.clone(),
            iat: now_s,
            nbf: now_s,
            exp: now_s.saturating_add(i64::try_from(lifetime_s).unwrap_or(i64::MAX)),
            jti: self.ids.new_id(),
            sid: session.id,
        };
        Ok(Tokens {
            access_token: self.keys.sign(&claims)?,
            token_type: "Bearer",
            expires_in: lifetime_s,
            refresh_token,
        })
    }
}

/// Whether the account logged in from the address of the attempt lately.
///
/// # Errors
/// `too_many_failed_logins`.
async fn check_limits(conn: &impl store::Readable, attempt: &LoginAttempt, limits: Limits) -> Result<bool, Fault> {
    let history = store::load_history(conn, attempt, limits).await?;
    history.check(limits, attempt.at)?;
    Ok(history.is_known(attempt.at))
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
