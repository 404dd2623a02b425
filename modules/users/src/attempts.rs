//! How often somebody may guess. Pure rules; no I/O.
//!
//! Failures of the last minute are counted in the module's database, so the limits hold across instances and restarts. An attempt is counted
//! as failed **before** the password is checked and taken back when it was right: guesses made at the same time cannot slip through. Since
//! each counted attempt costs a password hash, and hashes are computed a few at a time, a minute's worth of rows is bounded by that.

use std::time::Duration;

use banyan_core::{Fault, FaultKind, Timestamp};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The time that failures are counted over.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Somebody's attempt to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub id: Uuid,
    /// Hashed, because people also type passwords into the field for the email address.
    pub account: String,
    pub address: String,
    pub at: Timestamp,
}

impl Attempt {
    pub fn new(id: Uuid, email: &str, address: &str, at: Timestamp) -> Self {
        let account = hex::encode(Sha256::digest(email.to_ascii_lowercase().as_bytes()));
        Attempt {
            id,
            account,
            address: address.to_owned(),
            at,
        }
    }
}

/// How long to wait before the next attempt, given the latest failures (newest first, at most `limit` of them). `None`: go ahead.
pub fn wait(newest_first: &[Timestamp], limit: u64, now: Timestamp) -> Option<Duration> {
    if limit == 0 {
        return None;
    }
    let nth = newest_first.get(usize::try_from(limit - 1).ok()?)?;
    let frees_at = nth.plus(WINDOW);
    (frees_at > now).then(|| frees_at.since(now))
}

/// # Errors
/// `too_many_failed_logins`, if there is something to wait for.
pub fn refuse(wait: Option<Duration>) -> Result<(), Fault> {
    match wait {
        None => Ok(()),
        Some(wait) => {
            let detail = "Too many failed log-ins. Wait before you try again.";
            Err(Fault::new(FaultKind::TooMany, "too_many_failed_logins", detail).retry_after(wait))
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
    fn the_limit_frees_when_the_oldest_counted_failure_is_a_minute_old() {
        let failures = [at(50), at(20), at(10)];
        assert_eq!(wait(&failures, 3, at(50)), Some(Duration::from_secs(20)));
        assert_eq!(wait(&failures, 3, at(70)), None);
        assert_eq!(wait(&failures[..2], 3, at(50)), None);
    }

    #[test]
    fn no_limit_is_no_limit() {
        assert_eq!(wait(&[at(1); 100], 0, at(1)), None);
    }

    #[test]
    fn an_account_is_the_same_in_any_case_and_unreadable() {
        let one = Attempt::new(Uuid::from_u128(1), "Ada@example.com", "127.0.0.1", at(1));
        assert_eq!(
            one.account,
            Attempt::new(Uuid::from_u128(2), "ada@EXAMPLE.com", "::1", at(2)).account
        );
        assert!(!one.account.contains("ada"));
    }
}
