//! The worker that sends queued mails. Several instances share the work: each claims the mails it sends, for the duration of a lease.

use std::{panic::AssertUnwindSafe, sync::Arc};

use banyan_core::{Call, Clock, Fault, TraceParent};
use banyan_durable::{Db, changed, outbox};
use futures::{FutureExt, future::join_all};
use notifications_contract::MailSent;
use tokio_util::sync::CancellationToken;
use users_contract::{FindUser, Users};

use crate::{
    mailer::{Mailer, Recipient},
    notification::{Attempt, ClaimedMail, Failure, Next},
    service::MAIL,
    settings::Settings,
    store,
};

pub struct MailWorker {
    db: Db,
    clock: Arc<dyn Clock>,
    users: Arc<dyn Users>,
    mailer: Mailer,
    settings: Settings,
}

impl MailWorker {
    pub fn new(db: Db, clock: Arc<dyn Clock>, users: Arc<dyn Users>, mailer: Mailer, settings: Settings) -> Self {
        MailWorker {
            db,
            clock,
            users,
            mailer,
            settings,
        }
    }

    /// Sends until `stop`. Attempts under way are finished first, so that their outcome is not lost.
    pub async fn run(&self, stop: CancellationToken) {
        let mut changes = self.db.changes();
        while !stop.is_cancelled() {
            match self.send_due().await {
                Ok(0) => {}
                // There may be more.
                Ok(_) => continue,
                Err(fault) => tracing::warn!(%fault, "due mails could not be claimed"),
            }
            tokio::select! {
                () = tokio::time::sleep(self.settings.timing.poll_interval) => {}
                () = changed(&mut changes, MAIL) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Sends a batch of due mails concurrently; returns their number.
    async fn send_due(&self) -> Result<usize, Fault> {
        let (limit, lease) = (self.settings.concurrency.max(1), self.settings.timing.lease);
        let claimed = self
            .db
            .write(
                (),
                move |tx, ()| async move { store::claim_due(&tx, limit, lease).await },
            )
            .await?;
        join_all(claimed.iter().map(|mail| self.send(mail))).await;
        Ok(claimed.len())
    }

    async fn send(&self, mail: &ClaimedMail) {
        let call = Call::by_module("notifications").traced(mail.traceparent.as_deref().and_then(TraceParent::parse));
        // A panic counts as a refusal, so that a mail that triggers a bug is given up eventually and does not block the others.
        let attempt = AssertUnwindSafe(self.attempt(&call, mail)).catch_unwind().await;
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
        // If this is not stored, the lease expires and the mail is sent again under its Message-ID: at least once.
        if let Err(fault) = self.record(call, mail.clone(), next).await {
            tracing::warn!(notification = %mail.id, %fault, "the outcome of a mail could not be stored");
        }
    }

    /// Looks up the address and sends. No transaction is open.
    async fn attempt(&self, call: &Call, mail: &ClaimedMail) -> Attempt {
        let timeout = self.settings.timing.users_timeout;
        let request = FindUser {
            user_id: mail.user_id.to_string(),
        };
        let lookup = tokio::time::timeout(timeout, async {
            self.users.find_user(&call.clone().within(timeout), request).await
        });
        let user = match lookup.await {
            Err(_) => {
                return Attempt::Unknown {
                    error: Failure::new("users_timeout", "users did not respond in time"),
                };
            }
            Ok(Err(fault)) if fault.is_transient() => return Attempt::Unknown { error: fault.into() },
            Ok(Err(fault)) => return Attempt::Refused { error: fault.into() },
            Ok(Ok(found)) => found.user,
        };
        let Some(user) = user else {
            return Attempt::Undeliverable {
                error: Failure::new("no_such_user", "there is no such user"),
            };
        };
        let recipient = Recipient {
            name: user.name,
            address: user.email,
        };
        self.mailer.send(mail, &recipient).await
    }

    async fn record(&self, call: Call, mail: ClaimedMail, next: Next) -> Result<(), Fault> {
        let now = self.clock.now();
        self.db
            .write((call, mail, next), move |tx, (call, mail, next)| async move {
                let still_claimed = store::record(&tx, &mail, &next, now).await?;
                if still_claimed && matches!(next, Next::Sent { .. }) {
                    let event = MailSent {
                        notification_id: mail.id.to_string(),
                        user_id: mail.user_id.to_string(),
                        kind: mail.kind.into_str().to_owned(),
                    };
                    outbox::append(&tx, &call, &format!("mail/{}", mail.id), &event).await?;
                }
                Ok(())
            })
            .await
    }
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
