//! What the module does: one method, one transaction, its events inside it.

use std::sync::Arc;

use async_trait::async_trait;
use banyan_core::{Actor, Call, Clock, Fault, FaultKind, Ids, Page, PageRequest, Secrets, parse_id};
use banyan_durable::{Db, outbox};
use banyan_http::Claims;
use secrecy::SecretString;
use shared_kernel::Role;
use users_contract::{
    FindUser, FoundUser, ListSigningKeys, SigningKey, SigningKeys, User as UserMessage, UserProfileChanged,
    UserRegistered, Users,
};
use uuid::Uuid;

use crate::{
    Settings,
    attempts::{self, Attempt},
    keys::{Jwk, Keys},
    password::{Hasher, Slot},
    session::{self, RefreshToken, RevokedReason, Session, Tokens, Verdict},
    store,
    user::{ProfileChange, Registration, User},
};

pub struct Service {
    pub(crate) db: Db,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn Ids>,
    pub(crate) secrets: Arc<dyn Secrets>,
    pub(crate) hasher: Hasher,
    pub(crate) keys: Keys,
    pub(crate) settings: Settings,
}

/// What the transaction of a refresh came to.
enum Exchange {
    Rotated(User, Uuid),
    Reused(Uuid),
    Over,
}

impl Service {
    /// Makes a customer.
    ///
    /// # Errors
    /// `email_taken`; `unavailable` when too many passwords wait to be hashed.
    pub async fn register(&self, call: &Call, registration: Registration) -> Result<User, Fault> {
        // A hash is dear: who cannot register anyway need not wait for one. The unique index decides.
        if store::find_credentials(self.db.read(), &registration.email.lower())
            .await?
            .is_some()
        {
            return Err(store::email_taken());
        }
        let hash = self.hasher.slot().await?.hash(registration.password.secret()).await?;
        let now = self.clock.now();
        let user = User::register(
            self.ids.new_id(),
            registration.email,
            registration.name,
            vec![Role::Customer],
            now,
        );
        let (call, new) = (call.clone(), user.clone());
        self.db
            .write((call, new, hash), |tx, (call, user, hash)| async move {
                store::insert_user(tx.conn(), &user, &hash).await?;
                outbox::append(&tx, &call, &subject(user.id), &registered(&user))
                    .await
                    .map(drop)
            })
            .await?;
        Ok(user)
    }

    /// Opens a session for whoever knows the password. `address` is where the request comes from.
    ///
    /// An unknown email address takes the same way as a known one, the hash included, so that neither answer nor time tells which are known.
    ///
    /// # Errors
    /// `invalid_credentials`; `too_many_failed_logins`; `unavailable` when too many passwords wait to be hashed.
    pub async fn log_in(&self, email: &str, password: &SecretString, address: &str) -> Result<Tokens, Fault> {
        let attempt = Attempt::new(self.ids.new_id(), email, address, self.clock.now());
        // Looked at first without a place in the queue, which a flood of hopeless attempts must not take from others.
        self.refuse_guessing(&attempt, self.db.read()).await?;
        let slot = self.hasher.slot().await?;
        self.count_as_failed(&attempt).await?;
        let found = store::find_credentials(self.db.read(), &email.to_ascii_lowercase()).await?;
        let hash = found.as_ref().map_or(self.hasher.nobodys_hash(), |(_, hash)| hash);
        let matches = slot.verify(password, hash).await?;
        let Some((user, hash)) = found.filter(|_| matches) else {
            count_login("refused");
            return Err(Fault::unauthenticated(
                "invalid_credentials",
                "Email address or password is wrong.",
            ));
        };
        let new_hash = self.renewed_hash(&slot, password, &hash).await?;
        drop(slot);
        let tokens = self
            .open_session(&user, attempt.id, new_hash.map(|new| (hash, new)))
            .await?;
        count_login("opened");
        Ok(tokens)
    }

