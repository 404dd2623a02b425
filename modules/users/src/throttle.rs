//! The limits on failed log-ins, against password guessing. Pure rules; no I/O.
//!
//! A limit must not become a weapon: whoever sends wrong passwords on purpose must not keep out the account's user, nor everybody else behind the
//! same network address. So what a failure delays is the account *at this address*. An address that the account logged in from before is exempt
//! from what the failures of other addresses cause, see ADR 0042.
//!
//! Failures of the last hour are counted in the module's database, so the limits hold across instances and restarts. An attempt is counted
//! as failed **before** the password is checked and uncounted when the password was right, so concurrent guesses cannot exceed the limit. Each
//! counted attempt costs a password hash, and few hashes are computed at a time, which bounds the number of rows per hour.

use std::time::Duration;

use banyan_core::{Fault, FaultKind, Timestamp};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The time over which failures are counted.
pub const WINDOW: Duration = Duration::from_secs(60 * 60);

/// The time after its last log-in for which an address is known to an account.
pub const KNOWN_FOR: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// The maximum number of addresses that are known to one account: those of its latest log-ins.
pub const MAX_KNOWN: u64 = 20;

/// The delays of an account at one address: about 22 guesses per hour.
const OF_PAIR: Backoff = Backoff {
    free: 10,
    longest: Duration::from_secs(15 * 60),
};

/// The longest delay of an address for accounts that never logged in from it: about 120 accounts can be tried per hour, and a new customer behind
/// the same address waits no longer than this.
const LONGEST_OF_ADDRESS: Duration = Duration::from_secs(30);

/// The limits that an operator sets. 0: no limit.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The maximum number of failures of an account within an hour, from all addresses together.
    pub account_per_hour: u64,
    /// The number of failures of an address within an hour, with accounts that never logged in from it, after which it waits between attempts.
    pub address_before_delay: u64,
}

impl Limits {
    /// The share of the account's limit that addresses without a log-in can use up. The rest is left to those with one.
    fn of_unknown_addresses(self) -> u64 {
        (self.account_per_hour * 3 / 5).max(1)
    }

    /// The number of failures of an address that tell its delay: more would not make it longer.
    pub fn counted_of_address(self) -> u64 {
        match self.address_before_delay {
            0 => 0,
            free => free.saturating_add(u64::from(LONGEST_OF_ADDRESS.as_secs().ilog2()) + 1),
        }
    }
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
        LoginAttempt {
            id,
            account: hash_of(email),
            address: address.to_owned(),
            at,
        }
    }
}

/// The name of an account in the tables of failures and known addresses.
pub fn hash_of(email: &str) -> String {
    hex::encode(Sha256::digest(email.to_ascii_lowercase().as_bytes()))
}

/// What is known about the account and the address of an attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// When the account logged in from this address the last time.
    pub last_login: Option<Timestamp>,
    /// The latest failures of the account within the window, newest first, at most as many as its limit.
    pub of_account: Vec<Failure>,
    /// The latest failures of the address with accounts that had never logged in from it, newest first.
    pub of_address: Vec<Timestamp>,
}

/// A failed attempt to log in to the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub at: Timestamp,
    /// Whether it came from the address of the present attempt.
    pub same_address: bool,
}

impl History {
    /// Whether the account logged in from this address lately.
    pub fn is_known(&self, now: Timestamp) -> bool {
        self.last_login.is_some_and(|at| at.plus(KNOWN_FOR) > now)
    }

    /// # Errors
    /// `too_many_failed_logins`, if the next attempt is not allowed yet.
    pub fn check(&self, limits: Limits, now: Timestamp) -> Result<(), Fault> {
        let delays = [
            self.delay_of_pair(limits, now),
            self.delay_of_account(limits, now),
            self.delay_of_address(limits, now),
        ];
        match delays.into_iter().flatten().max() {
            None => Ok(()),
            Some(delay) => {
                let detail = "Too many failed log-ins. Wait before you try again.";
                Err(Fault::new(FaultKind::TooMany, "too_many_failed_logins", detail).retry_after(delay))
            }
        }
    }

    fn delay_of_pair(&self, limits: Limits, now: Timestamp) -> Option<Duration> {
        if limits.account_per_hour == 0 {
            return None;
        }
        let own = self.of_account.iter().filter(|failure| failure.same_address);
        let own: Vec<Timestamp> = own.map(|failure| failure.at).collect();
        OF_PAIR.wait(&own, now)
    }

