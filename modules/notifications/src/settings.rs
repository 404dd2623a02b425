//! The settings of the module: the section `[notifications]`, whose defaults are in `config/default.toml`.

use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::notification::{Kind, RetryPolicy};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The URL of the mail server: `smtps://user:password@host:465`, or `smtp://user:password@host:587?tls=required` for STARTTLS. Absent: mails
    /// are captured and shown to their user, and none is sent.
    #[serde(default, skip_serializing)]
    pub smtp_url: Option<SecretString>,
    /// The sender of all mails: an address, or a name and an address.
    pub from: String,
    /// The page of the shop that redeems the tokens of mails about accounts, for the links in these mails: a URL with `{token}`, and with `{kind}` for the
    /// kind of the mail. Absent: the mails show the token itself.
    #[serde(default)]
    pub account_link: Option<String>,
    /// The maximum number of mails one process sends at the same time.
    pub concurrency: u64,
    /// The time after which a mail that was neither accepted nor refused is given up, in hours (RFC 5321, section 4.5.4.1, recommends 4 to 5 days).
    pub give_up_hours: u64,
    /// Constants, not part of the section. Tests shorten them.
    #[serde(skip)]
    pub timing: Timing,
}

/// The timeouts, intervals and retries of the worker.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The timeout of an SMTP session.
    pub send_timeout: Duration,
    /// The timeout for looking up a user's email address.
    pub users_timeout: Duration,
    /// The longest time between polls for due mails. A new mail wakes the worker at once, and the worker knows when the next retry is due: this is for
    /// mails of another process whose wake-up was lost.
    pub poll_interval: Duration,
    /// The time for which more mails are awaited once there is one.
    pub collect: Duration,
    /// The lease on a mail that is being sent, after which another process sends it. Longer than both timeouts together, so that it ends only for
    /// a process that has died.
    pub lease: Duration,
    /// The delays before a mail is tried again; the last one repeats.
    pub retry_delays: Vec<Duration>,
    /// The number of refusals after which a mail is given up: more than one, because servers also refuse for reasons that pass.
    pub max_refusals: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            send_timeout: Duration::from_secs(10),
            users_timeout: Duration::from_secs(3),
            poll_interval: Duration::from_secs(10),
            collect: Duration::from_millis(100),
            lease: Duration::from_secs(60),
            retry_delays: [1, 5, 30, 120, 600].map(Duration::from_secs).to_vec(),
            max_refusals: 5,
        }
    }
}

impl Settings {
    /// # Errors
    /// If the link is no URL of the web, has no place for the token, or has a login, which every mail would show.
    pub(crate) fn check_account_link(&self) -> anyhow::Result<()> {
        let Some(link) = &self.account_link else { return Ok(()) };
        if link.contains('@') {
            banyan_core::check_url(link).map_err(|wrong| anyhow::anyhow!("notifications.account_link {wrong}"))?;
            anyhow::bail!(
                "notifications.account_link contains a login or an @, and is not shown; remove the login, and write %40 for an @"
            );
        }
        let web = link.starts_with("https://") || link.starts_with("http://");
        let visible = link.bytes().all(|byte| byte.is_ascii_graphic());
        anyhow::ensure!(
            web && visible && link.contains("{token}"),
            "notifications.account_link is {link:?}; it must be a URL that begins with https:// and contains {{token}}, for example \
             https://shop.example/account/{{kind}}#token={{token}}"
        );
        Ok(())
    }

    /// What a mail shows of a token.
    pub(crate) fn secret_of(&self, kind: Kind, token: &str) -> String {
        match &self.account_link {
            // A token has no character that means something in a URL.
            Some(link) => link.replace("{kind}", kind.into_str()).replace("{token}", token),
            None => token.to_owned(),
        }
    }

    /// The longest time that a queued mail is ever postponed.
    pub(crate) fn longest_wait(&self) -> Duration {
        let delays = self.timing.retry_delays.iter().copied();
        delays.fold(self.timing.lease, Duration::max)
    }

    pub(crate) fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            delays: self.timing.retry_delays.clone(),
            max_refusals: self.timing.max_refusals,
            give_up_after: Duration::from_secs(self.give_up_hours.saturating_mul(3_600)),
        }
    }
}
