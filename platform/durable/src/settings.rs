//! What an operator can set of the machinery, and the limits that are the same everywhere.

use std::time::Duration;

use serde::Deserialize;

use crate::connection::sqlite::ReadLimits;

/// The section `[durable]`. The defaults are in the platform's default file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The number of connections to the database: readers beside the writer on SQLite, all connections on PostgreSQL.
    pub pool: u32,
    /// The duration of a lease, in milliseconds. The instance that holds it relays events, retries reactions or runs a saga; a lease that is not
    /// renewed in this time passes to another instance.
    pub lease_ms: u64,
    /// The time published events are kept in the outbox, and discarded dead letters in the retry table, in days.
    pub outbox_keep_days: u64,
    /// The interval at which a subscriber compares the events it has processed with those the producers published, in milliseconds.
    pub feed_compare_ms: u64,
    /// The maximum delay before a saga sends a command again, in milliseconds.
    pub saga_retry_cap_ms: u64,
    /// The maximum number of sagas that one process runs at the same time.
    pub saga_concurrency: usize,
    /// The time the response to a request with an `Idempotency-Key` is kept for replay, in days.
    pub idempotency_keep_days: u64,
    /// Not read from settings.
    #[serde(skip)]
    pub limits: MachineryLimits,
}

/// Limits that no operator changes: each follows from the protocols in docs/RELIABILITY.md, not from an installation. Tests vary them.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineryLimits {
    /// The timeout of a write transaction. One that takes longer is rolled back, because on SQLite it keeps every other write waiting.
    pub job_timeout: Duration,
    /// The timeout of a read on SQLite, and of the wait for a connection to read by.
    pub read_timeout: Duration,
    /// The maximum number of writes that wait for the SQLite writer; further ones get `unavailable`. A thousand are a second's work.
    pub write_queue: usize,
    /// The maximum number of writes that share one commit on SQLite. More would gain little: the sync to disk is shared by enough of them.
    pub commit_batch: usize,
    /// The maximum number of times a write is run that loses a race: to a serialisation failure or a deadlock, or to a newer row than it knew.
    pub write_attempts: u32,
    /// The number of renewals within the duration of a lease: two may fail before it is lost. 0: it is not renewed.
    pub renewals_per_lease: u32,
    /// The interval between attempts after the database did not respond, and between polls for what another instance may have left.
    pub poll: Duration,
    /// The interval between polls for work that a commit or a timer announces. It is a fallback for announcements that were lost.
    pub idle_poll: Duration,
    /// The shortest time between two rounds of work that no client waits for: publishing events, taking them, notifying other instances. What
    /// happens meanwhile shares the next round's statements; what happens after a rest is done at once.
    pub pace: Duration,
    /// The longest wait before anything is tried again, whatever a response demands. A wait that is found to be longer was stored before the clock was
    /// set back, and has passed.
    pub max_wait: Duration,
    /// The maximum number of events handed to the bus and not confirmed yet.
    pub relay_window: usize,
    /// The timeout of one publication, whatever the bus has for limits of its own; after it the event is published again.
    pub publish_timeout: Duration,
    /// The delays before a failed publication or reaction is retried; the last one repeats. The first ones pass over a hiccup, the last one gives a
    /// broken dependency time without delaying an event by more than that.
    pub retry_delays: Vec<Duration>,
    /// The number of failures after which a reaction becomes a dead letter, and a saga is parked. Failures because another module is unavailable do
    /// not count.
    pub max_failures: i64,
    /// The time after which an operator is told of what is tried without limit: an event that is not published or not handled, versions that nobody
    /// delivers, a comparison that fails. Most outages are shorter.
    pub alert_after: Duration,
    /// The maximum age of the last complete comparison with a producer of an earlier version from which the next one continues; after a longer time it
    /// covers everything such a producer keeps.
    pub feed_window: Duration,
    /// The timeout of a saga's command. The outcome is then unknown, and the command is sent again.
    pub saga_call_timeout: Duration,
    /// The maximum delay before a saga's command is sent the second time. It doubles with each attempt up to `saga_retry_cap_ms`.
    pub saga_first_retry: Duration,
}

