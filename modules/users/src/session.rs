//! Sessions: a log-in and everything refreshed from it. Pure rules; no I/O.
//!
//! A refresh token is good for one use, which yields the next (RFC 9700, section 4.14). Whoever uses one a second time has it from somewhere
//! it should not be, or somebody else has; nobody can tell who of the two is the user, so the whole family ends.

use std::time::Duration;

use banyan_core::Timestamp;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

/// What a log-in yields (the members of RFC 6749, section 5.1).
#[derive(Clone, Serialize, ToSchema)]
pub struct Tokens {
    /// A JWT for `Authorization: Bearer`.
    pub access_token: String,
    #[schema(example = "Bearer")]
    pub token_type: &'static str,
    /// Seconds until the access token expires.
    #[schema(minimum = 1, example = 900)]
    pub expires_in: u64,
    /// For `POST /sessions/refresh`, once.
    pub refresh_token: String,
}

/// A refresh token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    pub hash: String,
    pub session_id: Uuid,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub rotated_at: Option<Timestamp>,
}

/// The family a refresh token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub id: Uuid,
    pub user_id: Uuid,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

/// Why a session ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokedReason {
    LoggedOut,
    TokenReused,
}

impl RevokedReason {
    pub fn as_str(self) -> &'static str {
        match self {
            RevokedReason::LoggedOut => "logged_out",
            RevokedReason::TokenReused => "token_reused",
        }
    }
}

/// What becomes of a refresh token that is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is good: exchange it.
    Rotate,
    /// It was exchanged before: revoke the family.
    Reused,
    /// It is good for nothing any more.
    Over,
}

impl RefreshToken {
    /// The token to keep for the secret that is given to the client.
    pub fn issue(secret: &str, session_id: Uuid, now: Timestamp, life: Duration) -> Self {
        RefreshToken {
            hash: hash_of(secret),
            session_id,
            issued_at: now,
            expires_at: now.plus(life),
            rotated_at: None,
        }
    }

    pub fn judge(&self, session: &Session, now: Timestamp) -> Verdict {
        if session.revoked_at.is_some() || now >= self.expires_at {
            Verdict::Over
        } else if self.rotated_at.is_some() {
            Verdict::Reused
        } else {
            Verdict::Rotate
        }
    }
}

/// A secret as the client keeps it.
pub fn to_text(secret: [u8; 32]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(secret)
}

/// What is kept of it. The secret has 256 random bits, so a plain hash is enough: there is nothing to guess.
pub fn hash_of(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(60);

    fn family() -> (Session, RefreshToken) {
        let now = Timestamp::from_ms(0);
        let session = Session {
            id: Uuid::from_u128(1),
            user_id: Uuid::from_u128(2),
            created_at: now,
            revoked_at: None,
        };
        (session.clone(), RefreshToken::issue("secret", session.id, now, LIFE))
    }

    #[test]
    fn a_refresh_token_is_good_once() {
        let (session, token) = family();
        let later = Timestamp::from_ms(1_000);
        assert_eq!(token.judge(&session, later), Verdict::Rotate);
        let used = RefreshToken {
            rotated_at: Some(later),
            ..token
        };
        assert_eq!(used.judge(&session, later), Verdict::Reused);
    }

    #[test]
    fn after_its_time_or_its_familys_end_it_is_good_for_nothing() {
        let (session, token) = family();
        assert_eq!(token.judge(&session, Timestamp::from_ms(60_000)), Verdict::Over);
        let revoked = Session {
            revoked_at: Some(Timestamp::from_ms(1)),
            ..session
        };
        assert_eq!(token.judge(&revoked, Timestamp::from_ms(2)), Verdict::Over);
    }

    #[test]
    fn the_secret_is_not_what_is_kept() {
        let (_, token) = family();
        assert!(!token.hash.contains("secret"));
        assert_eq!(token.hash, hash_of("secret"));
    }
}
