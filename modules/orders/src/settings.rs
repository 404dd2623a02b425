//! What an operator configures, and the limits per user that no operator changes.

use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The deadline of a checkout. A checkout that has not decided to capture the payment by then is undone.
    pub checkout_deadline_s: u64,
    /// The maximum number of unfinished checkouts, in all processes together. At the limit, new orders are refused with 503; 0 disables it.
    pub open_checkouts: u64,
}

/// Limits per user and process, so that one user cannot hold all connections. Tests lower them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open event streams: more than the tabs in which a person follows orders.
    pub streams_per_user: usize,
    /// Requests that wait for an outcome (`Prefer: wait`). Further requests are answered without waiting.
    pub waits_per_user: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            streams_per_user: 8,
            waits_per_user: 100,
        }
    }
}
