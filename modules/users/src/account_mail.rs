//! Mails about an account: what each kind is for, and how long it is good. Pure rules; no I/O.
//!
//! A mail with a token proves that whoever uses the token reads the address. The token is made when the mail is sent, and exists in plain text in that
//! mail alone; see ADR 0043.

use std::time::Duration;

use banyan_core::{Fault, FaultKind, Timestamp};
use uuid::Uuid;

/// The time over which the mails of an account are counted. No longer than a token is valid: whoever requests mails for somebody else's account leaves
/// its user a valid one.
pub const WINDOW: Duration = Duration::from_secs(30 * 60);

/// The maximum number of mails of one kind for one account within [`WINDOW`].
pub const MAX_PER_WINDOW: u64 = 3;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What a mail is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum Kind {
    /// Lets the user choose a new password.
    PasswordReset,
    /// Says that the password is a new one.
    PasswordChanged,
    /// Lets the user confirm the address they registered with.
    EmailVerification,
    /// Lets the user confirm the address they want to change to; it goes to that address.
    EmailChange,
    /// Says that the account has another address; it goes to the old one.
    EmailChanged,
    /// Says that somebody has tried to use the address for another account.
    AlreadyRegistered,
}

impl Kind {
    pub fn has_token(self) -> bool {
        matches!(self, Kind::PasswordReset | Kind::EmailVerification | Kind::EmailChange)
    }

    /// The time after which the mail is not sent any more, nor its token accepted.
    pub fn lifetime(self) -> Duration {
        match self {
            Kind::PasswordReset => 30 * MINUTE,
            Kind::EmailVerification | Kind::EmailChange => DAY,
            // As long as a mail server may be unreachable.
            Kind::PasswordChanged | Kind::EmailChanged | Kind::AlreadyRegistered => 7 * DAY,
        }
    }
}

/// A mail that was requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountMail {
    pub id: Uuid,
    pub user_id: Uuid,
    pub kind: Kind,
    pub address: String,
    pub requested_at: Timestamp,
    pub expires_at: Timestamp,
}

impl AccountMail {
    pub fn request(id: Uuid, user_id: Uuid, kind: Kind, address: &str, now: Timestamp) -> Self {
        AccountMail {
            id,
            user_id,
            kind,
            address: address.to_owned(),
            requested_at: now,
            expires_at: now.plus(kind.lifetime()),
        }
    }

    pub fn is_expired(&self, now: Timestamp) -> bool {
        now >= self.expires_at
    }
}

/// One response for a token that is unknown, used, expired or meant for something else: who guesses learns nothing.
pub fn invalid_token() -> Fault {
    Fault::invalid(
        "invalid_token",
        "This token is unknown, has expired or was used. Request a new mail.",
    )
    .at("/token", "is not valid any more")
}

pub fn too_many_mails() -> Fault {
    let detail = "You have requested several of these mails within half an hour. Use the latest one, or wait.";
    Fault::new(FaultKind::TooMany, "too_many_mails", detail).retry_after(WINDOW)
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;

    #[test]
    fn a_mail_ends_with_its_lifetime_and_not_before_another_can_be_requested() {
        let now = Timestamp::from_ms(1_000);
        for kind in Kind::VARIANTS {
            let mail = AccountMail::request(Uuid::nil(), Uuid::nil(), *kind, "ada@example.com", now);
            let end = now.plus(kind.lifetime());
            assert!(!mail.is_expired(end.minus(Duration::from_millis(1))), "{kind:?}");
            assert!(mail.is_expired(end), "{kind:?}");
            assert_eq!(kind.into_str().parse().as_ref(), Ok(kind));
            assert!(kind.lifetime() >= WINDOW, "{kind:?}");
        }
    }
}