    /// Exchanges a refresh token for new tokens, with the user's present roles.
    ///
    /// # Errors
    /// `invalid_refresh_token` for one that is unknown, expired, revoked or was used before; the last also ends its session.
    pub async fn refresh(&self, token: &str) -> Result<Tokens, Fault> {
        let hash = session::hash_of(token);
        let secret = session::to_text(self.secrets.new_secret()?);
        let (now, life) = (self.clock.now(), self.settings.refresh_token_life());
        let next = RefreshToken::issue(&secret, Uuid::nil(), now, life);
        let exchange = self
            .db
            .write((hash, next), move |tx, (hash, next)| async move {
                let Some((token, session)) = store::find_token(tx.conn(), &hash).await? else {
                    return Ok(Exchange::Over);
                };
                match token.judge(&session, now) {
                    Verdict::Over => Ok(Exchange::Over),
                    Verdict::Reused => {
                        // This must be committed, so it is an answer and not an error.
                        store::revoke_session(tx.conn(), session.id, RevokedReason::TokenReused, now).await?;
                        Ok(Exchange::Reused(session.user_id))
                    }
                    Verdict::Rotate => {
                        let next = RefreshToken {
                            session_id: session.id,
                            ..next
                        };
                        store::rotate_token(tx.conn(), &hash, &next).await?;
                        let user = store::find_user(tx.conn(), session.user_id).await?;
                        Ok(user.map_or(Exchange::Over, |user| Exchange::Rotated(user, session.id)))
                    }
                }
            })
            .await?;
        match exchange {
            Exchange::Rotated(user, session_id) => self.tokens(&user, session_id, secret),
            Exchange::Over => Err(invalid_refresh_token()),
            Exchange::Reused(user_id) => {
                metrics::counter!("users_refresh_tokens_reused_total").increment(1);
                tracing::warn!(%user_id, "a refresh token was used twice; its session is revoked");
                Err(invalid_refresh_token())
            }
        }
    }

    /// Ends a session: none of its refresh tokens is good any more. An access token lives on until it expires.
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

    /// # Errors
    /// `not_found`, also for a user whom `actor` may not see.
    pub async fn load_visible(&self, actor: &Actor, id: Uuid) -> Result<User, Fault> {
        store::find_visible_user(self.db.read(), id, actor)
            .await?
            .ok_or_else(|| Fault::not_found("user"))
    }

    /// Newest first; `email` finds the one user who has it, in any case.
    ///
    /// # Errors
    /// `invalid_parameter` for a cursor of another list.
    pub async fn list(&self, page: &PageRequest, email: Option<&str>) -> Result<Page<User>, Fault> {
        store::list_users(self.db.read(), page, email.map(str::to_ascii_lowercase).as_deref()).await
    }

    /// Changes the caller's own profile. `seen`: the version the caller means to change, if they said so.
    ///
    /// # Errors
    /// `not_found`; `precondition_failed` if the profile is not at `seen` any more.
    pub async fn change_profile(
        &self,
        call: &Call,
        id: Uuid,
        change: ProfileChange,
        seen: Option<i64>,
    ) -> Result<User, Fault> {
        let (call, now) = (call.clone(), self.clock.now());
        self.db
            .write((call, change), move |tx, (call, change)| async move {
                let user = store::find_visible_user(tx.conn(), id, &call.actor)
                    .await?
                    .ok_or_else(|| Fault::not_found("user"))?;
                check_seen(&user, seen)?;
                let Some(changed) = user.change_profile(change, now) else {
                    return Ok(user);
                };
                store::update_user(tx.conn(), &changed).await?;
                let event = UserProfileChanged {
                    user_id: id.to_string(),
                    name: changed.name.as_str().to_owned(),
                };
                outbox::append(&tx, &call, &subject(id), &event).await?;
                Ok(changed)
            })
            .await
    }

    /// Gives a user these roles and no others. It shows in their next access token: at the latest when the present one has expired.
    ///
    /// # Errors
    /// `not_found`; `own_operations_role`.
    pub async fn change_roles(&self, call: &Call, id: Uuid, roles: Vec<Role>) -> Result<User, Fault> {
        let (call, now) = (call.clone(), self.clock.now());
        self.db
            .write((call, roles), move |tx, (call, roles)| async move {
                let user = store::find_user(tx.conn(), id)
                    .await?
                    .ok_or_else(|| Fault::not_found("user"))?;
                let Some(changed) = user.with_roles(&roles, &call.actor, now)? else {
                    return Ok(user);
                };
                store::update_user(tx.conn(), &changed).await?;
                let (before, after) = (names(&user.roles).join(","), names(&changed.roles).join(","));
                banyan_durable::audit(
                    &tx,
                    &call.actor,
                    "change_roles",
                    &subject(id),
                    &format!("{before} -> {after}"),
                    None,
                )
                .await?;
                Ok(changed)
            })
            .await
    }

    /// The public keys of access tokens.
    pub fn jwks(&self) -> &[Jwk] {
        self.keys.published()
    }

    async fn refuse_guessing(&self, attempt: &Attempt, conn: &impl store::Readable) -> Result<(), Fault> {
        let limits = (
            self.settings.account_failures_per_minute,
            self.settings.address_failures_per_minute,
        );
        let refused = refuse_guessing(conn, attempt, limits).await;
        if refused.is_err() {
            count_login("throttled");
        }
        refused
    }

