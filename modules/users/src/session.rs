//! Sessions: a log-in and the refresh tokens issued from it. Pure rules; no I/O.
//!
//! A refresh token can be used once, which issues the next one (RFC 9700, section 4.14). A second use means that the token was stolen. Which of
//! the two clients is the thief cannot be decided, so the session is revoked with all its tokens. The exception is a second use right after the
//! first: two tabs of a browser refresh at the same moment. It gets nothing, and ends nothing.

use std::time::Duration;

use banyan_core::Timestamp;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

/// The time after the use of a refresh token in which a second use is taken for the same client's.
const REFRESH_GRACE: Duration = Duration::from_secs(10);

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

/// A refresh token as it is stored: its hash, never the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    pub hash: String,
    pub session_id: Uuid,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub rotated_at: Option<Timestamp>,
}

/// The session a refresh token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub id: Uuid,
    pub user_id: Uuid,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

/// A session that has not ended, as its user and operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct OpenSession {
    pub id: Uuid,
    /// When the user logged in.
    pub created_at: Timestamp,
    /// When its latest access token was issued.
    pub refreshed_at: Timestamp,
    /// When it ends, unless it is refreshed before.
    pub expires_at: Timestamp,
    /// Whether the request was made with an access token of this session.
    pub current: bool,
}

impl Session {
    /// When the session ends although it is refreshed.
    pub fn ends_at(&self, lifetime: Duration) -> Timestamp {
        self.created_at.plus(lifetime)
    }
}

/// Why a session was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum RevokedReason {
    LoggedOut,
    TokenReused,
    RolesChanged,
    PasswordChanged,
    PasswordReset,
    EmailChanged,
    AccountDisabled,
    /// By its user, from another session.
    EndedByUser,
    EndedByOperator,
}

/// What is to be done with a refresh token that a client presents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is valid: exchange it.
    Rotate,
    /// It was exchanged a moment ago, probably by the same client: nothing is to be done.
    AlreadyRefreshed,
    /// It was exchanged before: revoke the session.
    Reused,
    /// It has expired, or its session is revoked.
    Expired,
}

impl RefreshToken {
    /// The token to store for the secret that is sent to the client.
    pub fn issue(secret: &str, session_id: Uuid, now: Timestamp, expires_at: Timestamp) -> Self {
        RefreshToken {
            hash: hash_of(secret),
            session_id,
            issued_at: now,
            expires_at,
            rotated_at: None,
        }
    }

    pub fn judge(&self, session: &Session, now: Timestamp) -> Verdict {
        if session.revoked_at.is_some() || now >= self.expires_at {
            Verdict::Expired
        } else {
            match self.rotated_at {
                None => Verdict::Rotate,
                Some(at) if now < at.plus(REFRESH_GRACE) => Verdict::AlreadyRefreshed,
                Some(_) => Verdict::Reused,
            }
        }
    }
}

/// A refresh token as the client receives it.
pub fn to_text(secret: [u8; 32]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(secret)
}

/// The hash under which a refresh token is stored. The token has 256 random bits, so an unsalted fast hash is enough.
pub fn hash_of(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(60);

    fn session() -> (Session, RefreshToken) {
        let now = Timestamp::from_ms(0);
        let session = Session {
            id: Uuid::from_u128(1),
            user_id: Uuid::from_u128(2),
            created_at: now,
            revoked_at: None,
        };
        (
            session.clone(),
            RefreshToken::issue("secret", session.id, now, now.plus(LIFE)),
        )
    }

    #[test]
    fn a_refresh_token_can_be_used_once() {
        let (session, token) = session();
        let later = Timestamp::from_ms(1_000);
        assert_eq!(token.judge(&session, later), Verdict::Rotate);
        let used = RefreshToken {
            rotated_at: Some(later),
            ..token
        };
        for (ms, verdict) in [
            // Another instance's clock may be behind.
            (500, Verdict::AlreadyRefreshed),
            (10_999, Verdict::AlreadyRefreshed),
            (11_000, Verdict::Reused),
        ] {
            assert_eq!(used.judge(&session, Timestamp::from_ms(ms)), verdict, "{ms}");
        }
    }

    #[test]
    fn a_refresh_token_is_invalid_after_its_expiry_or_its_sessions_end() {
        let (session, token) = session();
        assert_eq!(token.judge(&session, Timestamp::from_ms(60_000)), Verdict::Expired);
        let revoked = Session {
            revoked_at: Some(Timestamp::from_ms(1)),
            ..session
        };
        assert_eq!(token.judge(&revoked, Timestamp::from_ms(2)), Verdict::Expired);
    }

    #[test]
    fn only_the_hash_of_a_refresh_token_is_stored() {
        let (_, token) = session();
        assert!(!token.hash.contains("secret"));
        assert_eq!(token.hash, hash_of("secret"));
    }
}
