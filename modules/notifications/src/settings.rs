//! What an operator may decide about mail.

use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::notification::Patience;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The mail server: `smtps://user:password@host:465`, or `smtp://user:password@host:587?tls=required` for STARTTLS. Absent: mails are
    /// captured and shown to their user, and none is sent.
    #[serde(skip_serializing)]
    pub smtp_url: Option<SecretString>,
    /// The sender: an address, or a name and an address.
    pub from: String,
    /// A conversation with the mail server may take so long.
    pub send_timeout_ms: u64,
    /// `Users` is given so long to answer with an address.
    pub users_timeout_ms: u64,
    /// Mails one process sends at the same time.
    pub concurrency: u64,
    /// How often due mails are looked for when nothing has said that there are some.
    pub poll_ms: u64,
    /// A sender that has not said what became of a mail after so long is taken for dead, and another sends it. Must be longer than both
    /// timeouts together.
    pub lease_ms: u64,
    /// Waits before a mail is tried again; the last one repeats.
    pub retry_ms: Vec<u64>,
    /// A mail refused so often is given up.
    pub max_refusals: u32,
    /// A mail nobody would take, without refusing it either, is given up after so long (RFC 5321, section 4.5.4.1, asks for 4 to 5 days).
    pub give_up_hours: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            smtp_url: None,
            from: "Banyan <shop@banyan.example>".to_owned(),
            send_timeout_ms: 10_000,
            users_timeout_ms: 3_000,
            concurrency: 8,
            poll_ms: 1_000,
            lease_ms: 60_000,
            retry_ms: vec![1_000, 5_000, 30_000, 120_000, 600_000],
            max_refusals: 5,
            give_up_hours: 120,
        }
    }
}

impl Settings {
    pub(crate) fn send_timeout(&self) -> Duration {
        Duration::from_millis(self.send_timeout_ms)
    }

    pub(crate) fn users_timeout(&self) -> Duration {
        Duration::from_millis(self.users_timeout_ms)
    }

    pub(crate) fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms)
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    pub(crate) fn patience(&self) -> Patience {
        Patience {
            waits: self.retry_ms.iter().copied().map(Duration::from_millis).collect(),
            max_refusals: self.max_refusals,
            give_up_after: Duration::from_secs(self.give_up_hours.saturating_mul(3_600)),
        }
    }
}
