//! The limits on failed log-ins, against password guessing. Pure rules; no I/O.
//!
//! Failures of the last minute are counted in the module's database, so the limits hold across instances and restarts. An attempt is counted
//! as failed **before** the password is checked and uncounted when the password was right, so concurrent guesses cannot exceed the limit. Each
//! counted attempt costs a password hash, and few hashes are computed at a time, which bounds the number of rows per minute.

use std::time::Duration;

use banyan_core::{Fault, FaultKind, Timestamp};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The time over which failures are counted.
pub const WINDOW: Duration = Duration::from_secs(60);

/// The maximum numbers of failures within the window. 0: no limit.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub per_account: u64,
    pub per_address: u64,
}

/// An attempt to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginAttempt {
    pub id: Uuid,
    /// A hash of the email address, because users sometimes type their password into that field.
    pub account: String,
    /// The network address of the client.
    pub address: String,
    pub at: Timestamp,
}

impl LoginAttempt {
    pub fn new(id: Uuid, email: &str, address: &str, at: Timestamp) -> Self {
        let account = hex::encode(Sha256::digest(email.to_ascii_lowercase().as_bytes()));
        LoginAttempt {
            id,
            account,
            address: address.to_owned(),
            at,
        }
    }
}

/// The time until the next attempt is allowed, given the latest failures (newest first, at most `limit` of them); `None` if it is allowed now.
/// A limit of 0 is no limit.
pub fn retry_after(newest_first: &[Timestamp], limit: u64, now: Timestamp) -> Option<Duration> {
    if limit == 0 {
        return None;
    }
    let nth = newest_first.get(usize::try_from(limit - 1).ok()?)?;
    let allowed_at = nth.plus(WINDOW);
    (allowed_at > now).then(|| allowed_at.since(now))
}

/// # Errors
/// `too_many_failed_logins`, if the next attempt is not allowed yet.
pub fn check(retry_after: Option<Duration>) -> Result<(), Fault> {
    match retry_after {
        None => Ok(()),
        Some(delay) => {
            let detail = "Too many failed log-ins. Wait before you try again.";
            Err(Fault::new(FaultKind::TooMany, "too_many_failed_logins", detail).retry_after(delay))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_ms(seconds * 1_000)
    }

    #[test]
    fn the_next_attempt_is_allowed_when_the_oldest_counted_failure_is_a_minute_old() {
        let failures = [at(50), at(20), at(10)];
        assert_eq!(retry_after(&failures, 3, at(50)), Some(Duration::from_secs(20)));
        assert_eq!(retry_after(&failures, 3, at(70)), None);
        assert_eq!(retry_after(&failures[..2], 3, at(50)), None);
    }

    #[test]
    fn a_limit_of_zero_is_no_limit() {
        assert_eq!(retry_after(&[at(1); 100], 0, at(1)), None);
    }

    #[test]
    fn an_account_is_hashed_regardless_of_case() {
        let one = LoginAttempt::new(Uuid::from_u128(1), "Ada@example.com", "127.0.0.1", at(1));
        assert_eq!(
            one.account,
            LoginAttempt::new(Uuid::from_u128(2), "ada@EXAMPLE.com", "::1", at(2)).account
        );
        assert!(!one.account.contains("ada"));
    }
}