    /// Counts before the password is checked, under the same limits: see [`attempts`].
    async fn count_as_failed(&self, attempt: &Attempt) -> Result<(), Fault> {
        let limits = (
            self.settings.account_failures_per_minute,
            self.settings.address_failures_per_minute,
        );
        let attempt = attempt.clone();
        self.db
            .write(attempt, move |tx, attempt| async move {
                refuse_guessing(tx.conn(), &attempt, limits).await?;
                store::insert_failure(tx.conn(), &attempt, attempt.at.minus(attempts::WINDOW)).await
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

    async fn open_session(
        &self,
        user: &User,
        attempt_id: Uuid,
        new_hash: Option<(String, String)>,
    ) -> Result<Tokens, Fault> {
        let secret = session::to_text(self.secrets.new_secret()?);
        let now = self.clock.now();
        let session = Session {
            id: self.ids.new_id(),
            user_id: user.id,
            created_at: now,
            revoked_at: None,
        };
        let token = RefreshToken::issue(&secret, session.id, now, self.settings.refresh_token_life());
        let session_id = session.id;
        self.db
            .write(
                (session, token, new_hash),
                move |tx, (session, token, new_hash)| async move {
                    store::delete_failure(tx.conn(), attempt_id).await?;
                    if let Some((old, new)) = &new_hash {
                        store::replace_hash(tx.conn(), session.user_id, old, new).await?;
                    }
                    store::insert_session(tx.conn(), &session, &token).await
                },
            )
            .await?;
        self.tokens(user, session_id, secret)
    }

    fn tokens(&self, user: &User, session_id: Uuid, refresh_token: String) -> Result<Tokens, Fault> {
        let now_s = self.clock.now().as_ms().div_euclid(1_000);
        let life = self.settings.access_token_life();
        let claims = Claims {
            sub: user.id,
            roles: names(&user.roles),
            iss: self.settings.issuer.clone(),
            aud: self.settings.audience.clone(),
            iat: now_s,
            nbf: now_s,
            exp: now_s.saturating_add(i64::try_from(life.as_secs()).unwrap_or(i64::MAX)),
            jti: self.ids.new_id(),
            sid: Some(session_id),
        };
        Ok(Tokens {
            access_token: self.keys.sign(&claims)?,
            token_type: "Bearer",
            expires_in: life.as_secs(),
            refresh_token,
        })
    }
}

#[async_trait]
impl Users for Service {
    async fn find_user(&self, call: &Call, request: FindUser) -> Result<FoundUser, Fault> {
        let id = parse_id("user_id", &request.user_id)?;
        let user = store::find_visible_user(self.db.read(), id, &call.actor).await?;
        let message = |user: User| UserMessage {
            id: user.id.to_string(),
            email: user.email.into(),
            name: user.name.into(),
            roles: names(&user.roles),
        };
        Ok(FoundUser {
            user: user.map(message),
        })
    }

    async fn list_signing_keys(&self, _: &Call, _: ListSigningKeys) -> Result<SigningKeys, Fault> {
        let items = self.keys.published().iter().map(|key| SigningKey {
            kid: key.kid.clone(),
            x: key.x.clone(),
        });
        Ok(SigningKeys { items: items.collect() })
    }
}

async fn refuse_guessing(conn: &impl store::Readable, attempt: &Attempt, limits: (u64, u64)) -> Result<(), Fault> {
    let (of_account, of_address) =
        store::latest_failures(conn, attempt, attempt.at.minus(attempts::WINDOW), limits).await?;
    let account = attempts::wait(&of_account, limits.0, attempt.at);
    attempts::refuse(account.max(attempts::wait(&of_address, limits.1, attempt.at)))
}

/// The subject of a user's events.
pub(crate) fn subject(id: Uuid) -> String {
    format!("user/{id}")
}

pub(crate) fn registered(user: &User) -> UserRegistered {
    UserRegistered {
        user_id: user.id.to_string(),
        name: user.name.as_str().to_owned(),
    }
}

fn names(roles: &[Role]) -> Vec<String> {
    roles.iter().map(|role| role.as_str().to_owned()).collect()
}

fn check_seen(user: &User, seen: Option<i64>) -> Result<(), Fault> {
    match seen {
        Some(version) if version != user.version => Err(Fault::new(
            FaultKind::PreconditionFailed,
            "precondition_failed",
            "It has changed since you read it: read it again and repeat the change with its new ETag.",
        )),
        _ => Ok(()),
    }
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
