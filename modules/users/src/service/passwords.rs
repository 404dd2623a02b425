//! Changes of passwords.

use banyan_core::{Actor, Fault, FaultKind};
use secrecy::SecretString;
use uuid::Uuid;

use super::{Service, subject};
use crate::{
    fair_queue::Work,
    password::Password,
    session::RevokedReason,
    store,
    throttle::{self, LoginAttempt},
};

impl Service {
    /// Changes a user's own password and ends their other sessions. `session_id` is the one that goes on, `address` the network address of the client.
    ///
    /// Whoever has only the access token must not be able to try passwords, so each try counts as a log-in does.
    ///
    /// # Errors
    /// `invalid_password`; `wrong_password`; `too_many_failed_logins`; `unavailable` if too many requests wait for a password hash.
    pub async fn change_password(
        &self,
        user_id: Uuid,
        session_id: Option<Uuid>,
        current: &SecretString,
        new: &Password,
        address: &str,
    ) -> Result<(), Fault> {
        let (user, hash) = store::load_credentials(self.db.read(), user_id).await?;
        new.check_for(&user.email, &self.settings.issuer, "/new_password")?;
        let now = self.clock.now();
        let attempt = LoginAttempt::new(self.ids.new_id(), user.email.as_str(), address, now);
        self.check_limits(&attempt).await?;
        let slot = self.hasher.slot(Work::LogIn, address).await?;
        self.count_as_failed(&attempt).await?;
        if !slot.verify(current, &hash).await? {
            return Err(wrong_password());
        }
        let new_hash = slot.hash(new.secret()).await?;
        drop(slot);
        let context = (hash, new_hash, attempt);
        self.db
            .write(context, move |tx, (hash, new_hash, attempt)| async move {
                store::delete_failure(tx.conn(), attempt.id).await?;
                if !store::replace_hash(tx.conn(), user_id, &hash, &new_hash).await? {
                    return Err(wrong_password());
                }
                store::forget_addresses(tx.conn(), &attempt.account, Some(&attempt.address)).await?;
                store::revoke_sessions_of(tx.conn(), user_id, session_id, RevokedReason::PasswordChanged, now).await
            })
            .await?;
        tracing::info!(user = %subject(user_id), %address, "a password was changed by its user; their other sessions are ended");
        Ok(())
    }

    /// Replaces the password of a user by one that whoever runs the shop has chosen, and ends all their sessions.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn reset_password(&self, user_id: Uuid, new_hash: String) -> Result<(), Fault> {
        let now = self.clock.now();
        self.db
            .write(new_hash, move |tx, new_hash| async move {
                let locked = store::lock_credentials(tx.conn(), user_id).await?;
                let (user, hash) = locked.ok_or_else(|| Fault::not_found("user"))?;
                store::replace_hash(tx.conn(), user_id, &hash, &new_hash).await?;
                store::forget_addresses(tx.conn(), &throttle::hash_of(user.email.as_str()), None).await?;
                store::revoke_sessions_of(tx.conn(), user_id, None, RevokedReason::PasswordReset, now).await?;
                let actor = Actor::module("users");
                let how = "on the command line";
                banyan_durable::audit(&tx, &actor, "reset_password", &subject(user_id), how, None).await
            })
            .await
    }
}

fn wrong_password() -> Fault {
    Fault::new(FaultKind::Forbidden, "wrong_password", "The current password is wrong.")
        .at("/current_password", "is wrong")
}
