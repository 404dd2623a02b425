//! Sizes and times of the machinery. Every one is a setting; the defaults are those of the reliability design.

use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A write transaction's job may take so long.
    pub job_timeout_ms: u64,
    /// Write jobs waiting for the one SQLite writer; more are refused with `unavailable`.
    pub write_queue: usize,
    /// Write jobs that share one commit on SQLite.
    pub commit_batch: usize,
    /// Connections that read beside the writer (SQLite), or the pool for everything (PostgreSQL).
    pub pool: u32,
    /// A write on PostgreSQL is run again so often after a serialisation failure or a deadlock.
    pub write_attempts: u32,
    /// How long an instance holds the right to relay, or to drive a saga, without renewing it.
    pub lease_ms: u64,
    /// How often a held lease is renewed.
    pub lease_renew_ms: u64,
    /// How often work is looked for when nothing has said that there is some.
    pub poll_ms: u64,
    /// Events handed to the bus and not confirmed yet.
    pub relay_window: usize,
    /// Waits before a failed publication or reaction is tried again; the last one repeats.
    pub retry_ms: Vec<u64>,
    /// A reaction that failed so often, other than for want of another module, becomes a dead letter; a saga is parked.
    pub max_failures: i64,
    /// Sent events stay in the outbox so long, for listeners that missed them; discarded dead letters in the retry table.
    pub outbox_keep_days: u64,
    /// How often a listener compares its lanes with the producers' feeds.
    pub feed_compare_ms: u64,
    /// Such a comparison looks back to the last complete one, if that is no longer ago than this; else, at a start, and when the bus says
    /// that something may have been missed, over all of `outbox_keep_days`.
    pub feed_window_hours: u64,
    /// A saga waits so long for an answer to a command.
    pub saga_call_ms: u64,
    /// First wait before a saga's command is sent again; doubles, with full jitter.
    pub saga_retry_ms: u64,
    /// The longest such wait.
    pub saga_retry_cap_ms: u64,
    /// Sagas one process drives at the same time.
    pub saga_concurrency: usize,
    /// The memory of an HTTP request with an Idempotency-Key.
    pub idempotency_keep_days: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            job_timeout_ms: 1_000,
            write_queue: 1_024,
            commit_batch: 64,
            pool: 4,
            write_attempts: 10,
            lease_ms: 10_000,
            lease_renew_ms: 3_000,
            poll_ms: 1_000,
            relay_window: 100,
            retry_ms: vec![200, 1_000, 5_000, 15_000],
            max_failures: 5,
            outbox_keep_days: 7,
            feed_compare_ms: 60_000,
            feed_window_hours: 24,
            saga_call_ms: 3_000,
            saga_retry_ms: 200,
            saga_retry_cap_ms: 15_000,
            saga_concurrency: 32,
            idempotency_keep_days: 30,
        }
    }
}

impl Settings {
    /// The wait before try number `attempts + 1`.
    pub fn retry_after(&self, attempts: i64) -> Duration {
        let at = usize::try_from(attempts)
            .unwrap_or(0)
            .min(self.retry_ms.len().saturating_sub(1));
        Duration::from_millis(self.retry_ms.get(at).copied().unwrap_or(1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/RELIABILITY.md promises these numbers.
    #[test]
    fn the_defaults_are_those_of_the_reliability_design() {
        let it = Settings::default();
        assert_eq!(
            (it.job_timeout_ms, it.write_queue, it.commit_batch, it.write_attempts),
            (1_000, 1_024, 64, 10)
        );
        assert_eq!(
            (
                it.relay_window,
                it.outbox_keep_days,
                it.idempotency_keep_days,
                it.poll_ms
            ),
            (100, 7, 30, 1_000)
        );
        assert_eq!(
            (it.feed_compare_ms, it.feed_window_hours, it.max_failures),
            (60_000, 24, 5)
        );
        assert_eq!(
            (it.lease_ms, it.lease_renew_ms, it.saga_call_ms),
            (10_000, 3_000, 3_000)
        );
        assert_eq!((it.saga_retry_ms, it.saga_retry_cap_ms), (200, 15_000));
    }

    #[test]
    fn a_reaction_waits_longer_each_time_and_then_always_as_long() {
        let waits: Vec<u128> = (0..6)
            .map(|attempts| Settings::default().retry_after(attempts).as_millis())
            .collect();
        assert_eq!(waits, [200, 1_000, 5_000, 15_000, 15_000, 15_000]);
        assert_eq!(
            Settings {
                retry_ms: Vec::new(),
                ..Settings::default()
            }
            .retry_after(0),
            Duration::from_secs(1)
        );
    }
}
