//! The worker that sends what is queued. Several instances share the work: each claims what it sends, for the length of a lease.

use std::{panic::AssertUnwindSafe, sync::Arc};

use banyan_core::{Call, Clock, Fault, TraceParent};
use banyan_durable::{Db, changed, outbox};
use futures::{FutureExt, future::join_all};
use notifications_contract::MailSent;
use tokio_util::sync::CancellationToken;
use users_contract::{FindUser, Users};

use crate::{
    notification::{Attempt, Claimed, Failure, Next},
    post::{Post, Recipient},
    service::MAIL,
    settings::Settings,
    store,
};

pub struct Delivery {
    db: Db,
    clock: Arc<dyn Clock>,
    users: Arc<dyn Users>,
    post: Post,
    settings: Settings,
}

impl Delivery {
    pub fn new(db: Db, clock: Arc<dyn Clock>, users: Arc<dyn Users>, post: Post, settings: Settings) -> Self {
        Delivery {
            db,
            clock,
            users,
            post,
            settings,
        }
    }

    /// Sends until `stop`; what is being sent then is finished first, so that its outcome is not lost.
    pub async fn run(&self, stop: CancellationToken) {
        let mut changes = self.db.changes();
        while !stop.is_cancelled() {
            match self.send_due().await {
                Ok(0) => {}
                // There may be more.
                Ok(_) => continue,
                Err(fault) => tracing::warn!(%fault, "due mails could not be looked up"),
            }
            tokio::select! {
                () = tokio::time::sleep(self.settings.poll()) => {}
                () = changed(&mut changes, MAIL) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Sends one round of due mails, at the same time; answers how many.
    async fn send_due(&self) -> Result<usize, Fault> {
        let (limit, lease) = (self.settings.concurrency.max(1), self.settings.lease());
        let claimed = self
            .db
            .write(
                (),
                move |tx, ()| async move { store::claim_due(&tx, limit, lease).await },
            )
            .await?;
        join_all(claimed.iter().map(|mail| self.deliver(mail))).await;
        Ok(claimed.len())
    }

    async fn deliver(&self, mail: &Claimed) {
        let call = Call::by_module("notifications").traced(mail.traceparent.as_deref().and_then(TraceParent::parse));
        // A bug counts as a refusal, so that one mail that cannot be handled is given up some day and holds no other back.
        let attempt = AssertUnwindSafe(self.attempt(&call, mail)).catch_unwind().await;
        let attempt = attempt.unwrap_or_else(|_| Attempt::Refused {
            error: Failure::new("panicked", "sending it panicked"),
        });
        let next = mail.next(attempt, &self.settings.patience(), self.clock.now());
        match &next {
            Next::Again { after, error, .. } => {
                tracing::info!(notification = %mail.id, attempts = mail.attempts, ?after, %error, "a mail is not sent yet");
            }
            Next::Failed { error } => {
                tracing::warn!(notification = %mail.id, attempts = mail.attempts, %error, "a mail is given up")
            }
            Next::Sent { .. } | Next::Captured { .. } => {}
        }
        metrics::counter!("banyan_mails_total", "outcome" => outcome(&next), "kind" => mail.kind.as_str()).increment(1);
        // If this is not stored, the lease runs out and the mail goes out again under its Message-ID: at least once.
        if let Err(fault) = self.record(call, mail.clone(), next).await {
            tracing::warn!(notification = %mail.id, %fault, "what became of a mail could not be stored");
        }
    }

    /// Asks for the address and sends. No transaction is open.
    async fn attempt(&self, call: &Call, mail: &Claimed) -> Attempt {
        let limit = self.settings.users_timeout();
        let request = FindUser {
            user_id: mail.user_id.to_string(),
        };
        let asking = tokio::time::timeout(limit, async {
            self.users.find_user(&call.clone().within(limit), request).await
        });
        let user = match asking.await {
            Err(_) => {
                return Attempt::Unanswered {
                    error: Failure::new("users_timeout", "users did not answer in time"),
                };
            }
            Ok(Err(fault)) if fault.is_transient() => return Attempt::Unanswered { error: fault.into() },
            Ok(Err(fault)) => return Attempt::Refused { error: fault.into() },
            Ok(Ok(found)) => found.user,
        };
        match user {
            Some(user) => {
                self.post
                    .send(
                        mail,
                        &Recipient {
                            name: user.name,
                            address: user.email,
                        },
                    )
                    .await
            }
            None => Attempt::Hopeless {
                error: Failure::new("no_such_user", "there is no such user"),
            },
        }
    }

    async fn record(&self, call: Call, mail: Claimed, next: Next) -> Result<(), Fault> {
        let now = self.clock.now();
        self.db
            .write((call, mail, next), move |tx, (call, mail, next)| async move {
                let mine = store::record(&tx, &mail, &next, now).await?;
                if mine && matches!(next, Next::Sent { .. }) {
                    let (notification_id, user_id) = (mail.id.to_string(), mail.user_id.to_string());
                    let event = MailSent {
                        notification_id,
                        user_id,
                        kind: mail.kind.as_str().to_owned(),
                    };
                    outbox::append(&tx, &call, &format!("mail/{}", mail.id), &event).await?;
                }
                Ok(())
            })
            .await
    }
}

fn outcome(next: &Next) -> &'static str {
    match next {
        Next::Sent { .. } => "sent",
        Next::Captured { .. } => "captured",
        Next::Again { .. } => "again",
        Next::Failed { .. } => "failed",
    }
}
