//! The worker that sends queued mails. Several instances share the work: each claims the mails it sends, for the duration of a lease.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use banyan_core::{Call, Clock, Fault, TraceParent};
use banyan_durable::{
    Db, changed,
    outbox::{self, NewEvent},
};
use futures::{FutureExt, StreamExt, future::Shared, stream::FuturesUnordered};
use notifications_contract::MailSent;
use tokio::sync::broadcast::error::TryRecvError;
use tokio_util::sync::CancellationToken;
use users_contract::{FindUser, PrepareAccountMail, Users};
use uuid::Uuid;

use crate::{
    mailer::{Mailer, Recipient},
    notification::{Attempt, Attempted, DueMail, Failure, Kind, Next},
    service::MAIL,
    settings::Settings,
    store::queue::{self, Due},
};

/// The maximum number of mails that are captured together.
const CAPTURED_AT_ONCE: u64 = 100;

/// The pause after a fault of the database.
const PAUSE_AFTER_FAULT: Duration = Duration::from_secs(1);

pub struct MailWorker {
    pub db: Db,
    pub clock: Arc<dyn Clock>,
    pub users: Arc<dyn Users>,
    pub mailer: Mailer,
    /// Whether the tokens of captured mails are logged.
    pub demo: bool,
    pub settings: Settings,
}

