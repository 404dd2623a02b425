//! Profiles, and the contract. Each method that writes is one transaction, which includes its events.

mod account_mails;
mod accounts;
mod email_addresses;
mod passwords;
mod registration;
mod sessions;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use banyan_core::{Actor, Call, Clock, Fault, FaultKind, Ids, Page, PageRequest, Secrets, Timestamp, parse_id};
use banyan_durable::{Db, outbox};
use banyan_http::rate_limit::Limiter;
use shared_kernel::Role;
use users_contract::{
    EndedSessions, FindUser, FoundUser, ListEndedSessions, ListSigningKeys, PrepareAccountMail, PreparedAccountMail,
    SigningKey, SigningKeys, User as UserMessage, UserProfileChanged, UserRegistered, Users,
};
use uuid::Uuid;

pub(crate) use accounts::etag;
pub(crate) use registration::Registered;

use crate::{
    Settings,
    hasher::Hasher,
    keys::{Jwk, Keys},
    store,
    user::{ProfileChange, User},
};

/// The maximum number of ended sessions in a response.
const MAX_ENDED_LISTED: usize = 10_000;

pub struct Service {
    pub(crate) db: Db,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn Ids>,
    pub(crate) secrets: Arc<dyn Secrets>,
    pub(crate) hasher: Hasher,
    /// The registrations of each network address.
    pub(crate) registrations: Limiter,
    /// The requests for mails of each network address.
    pub(crate) mail_requests: Limiter,
    pub(crate) keys: Keys,
    pub(crate) settings: Settings,
}

impl Service {
    /// # Errors
    /// `not_found`, also for a user whom `actor` may not see.
    pub async fn load_visible(&self, actor: &Actor, id: Uuid) -> Result<User, Fault> {
        store::find_visible_user(self.db.read(), id, actor)
            .await?
            .ok_or_else(|| Fault::not_found("user"))
    }

    /// The users, newest first; with `email` only the one with this address, in any case.
    ///
    /// # Errors
    /// `invalid_parameter` for a cursor of another list.
    pub async fn list(&self, page: &PageRequest, email: Option<&str>) -> Result<Page<User>, Fault> {
        store::list_users(self.db.read(), page, email.map(str::to_ascii_lowercase).as_deref()).await
    }

    /// Changes the caller's own profile. With `expected` only if that is the current version.
    ///
    /// # Errors
    /// `not_found`; `precondition_failed` if `expected` is not the current version.
    pub async fn change_profile(
        &self,
        call: &Call,
        id: Uuid,
        change: ProfileChange,
        expected: Option<i64>,
    ) -> Result<User, Fault> {
        let now = self.clock.now();
        self.db
            .write((call.clone(), change), move |tx, (call, change)| async move {
                let user = store::find_visible_user(tx.conn(), id, &call.actor)
                    .await?
                    .ok_or_else(|| Fault::not_found("user"))?;
                check_version(&user, expected)?;
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

    /// The public keys of access tokens.
    pub fn jwks(&self) -> &[Jwk] {
        self.keys.published()
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
            roles: role_names(&user.roles),
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

    async fn list_ended_sessions(&self, _: &Call, request: ListEndedSessions) -> Result<EndedSessions, Fault> {
        self.list_ended(request.since_ms.map(Timestamp::from_ms), MAX_ENDED_LISTED)
            .await
    }

    async fn prepare_account_mail(
        &self,
        call: &Call,
        request: PrepareAccountMail,
    ) -> Result<PreparedAccountMail, Fault> {
        self.prepare_mail(call, request).await
    }
}

/// The subject of a user's events.
pub(crate) fn subject(id: Uuid) -> String {
    format!("user/{id}")
}

/// `unverified` if the user must verify their address before they log in.
pub(crate) fn user_registered(user: &User, unverified: bool) -> UserRegistered {
    UserRegistered {
        unverified,
        user_id: user.id.to_string(),
        name: user.name.as_str().to_owned(),
    }
}

fn role_names(roles: &[Role]) -> Vec<String> {
    roles.iter().map(|role| (*role).into()).collect()
}

fn check_version(user: &User, expected: Option<i64>) -> Result<(), Fault> {
    match expected {
        Some(version) if version != user.version => Err(Fault::new(
            FaultKind::PreconditionFailed,
            "precondition_failed",
            "It has changed since you read it: read it again and repeat the change with its new ETag.",
        )),
        _ => Ok(()),
    }
}
