//! Requests for mails about accounts, and the tokens that are made when they are sent.

use std::time::Duration;

use banyan_core::{Actor, Call, Fault, FaultKind, Timestamp, parse_id};
use banyan_durable::{Tx, outbox};
use users_contract::{
    AccountMail as AccountMailMessage, AccountMailRequested, PrepareAccountMail, PreparedAccountMail,
};
use uuid::Uuid;

use super::{Service, subject};
use crate::{
    account_mail::{self, AccountMail, Kind, invalid_token},
    session, store,
    user::User,
};

/// What a response to a request for a mail takes at least: it takes as long for an address that nobody has.
const RESPONSE_TIME: Duration = Duration::from_millis(300);

/// A user whose token was accepted, and the hash of their present password.
pub(super) struct Redeemed {
    pub mail: AccountMail,
    pub user: User,
    pub hash: String,
}

impl Service {
    /// Sends the user with this address a mail of this kind, if there is one to whom `is_for` applies, and too many were not sent lately. The response
    /// and its time tell nothing of that. `address` is the network address of the client.
    ///
    /// # Errors
    /// `too_many_mail_requests` from this network address.
    pub(super) async fn request_mail(
        &self,
        call: &Call,
        (kind, email): (Kind, &str),
        address: &str,
        is_for: fn(&User) -> bool,
    ) -> Result<(), Fault> {
        self.limit_mail_requests(address)?;
        let now = self.clock.now();
        let context = (call.clone(), email.to_ascii_lowercase());
        let request = self.db.write(context, move |tx, (call, email)| async move {
            let Some((user, _)) = store::find_credentials(tx.conn(), &email).await? else {
                return Ok(());
            };
            // Locked, so that simultaneous requests are counted.
            let Some((user, _)) = store::lock_credentials(tx.conn(), user.id).await? else {
                return Ok(());
            };
            if user.email.lower() == email && user.disabled_at.is_none() && is_for(&user) {
                queue(&tx, &call, (kind, &user, user.email.as_str()), now).await?;
            }
            Ok(())
        });
        in_response_time(request).await
    }

    /// # Errors
    /// `too_many_mail_requests`.
    pub(super) fn limit_mail_requests(&self, address: &str) -> Result<(), Fault> {
        let limited = |limited: Fault| {
            let detail = "Too many mails were requested from this network address. Wait before you try again.";
            let fault = Fault::new(FaultKind::TooMany, "too_many_mail_requests", detail);
            match limited.retry_after {
                Some(wait) => fault.retry_after(wait),
                None => fault,
            }
        };
        self.mail_requests.check(address).map(drop).map_err(limited)
    }

    /// The address of a mail that is about to be sent, and a new token for it. Each attempt to send it has a token of its own, because the mail of an
    /// earlier attempt may have arrived.
    ///
    /// # Errors
    /// `forbidden` for every caller but notifications.
    pub(super) async fn prepare_mail(
        &self,
        call: &Call,
        request: PrepareAccountMail,
    ) -> Result<PreparedAccountMail, Fault> {
        if call.actor != Actor::module("notifications") {
            return Err(Fault::new(
                FaultKind::Forbidden,
                "forbidden",
                "Mails about accounts are sent by notifications alone.",
            ));
        }
        let id = parse_id("mail_id", &request.mail_id)?;
        let now = self.clock.now();
        let mail = store::find_mail(self.db.read(), id).await?;
        let Some(mail) = mail.filter(|mail| !mail.is_expired(now)) else {
            return Ok(PreparedAccountMail::default());
        };
        let token = if mail.kind.has_token() {
            let token = session::to_text(self.secrets.new_secret()?);
            let hash = session::hash_of(&token);
            let user_id = mail.user_id;
            let stored = self.db.write(hash, move |tx, hash| async move {
                // Locked as by whatever ends tokens, so that none is added to a mail that has just ended.
                store::lock_credentials(tx.conn(), user_id).await?;
                let mail = store::find_mail(tx.conn(), id).await?;
                if mail.is_none_or(|mail| mail.is_expired(now)) {
                    return Ok(false);
                }
                store::insert_token(tx.conn(), &hash, id).await?;
                Ok(true)
            });
            if !stored.await? {
                return Ok(PreparedAccountMail::default());
            }
            Some(token)
        } else {
            None
        };
        let address = mail.address;
        Ok(PreparedAccountMail {
            mail: Some(AccountMailMessage { address, token }),
        })
    }

    /// Who a token was sent to, if it is valid now.
    ///
    /// # Errors
    /// `invalid_token`.
    pub(super) async fn find_user_of_token(&self, token: &str, accepts: fn(Kind) -> bool) -> Result<Uuid, Fault> {
        let mail = store::find_mail_of_token(self.db.read(), &session::hash_of(token)).await?;
        let now = self.clock.now();
        let mail = mail.filter(|mail| accepts(mail.kind) && !mail.is_expired(now));
        mail.map(|mail| mail.user_id).ok_or_else(invalid_token)
    }
}

/// The user of a token, locked until the transaction ends, and no token of theirs of the same kind is valid any more: of two simultaneous uses one is
/// first, and the other finds the token ended.
///
/// # Errors
/// `invalid_token`.
pub(super) async fn redeem(tx: &Tx, hash: &str, accepts: fn(Kind) -> bool, now: Timestamp) -> Result<Redeemed, Fault> {
    let found = store::find_mail_of_token(tx.conn(), hash).await?;
    let mail = found.filter(|mail| accepts(mail.kind)).ok_or_else(invalid_token)?;
    let locked = store::lock_credentials(tx.conn(), mail.user_id).await?;
    let (user, password_hash) = locked
        .filter(|(user, _)| user.disabled_at.is_none())
        .ok_or_else(invalid_token)?;
    // Read again under the lock: another use may have ended it since.
    let mail = store::find_mail(tx.conn(), mail.id).await?;
    let mail = mail.filter(|mail| !mail.is_expired(now)).ok_or_else(invalid_token)?;
    store::expire_tokens_of_kind(tx.conn(), user.id, mail.kind, now).await?;
    Ok(Redeemed {
        mail,
        user,
        hash: password_hash,
    })
}

/// Requests a mail to `address` about the account of a user who is locked; `false` if too many of this kind were requested lately. The tokens of earlier
/// ones stay valid: otherwise anybody could end them.
pub(super) async fn queue(
    tx: &Tx,
    call: &Call,
    (kind, user, address): (Kind, &User, &str),
    now: Timestamp,
) -> Result<bool, Fault> {
    let since = now.minus(account_mail::WINDOW);
    if store::count_mails(tx.conn(), user.id, kind, since).await? >= account_mail::MAX_PER_WINDOW {
        return Ok(false);
    }
    let mail = AccountMail::request(tx.ids().new_id(), user.id, kind, address, now);
    store::insert_mail(tx.conn(), &mail).await?;
    let event = AccountMailRequested {
        user_id: user.id.to_string(),
        mail_id: mail.id.to_string(),
        kind: kind.into_str().to_owned(),
    };
    outbox::append(tx, call, &subject(user.id), &event).await?;
    Ok(true)
}

/// What the work returns, but not before [`RESPONSE_TIME`].
pub(super) async fn in_response_time<T>(work: impl Future<Output = T>) -> T {
    let (done, ()) = tokio::join!(work, tokio::time::sleep(RESPONSE_TIME));
    done
}