impl MailWorker {
    /// Sends until `stop`. Attempts under way are finished first, so that their outcome is not lost. Nothing runs while no mail is due: it is woken by
    /// new mails, and for the next retry.
    pub async fn run(&self, stop: CancellationToken) {
        let mut changes = self.db.changes();
        while !stop.is_cancelled() {
            // What has been committed until now is found by the query.
            while !matches!(changes.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
            let wait = match self.send_due().await {
                Ok(wait) => wait,
                Err(fault) => {
                    tracing::warn!(%fault, "due mails could not be read, or their outcomes stored");
                    PAUSE_AFTER_FAULT
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait.min(self.settings.timing.poll_interval)) => {}
                // Mails come in company, and none is urgent: together they take as many statements as one.
                () = changed(&mut changes, MAIL) => tokio::time::sleep(self.settings.timing.collect).await,
                () = stop.cancelled() => {}
            }
        }
    }

    /// Attempts a batch of due mails concurrently; returns the time until the next is due.
    async fn send_due(&self) -> Result<Duration, Fault> {
        let lease = self.settings.timing.lease;
        let limit = match self.mailer.sends() {
            true => self.settings.concurrency.max(1),
            false => CAPTURED_AT_ONCE,
        };
        let Due { mails, next } = queue::list_due(self.db.read(), limit, self.settings.longest_wait()).await?;
        let mut wait = next.unwrap_or(Duration::MAX);
        if mails.is_empty() {
            return Ok(wait);
        }
        if u64::try_from(mails.len()).is_ok_and(|due| due >= limit) {
            // There may be more.
            wait = Duration::ZERO;
        }
        let mails = if self.mailer.sends() {
            let claim = self.db.write(
                mails,
                move |tx, mails| async move { queue::claim(&tx, mails, lease).await },
            );
            claim.await?
        } else {
            // A mail that is captured by two instances is captured once, whichever is first: it needs no claim.
            mails
        };
        let all = mails.len().max(1);
        let mut recipients: HashMap<Uuid, Shared<_>> = HashMap::new();
        let attempts = mails.into_iter().map(|mail| {
            let recipient = match mail.account_mail {
                Some(account_mail) => self.prepare(call_of(&mail), mail.kind, account_mail).boxed(),
                None => {
                    // Each user is looked up once for all their mails.
                    let lookup = || self.find_recipient(call_of(&mail), mail.user_id).boxed().shared();
                    recipients.entry(mail.user_id).or_insert_with(lookup).clone().boxed()
                }
            };
            self.attempt_one(mail, recipient)
        });
        let attempts: FuturesUnordered<_> = attempts.collect();
        // Captured mails are stored together. A sent mail does not wait for the slower ones: if its outcome is lost, it is sent again.
        let mut finished = if self.mailer.sends() {
            attempts.ready_chunks(all).boxed()
        } else {
            attempts.chunks(all).boxed()
        };
        let mut stored = Ok(());
        while let Some(attempted) = finished.next().await {
            for Attempted { next, .. } in &attempted {
                if let Next::Retry { after, .. } = next {
                    wait = wait.min(*after);
                }
            }
            // If this is not stored, the lease expires and the mail is sent again under its Message-ID: at least once.
            stored = stored.and(self.record(attempted).await);
        }
        stored.map(|()| wait)
    }

    /// No transaction is open.
    async fn attempt_one(
        &self,
        mail: DueMail,
        recipient: impl Future<Output = Result<Recipient, Attempt>>,
    ) -> Attempted {
        let attempt = async {
            match recipient.await {
                Ok(recipient) => self.mailer.send(&mail, &recipient).await,
                Err(attempt) => attempt,
            }
        };
        // A panic counts as a refusal, so that a mail that triggers a bug is given up eventually and does not block the others.
        let attempt = AssertUnwindSafe(attempt).catch_unwind().await;
        let attempt = attempt.unwrap_or_else(|_| Attempt::Refused {
            error: Failure::new("panicked", "sending it panicked"),
        });
        let next = mail.next(attempt, &self.settings.retry_policy(), self.clock.now());
        match &next {
            Next::Retry { after, error, .. } => {
                tracing::info!(notification = %mail.id, attempts = mail.attempts, ?after, %error, "a mail will be retried");
            }
            Next::Failed { error } => {
                tracing::warn!(notification = %mail.id, attempts = mail.attempts, %error, "a mail is given up")
            }
            Next::Sent { .. } | Next::Captured { .. } => {}
        }
        metrics::counter!("banyan_mails_total", "outcome" => outcome(&next), "kind" => mail.kind.into_str())
            .increment(1);
        Attempted { mail, next }
    }

    /// Looks up a user's address, or returns what that attempt came to.
    async fn find_recipient(&self, call: Call, user_id: Uuid) -> Result<Recipient, Attempt> {
        let request = FindUser {
            user_id: user_id.to_string(),
        };
        let call = call.within(self.settings.timing.users_timeout);
        let found = self.call_users(self.users.find_user(&call, request)).await?;
        let user = found.user.ok_or_else(|| Attempt::Undeliverable {
            error: Failure::new("no_such_user", "there is no such user"),
        })?;
        Ok(Recipient {
            address: user.email,
            secret: None,
        })
    }

    /// Gets the address of a mail about an account, and a new token for this attempt alone.
    async fn prepare(&self, call: Call, kind: Kind, id: Uuid) -> Result<Recipient, Attempt> {
        let request = PrepareAccountMail {
            mail_id: id.to_string(),
        };
        let call = call.within(self.settings.timing.users_timeout);
        let prepared = self.call_users(self.users.prepare_account_mail(&call, request)).await?;
        let mail = prepared.mail.ok_or_else(|| Attempt::Undeliverable {
            error: Failure::new("expired", "it has expired, or its token was used or ended"),
        })?;
        let secret = mail.token.map(|token| self.settings.secret_of(kind, &token));
        if let Some(secret) = secret.as_ref().filter(|_| self.demo && !self.mailer.sends()) {
            // In a demo without a mail server this is where it can be read.
            tracing::info!(kind = kind.into_str(), %secret, "a mail is captured, and nobody gets its token but this log");
        }
        Ok(Recipient {
            address: mail.address,
            secret,
        })
    }

    async fn call_users<T>(&self, call: impl Future<Output = Result<T, Fault>>) -> Result<T, Attempt> {
        match tokio::time::timeout(self.settings.timing.users_timeout, call).await {
            Err(_) => Err(Attempt::Unknown {
                error: Failure::new("users_timeout", "users did not respond in time"),
            }),
            Ok(Err(fault)) if fault.is_transient() => Err(Attempt::Unknown { error: fault.into() }),
            Ok(Err(fault)) => Err(Attempt::Refused { error: fault.into() }),
            Ok(Ok(response)) => Ok(response),
        }
    }

    /// Stores outcomes, and publishes those that count, in one transaction.
    async fn record(&self, attempted: Vec<Attempted>) -> Result<(), Fault> {
        let now = self.clock.now();
        let recorded = self.db.write(attempted, move |tx, attempted| async move {
            let recorded = queue::record(&tx, &attempted, now).await?;
            let sent = attempted.iter().filter(|attempted| {
                matches!(attempted.next, Next::Sent { .. }) && recorded.contains(&attempted.mail.id)
            });
            let events = sent.map(|Attempted { mail, .. }| {
                let event = MailSent {
                    notification_id: mail.id.to_string(),
                    user_id: mail.user_id.to_string(),
                    kind: mail.kind.into_str().to_owned(),
                };
                NewEvent::new(&call_of(mail), format!("mail/{}", mail.id), &event)
            });
            let events = events.collect::<Result<Vec<_>, _>>()?;
            outbox::append_all(&tx, events).await.map(drop)
        });
        recorded.await
    }
}

/// The module acts in the trace of the event that caused the mail.
fn call_of(mail: &DueMail) -> Call {
    Call::by_module("notifications").traced(mail.traceparent.as_deref().and_then(TraceParent::parse))
}

/// The label of the metric.
fn outcome(next: &Next) -> &'static str {
    match next {
        Next::Sent { .. } => "sent",
        Next::Captured { .. } => "captured",
        Next::Retry { .. } => "again",
        Next::Failed { .. } => "failed",
    }
}