impl Default for MachineryLimits {
    fn default() -> Self {
        MachineryLimits {
            job_timeout: Duration::from_secs(1),
            read_timeout: Duration::from_secs(2),
            write_queue: 1_024,
            commit_batch: 64,
            write_attempts: 10,
            renewals_per_lease: 3,
            poll: Duration::from_secs(1),
            idle_poll: Duration::from_secs(10),
            pace: Duration::from_millis(100),
            max_wait: Duration::from_secs(60),
            relay_window: 100,
            publish_timeout: Duration::from_secs(10),
            retry_delays: [200, 1_000, 5_000, 15_000].map(Duration::from_millis).to_vec(),
            max_failures: 5,
            alert_after: Duration::from_secs(600),
            feed_window: Duration::from_secs(24 * 60 * 60),
            saga_call_timeout: Duration::from_secs(3),
            saga_first_retry: Duration::from_millis(200),
        }
    }
}

impl Settings {
    pub(crate) fn reads(&self) -> ReadLimits {
        ReadLimits {
            connections: self.pool,
            timeout: self.limits.read_timeout,
        }
    }

    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// The interval between renewals of a lease.
    pub fn lease_renewal(&self) -> Duration {
        self.lease()
            .checked_div(self.limits.renewals_per_lease)
            .unwrap_or(Duration::MAX)
    }

    /// The longest wait that is ever stored.
    pub fn max_wait(&self) -> Duration {
        let retries = self.limits.retry_delays.iter().copied().max().unwrap_or_default();
        self.limits
            .max_wait
            .max(retries)
            .max(Duration::from_millis(self.saga_retry_cap_ms))
    }

    pub fn outbox_retention(&self) -> Duration {
        Duration::from_secs(self.outbox_keep_days.saturating_mul(24 * 60 * 60))
    }

    /// The delay before attempt number `attempts + 1` of a publication or reaction.
    pub fn retry_delay(&self, attempts: i64) -> Duration {
        let delays = &self.limits.retry_delays;
        let at = usize::try_from(attempts)
            .unwrap_or(0)
            .min(delays.len().saturating_sub(1));
        delays.get(at).copied().unwrap_or(Duration::from_secs(1))
    }
}

#[cfg(test)]
impl Settings {
    pub fn defaults() -> Settings {
        banyan_durable_testing::default_settings(include_str!("../../host/config/default.toml"), "durable")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/RELIABILITY.md promises these numbers.
    #[test]
    fn the_defaults_are_those_of_the_reliability_design() {
        let (settings, limits) = (Settings::defaults(), MachineryLimits::default());
        assert_eq!(
            (
                limits.job_timeout.as_millis(),
                limits.write_queue,
                limits.commit_batch,
                limits.write_attempts
            ),
            (1_000, 1_024, 64, 10)
        );
        assert_eq!(
            (
                limits.relay_window,
                limits.publish_timeout.as_secs(),
                settings.outbox_keep_days,
                settings.idempotency_keep_days,
                limits.poll.as_millis()
            ),
            (100, 10, 7, 30, 1_000)
        );
        assert_eq!((limits.idle_poll.as_secs(), limits.max_wait.as_secs()), (10, 60));
        assert_eq!(
            (
                settings.feed_compare_ms,
                limits.feed_window.as_secs() / 3_600,
                limits.max_failures,
                limits.alert_after.as_secs() / 60
            ),
            (60_000, 24, 5, 10)
        );
        assert_eq!(
            (
                settings.lease_ms,
                settings.lease_renewal().as_millis(),
                limits.saga_call_timeout.as_millis()
            ),
            (10_000, 3_333, 3_000)
        );
        assert_eq!(
            (limits.saga_first_retry.as_millis(), settings.saga_retry_cap_ms),
            (200, 15_000)
        );
    }

    #[test]
    fn the_delay_of_a_reaction_grows_up_to_the_last_one() {
        let mut settings = Settings::defaults();
        let delays = (0..6).map(|attempts| settings.retry_delay(attempts).as_millis());
        assert_eq!(delays.collect::<Vec<_>>(), [200, 1_000, 5_000, 15_000, 15_000, 15_000]);
        settings.limits.retry_delays = Vec::new();
        assert_eq!(settings.retry_delay(0), Duration::from_secs(1));
    }
}
