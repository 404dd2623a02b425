//! Verification and change of email addresses.

use banyan_core::{Actor, Call, Fault};
use secrecy::SecretString;
use uuid::Uuid;

use super::{
    Service,
    account_mails::{queue, redeem},
    passwords::{Confirmed, lock_with_hash},
    subject,
};
use crate::{
    account_mail::{Kind, too_many_mails},
    email::EmailAddress,
    security,
    session::{self, RevokedReason},
    store, throttle,
    user::User,
};

impl Service {
    /// Sends the user with this address a mail with a token that verifies it, unless it is verified. The response and its time tell nothing of that.
    ///
    /// # Errors
    /// `too_many_mail_requests` from this network address.
    pub async fn request_email_verification(&self, call: &Call, email: &str, address: &str) -> Result<(), Fault> {
        let unverified = |user: &User| user.email_verified_at.is_none();
        self.request_mail(call, (Kind::EmailVerification, email), address, unverified)
            .await
    }

    /// Sends a mail to `new`, whose token makes it the address of the user. It ends the token of an earlier request.
    ///
    /// # Errors
    /// `wrong_password`; `too_many_failed_logins`; `email_taken`, unless addresses are verified: then it is the token that is refused; `too_many_mails`;
    /// `too_many_mail_requests` from this network address; `unavailable` if too many requests wait for a password hash.
    pub async fn request_email_change(
        &self,
        call: &Call,
        user_id: Uuid,
        (current, new): (&SecretString, EmailAddress),
        address: &str,
    ) -> Result<(), Fault> {
        self.limit_mail_requests(address)?;
        let Confirmed {
            hash, attempt, slot, ..
        } = self.confirm_password(user_id, current, address).await?;
        drop(slot);
        let (now, hidden) = (self.clock.now(), self.settings.verify_email);
        let context = (call.clone(), new, hash, attempt);
        let refused = self
            .db
            .write(context, move |tx, (call, new, hash, attempt)| async move {
                let user = lock_with_hash(&tx, user_id, &hash).await?;
                store::delete_failure(tx.conn(), attempt.id).await?;
                let holder = store::find_credentials(tx.conn(), &new.lower()).await?;
                let holder = holder.map(|(holder, _)| holder).filter(|holder| holder.id != user_id);
                if holder.is_some() && !hidden {
                    // A result and not an error: the attempt with the right password is uncounted in any case.
                    return Ok(Some(store::email_taken()));
                }
                store::expire_tokens_of_kind(tx.conn(), user_id, Kind::EmailChange, now).await?;
                // Addressed to the holder if there is one, who may be the same person, so that nothing tells the user that the address is known.
                if !queue(&tx, &call, (Kind::EmailChange, &user, new.as_str()), now).await? {
                    return Ok(Some(too_many_mails()));
                }
                Ok(None)
            });
        match refused.await? {
            None => Ok(()),
            Some(fault) => Err(fault),
        }
    }

    /// Verifies the address that the token was sent to: the user's address, or the one they change to. With a change all their sessions and tokens end,
    /// and the old address is told.
    ///
    /// # Errors
    /// `invalid_token`; `email_taken` if somebody else has got the address since it was requested.
    pub async fn confirm_email(&self, call: &Call, token: &str) -> Result<(), Fault> {
        let accepts = |kind| matches!(kind, Kind::EmailVerification | Kind::EmailChange);
        let now = self.clock.now();
        let context = (call.clone(), session::hash_of(token));
        let (event, user_id) = self
            .db
            .write(context, move |tx, (call, token)| async move {
                let redeemed = redeem(&tx, &token, accepts, now).await?;
                let (mail, user) = (redeemed.mail, redeemed.user);
                if mail.kind == Kind::EmailVerification {
                    if let Some(verified) = user.verify_email(now) {
                        store::update_user(tx.conn(), &verified).await?;
                    }
                    return Ok(("email_verified", user.id));
                }
                let changed = user.with_email(EmailAddress::parse(&mail.address)?, now);
                store::update_user(tx.conn(), &changed).await?;
                store::expire_tokens(tx.conn(), user.id, now).await?;
                store::forget_addresses(tx.conn(), &throttle::hash_of(user.email.as_str()), None).await?;
                store::revoke_sessions_of(tx.conn(), user.id, None, RevokedReason::EmailChanged, now).await?;
                queue(&tx, &call, (Kind::EmailChanged, &user, user.email.as_str()), now).await?;
                let actor = Actor::user(user.id, Vec::<String>::new());
                banyan_durable::audit(&tx, &actor, "change_email", &subject(user.id), "by mail", None).await?;
                Ok(("email_changed", user.id))
            })
            .await?;
        security::event(event, user_id, "", "", "by mail");
        Ok(())
    }
}
