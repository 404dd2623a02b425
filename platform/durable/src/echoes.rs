//! A process on PostgreSQL also receives its own notifications, after it has woken whoever waits in it. These are told apart here.
//!
//! Only the number counts: if a notification of another process about the same topic comes first, it is taken for the echo, and the echo for it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// The time in which an echo comes. One that was lost must not cost a notification of another process later.
const LIMIT: Duration = Duration::from_secs(2);
/// The maximum number of topics; reached only while nothing is received.
const TOPICS: usize = 4_096;

/// The notifications of this process that it has not received itself yet, by topic.
#[derive(Clone, Default)]
pub(crate) struct Echoes(Arc<Mutex<HashMap<Arc<str>, VecDeque<Instant>>>>);

impl Echoes {
    /// A notification is about to be sent.
    pub fn sent(&self, topic: &Arc<str>, now: Instant) {
        let mut expected = self.0.lock();
        if expected.len() >= TOPICS {
            expected.clear();
        }
        expected.entry(topic.clone()).or_default().push_back(now);
    }

    /// Whether a notification that was received is the echo of one that was sent.
    pub fn take(&self, topic: &str, now: Instant) -> bool {
        let mut expected = self.0.lock();
        let Some(times) = expected.get_mut(topic) else {
            return false;
        };
        while times.front().is_some_and(|at| now.duration_since(*at) > LIMIT) {
            times.pop_front();
        }
        let found = times.pop_front().is_some();
        if times.is_empty() {
            expected.remove(topic);
        }
        found
    }

    /// What was sent before cannot be received any more.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_echo_is_taken_once_and_those_of_other_processes_are_not() {
        let (echoes, topic, now) = (Echoes::default(), Arc::<str>::from("outbox"), Instant::now());
        assert!(!echoes.take("outbox", now));
        echoes.sent(&topic, now);
        echoes.sent(&topic, now);
        assert!(!echoes.take("saga", now));
        assert!(echoes.take("outbox", now) && echoes.take("outbox", now));
        assert!(!echoes.take("outbox", now), "the third is of another process");
    }

    #[test]
    fn an_echo_that_was_lost_is_not_expected_for_long() {
        let (echoes, topic, now) = (Echoes::default(), Arc::<str>::from("outbox"), Instant::now());
        echoes.sent(&topic, now);
        assert!(!echoes.take("outbox", now + 2 * LIMIT));
        echoes.sent(&topic, now);
        echoes.clear();
        assert!(!echoes.take("outbox", now));
    }
}
