//! Changes and resets of passwords.

use banyan_core::{Actor, Call, Fault, FaultKind};
use banyan_durable::Tx;
use secrecy::SecretString;
use uuid::Uuid;

use super::{
    Service,
    account_mails::{queue, redeem},
    subject,
};
use crate::{
    account_mail::Kind,
    fair_queue::Work,
    hasher::Slot,
    password::Password,
    security,
    session::{self, RevokedReason},
    store,
    throttle::{self, LoginAttempt},
    user::User,
};

/// A user who has shown that they know their password.
pub(super) struct Confirmed<'h> {
    /// The hash that matched; the user's password must still have it when the change is stored.
    pub hash: String,
    /// The attempt, which counts as failed until it is deleted with the change.
    pub attempt: LoginAttempt,
    pub slot: Slot<'h>,
}

impl Service {
    /// Changes a user's own password, ends their other sessions and tells them by mail. `session_id` is the one that goes on, `address` the network
    /// address of the client.
    ///
    /// # Errors
    /// `invalid_password`; `wrong_password`; `too_many_failed_logins`; `unavailable` if too many requests wait for a password hash.
    pub async fn change_password(
        &self,
        call: &Call,
        (user_id, session_id): (Uuid, Option<Uuid>),
        current: &SecretString,
        new: &Password,
        address: &str,
    ) -> Result<(), Fault> {
        let (user, _) = store::load_credentials(self.db.read(), user_id).await?;
        new.check_for(&user.email, &self.settings.issuer, "/new_password")?;
        let confirmed = self.confirm_password(user_id, current, address).await?;
        let new_hash = confirmed.slot.hash(new.secret()).await?;
        let now = self.clock.now();
        let Confirmed { hash, attempt, .. } = confirmed;
        let context = (call.clone(), hash, new_hash, attempt);
        self.db
            .write(context, move |tx, (call, hash, new_hash, attempt)| async move {
                let user = lock_with_hash(&tx, user_id, &hash).await?;
                store::delete_failure(tx.conn(), attempt.id).await?;
                store::replace_hash(tx.conn(), user_id, &hash, &new_hash).await?;
                store::forget_addresses(tx.conn(), &attempt.account, Some(&attempt.address)).await?;
                store::expire_tokens(tx.conn(), user_id, now).await?;
                queue(&tx, &call, (Kind::PasswordChanged, &user, user.email.as_str()), now).await?;
                store::revoke_sessions_of(tx.conn(), user_id, session_id, RevokedReason::PasswordChanged, now).await
            })
            .await?;
        security::event("password_changed", user_id, &call.actor.label(), address, "");
        Ok(())
    }

    /// Checks a user's own password again, before something that needs more than an access token.
    ///
    /// Whoever has only the access token must not be able to try passwords, so each try counts as a log-in does.
    ///
    /// # Errors
    /// `wrong_password`; `too_many_failed_logins`; `unavailable` if too many requests wait for a password hash.
    pub(super) async fn confirm_password(
        &self,
        user_id: Uuid,
        current: &SecretString,
        address: &str,
    ) -> Result<Confirmed<'_>, Fault> {
        let (user, hash) = store::load_credentials(self.db.read(), user_id).await?;
        let now = self.clock.now();
        let attempt = LoginAttempt::new(self.ids.new_id(), user.email.as_str(), address, now);
        let refused = |fault: &Fault| security::password_refused(user_id, address, &fault.code);
        self.check_limits(&attempt).await.inspect_err(refused)?;
        let slot = self.hasher.slot(Work::LogIn, address).await?;
        self.count_as_failed(&attempt).await.inspect_err(refused)?;
        if !slot.verify(current, &hash).await? {
            security::password_refused(user_id, address, "wrong_password");
            return Err(wrong_password());
        }
        Ok(Confirmed { hash, attempt, slot })
    }

    /// Sends the user with this email address a mail with a token that replaces their password. The response and its time do not tell whether there is one.
    ///
    /// # Errors
    /// `too_many_mail_requests` from this network address.
    pub async fn request_password_reset(&self, call: &Call, email: &str, address: &str) -> Result<(), Fault> {
        self.request_mail(call, (Kind::PasswordReset, email), address, |_| true)
            .await
    }

    /// Replaces the password of the user that the token was sent to. It ends all their sessions and other tokens, and forgets their failed log-ins and
    /// known addresses: whoever caused or used them may have known the old password. The address is verified by it.
    ///
    /// # Errors
    /// `invalid_token`; `invalid_password`; `unavailable` if too many requests wait for a password hash.
    pub async fn redeem_password_reset(
        &self,
        call: &Call,
        token: &str,
        new: &Password,
        address: &str,
    ) -> Result<(), Fault> {
        let accepts = |kind| kind == Kind::PasswordReset;
        // Before the hash, which is expensive.
        let user_id = self.find_user_of_token(token, accepts).await?;
        let (user, _) = store::load_credentials(self.db.read(), user_id).await?;
        new.check_for(&user.email, &self.settings.issuer, "/new_password")?;
        let slot = self.hasher.slot(Work::LogIn, address).await?;
        let new_hash = slot.hash(new.secret()).await?;
        drop(slot);
        let now = self.clock.now();
        let context = (call.clone(), session::hash_of(token), new_hash);
        self.db
            .write(context, move |tx, (call, token, new_hash)| async move {
                let redeemed = redeem(&tx, &token, accepts, now).await?;
                let user = redeemed.user;
                store::replace_hash(tx.conn(), user.id, &redeemed.hash, &new_hash).await?;
                store::expire_tokens(tx.conn(), user.id, now).await?;
                let account = throttle::hash_of(user.email.as_str());
                store::forget_addresses(tx.conn(), &account, None).await?;
                store::forget_failures(tx.conn(), &account).await?;
                store::revoke_sessions_of(tx.conn(), user.id, None, RevokedReason::PasswordReset, now).await?;
                if let Some(verified) = user.verify_email(now) {
                    store::update_user(tx.conn(), &verified).await?;
                }
                queue(&tx, &call, (Kind::PasswordChanged, &user, user.email.as_str()), now).await?;
                let actor = Actor::user(user.id, Vec::<String>::new());
                banyan_durable::audit(&tx, &actor, "reset_password", &subject(user.id), "by mail", None).await
            })
            .await?;
        security::event("password_reset", user_id, "", address, "by mail");
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
                store::expire_tokens(tx.conn(), user_id, now).await?;
                store::forget_addresses(tx.conn(), &throttle::hash_of(user.email.as_str()), None).await?;
                store::revoke_sessions_of(tx.conn(), user_id, None, RevokedReason::PasswordReset, now).await?;
                let actor = Actor::module("users");
                let how = "on the command line";
                banyan_durable::audit(&tx, &actor, "reset_password", &subject(user_id), how, None).await
            })
            .await?;
        security::event("password_reset", user_id, "module:users", "", "on the command line");
        Ok(())
    }
}

/// The user, locked, if they still have the password that was confirmed.
///
/// # Errors
/// `wrong_password`.
pub(super) async fn lock_with_hash(tx: &Tx, user_id: Uuid, hash: &str) -> Result<User, Fault> {
    let locked = store::lock_credentials(tx.conn(), user_id).await?;
    let locked = locked.filter(|(_, present)| present == hash);
    locked.map(|(user, _)| user).ok_or_else(wrong_password)
}

fn wrong_password() -> Fault {
    Fault::new(FaultKind::Forbidden, "wrong_password", "The current password is wrong.")
        .at("/current_password", "is wrong")
}