    fn delay_of_account(&self, limits: Limits, now: Timestamp) -> Option<Duration> {
        let limit = match limits.account_per_hour {
            0 => return None,
            limit if self.is_known(now) => limit,
            _ => limits.of_unknown_addresses(),
        };
        let nth = self.of_account.get(usize::try_from(limit - 1).ok()?)?;
        remaining(nth.at.plus(WINDOW), now)
    }

    fn delay_of_address(&self, limits: Limits, now: Timestamp) -> Option<Duration> {
        if limits.address_before_delay == 0 || self.is_known(now) {
            return None;
        }
        let backoff = Backoff {
            free: limits.address_before_delay,
            longest: LONGEST_OF_ADDRESS,
        };
        backoff.wait(&self.of_address, now)
    }
}

/// A delay after each failure that follows `free` others: 1 s, doubling, up to `longest`.
struct Backoff {
    free: u64,
    longest: Duration,
}

impl Backoff {
    fn wait(&self, newest_first: &[Timestamp], now: Timestamp) -> Option<Duration> {
        let doublings = (newest_first.len() as u64).checked_sub(self.free)?;
        let delay = Duration::from_secs(1 << doublings.min(32)).min(self.longest);
        remaining(newest_first.first()?.plus(delay), now)
    }
}

fn remaining(until: Timestamp, now: Timestamp) -> Option<Duration> {
    (until > now).then(|| until.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        account_per_hour: 100,
        address_before_delay: 20,
    };
    const DAY_S: i64 = 24 * 60 * 60;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_ms(seconds * 1_000)
    }

    /// Failures one second apart, the newest at 0.
    fn failures(count: i64, same_address: bool) -> Vec<Failure> {
        let failure = |n: i64| Failure {
            at: at(-n),
            same_address,
        };
        (0..count).map(failure).collect()
    }

    fn wait(history: &History, now: Timestamp) -> Option<u64> {
        let refused = history.check(LIMITS, now).err()?;
        Some(refused.retry_after.unwrap().as_secs())
    }

    #[test]
    fn an_account_waits_longer_after_each_failure_at_an_address() {
        for (count, seconds) in [
            (0, None),
            (9, None),
            (10, Some(1)),
            (11, Some(2)),
            (14, Some(16)),
            (40, Some(900)),
        ] {
            let history = History {
                of_account: failures(count, true),
                ..History::default()
            };
            assert_eq!(wait(&history, at(0)), seconds, "{count}");
            assert_eq!(
                wait(&history, at(i64::try_from(seconds.unwrap_or_default()).unwrap())),
                None
            );
        }
    }

    #[test]
    fn failures_elsewhere_delay_no_address_that_the_account_logged_in_from() {
        let elsewhere = |last_login| History {
            last_login,
            of_account: failures(60, false),
            ..History::default()
        };
        assert_eq!(
            wait(&elsewhere(None), at(0)),
            Some(60 * 60 - 59),
            "until the oldest is an hour old"
        );
        assert_eq!(wait(&elsewhere(Some(at(-DAY_S))), at(0)), None);
        assert!(wait(&elsewhere(Some(at(-90 * DAY_S))), at(0)).is_some(), "long ago");
    }

    #[test]
    fn an_account_has_no_more_failures_than_its_limit_wherever_they_come_from() {
        let history = History {
            last_login: Some(at(0)),
            of_account: failures(100, false),
            ..History::default()
        };
        assert_eq!(wait(&history, at(0)), Some(60 * 60 - 99));
    }

    #[test]
    fn an_address_that_tries_many_accounts_waits_but_not_the_accounts_that_logged_in_from_it() {
        let history = |count: i64, last_login| History {
            last_login,
            of_address: failures(count, true).iter().map(|failure| failure.at).collect(),
            ..History::default()
        };
        for (count, seconds) in [(19, None), (20, Some(1)), (23, Some(8)), (25, Some(30))] {
            assert_eq!(wait(&history(count, None), at(0)), seconds, "{count}");
            assert_eq!(wait(&history(count, Some(at(0))), at(0)), None);
        }
        assert_eq!(LIMITS.counted_of_address(), 25, "as many as make the longest delay");
    }

    #[test]
    fn a_limit_of_zero_is_no_limit() {
        let none = Limits {
            account_per_hour: 0,
            address_before_delay: 0,
        };
        let history = History {
            last_login: None,
            of_account: failures(100, true),
            of_address: vec![at(0); 100],
        };
        assert!(history.check(none, at(0)).is_ok());
        assert_eq!(none.counted_of_address(), 0);
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
