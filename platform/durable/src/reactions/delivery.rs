//! Takes one delivered event: handles it, recognises it as a duplicate, or keeps it for later.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use banyan_core::{Envelope, Fault, Subscriber};
use tokio::sync::Notify;

use super::{
    Reactions,
    batch::Batches,
    gap::{Gap, WENT_BACK, is_gap},
    lane::{self, Lane},
    retry::{self, RetryState},
};
use crate::{Db, Tx};

/// The receiving end of a module.
#[derive(Clone)]
pub(crate) struct Deliveries {
    pub(super) reactions: Arc<Reactions>,
    /// Notified when events may have been missed.
    pub(super) missed: Arc<Notify>,
    pub(super) batches: Batches,
}

/// What was done with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(super) enum Taken {
    /// Its effect is committed, and the lane is at its version.
    Handled,
    /// The lane was at this version or beyond; nothing was done.
    Duplicate,
    /// It is in the retry table, and the lane is before its version.
    Kept,
    /// The module does not subscribe to such subjects.
    #[strum(serialize = "unheard")]
    NotSubscribed,
}

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// It has just been delivered. If it failed before, it is left to the retry runner; if it is dead, to the operators.
    Bus,
    /// It is in the retry table and is due.
    Runner,
}

impl Deliveries {
    pub fn new(reactions: Reactions) -> Self {
        Deliveries {
            reactions: Arc::new(reactions),
            missed: Arc::default(),
            batches: Batches::default(),
        }
    }

    pub fn topics(&self) -> Vec<String> {
        self.reactions.topics()
    }

    pub(super) fn db(&self) -> &Db {
        &self.reactions.db
    }

    /// Takes an event. `Ok` means that it cannot be lost any more.
    pub(super) async fn take(&self, envelope: impl Into<Arc<Envelope>>, by: By) -> Result<Taken, Fault> {
        let envelope = envelope.into();
        // An event in the retry table was subscribed to when it arrived; a build that no longer subscribes to it skips it.
        if by == By::Bus && !self.reactions.subscribes_to(&envelope.topic()) {
            return Ok(Taken::NotSubscribed);
        }
        if envelope.version < 1 {
            self.reject(&envelope.to_bytes(), &no_version()).await?;
            return Ok(Taken::Kept);
        }
        let began = Instant::now();
        let (reactions, event) = (self.reactions.clone(), envelope);
        let of_attempt = event.clone();
        let attempt = self
            .db()
            .write((reactions, of_attempt), move |tx, (reactions, envelope)| async move {
                handle(&tx, &reactions, &envelope, by).await
            });
        let taken = match attempt.await {
            Ok(taken) => taken,
            Err(fault) => {
                tracing::warn!(
                    module = self.db().module(), source = event.source, kind = event.kind, subject = event.subject,
                    version = event.version, %fault, "a reaction failed; it will be retried"
                );
                self.keep_failed(event.clone(), fault).await?;
                Taken::Kept
            }
        };
        self.count(taken, began);
        Ok(taken)
    }

    /// Counts an event whose transaction began then.
    pub(super) fn count(&self, taken: Taken, began: Instant) {
        let labels = [
            ("module", self.db().module().to_owned()),
            ("outcome", taken.into_str().to_owned()),
        ];
        metrics::counter!("banyan_reactions_total", &labels).increment(1);
        metrics::histogram!("banyan_reaction_seconds", &labels).record(began.elapsed().as_secs_f64());
    }

    /// The second write, after what the reaction wrote was rolled back: a record to retry it.
    async fn keep_failed(&self, envelope: Arc<Envelope>, fault: Fault) -> Result<(), Fault> {
        let fault = Arc::new(fault);
        let write = self.db().write((envelope, fault), |tx, (envelope, fault)| async move {
            // Another instance may have handled it meanwhile.
            if lane::reached(&tx, &envelope.source, &envelope.subject).await?.version >= envelope.version {
                return Ok(());
            }
            retry::keep_failed(&tx, &envelope, &fault).await
        });
        write.await
    }
}

/// The transaction of an event: its lane, its reactions, its row in the retry table.
async fn handle(tx: &Tx, reactions: &Reactions, envelope: &Envelope, by: By) -> Result<Taken, Fault> {
    let Envelope {
        source,
        subject,
        version,
        ..
    } = envelope;
    let lane = lane::reached(tx, source, subject).await?;
    let event = Lane {
        version: *version,
        event_id: Some(envelope.id),
    };
    if lane.contradicts(envelope) {
        Gap::went_back(source, subject, lane, event).keep(tx).await?;
        return Ok(Taken::Kept);
    }
    if *version <= lane.version {
        retry::forget(tx, source, subject, *version).await?;
        return Ok(Taken::Duplicate);
    }
    if *version > lane.version + 1 {
        retry::keep_waiting(tx, envelope).await?;
        return Ok(Taken::Kept);
    }
    let kept = retry::states(tx, source, subject, *version).await?;
    match &kept.this {
        // Nothing goes on until an operator has decided. A gap, on the other hand, is filled by the event; and a discarded one is the past.
        Some(row) if row.kind == WENT_BACK && row.state != RetryState::Discarded => return Ok(Taken::Kept),
        Some(row) if is_gap(&row.kind) => {}
        Some(row) if row.state == RetryState::Retrying && by == By::Bus => return Ok(Taken::Kept),
        Some(row) if matches!(row.state, RetryState::Dead | RetryState::Discarded) => return Ok(Taken::Kept),
        // It was discarded or handled since it was read.
        None if by == By::Runner => return Ok(Taken::Kept),
        _ => {}
    }
    lane::advance(tx, source, subject, lane.version, event).await?;
    reactions.react(tx, envelope).await?;
    if kept.this.is_some() {
        retry::forget(tx, source, subject, *version).await?;
    }
    if kept.next.is_some() {
        tx.wake(retry::TOPIC);
    }
    Ok(Taken::Handled)
}

pub(super) fn no_version() -> Fault {
    Fault::internal(retry::UNDECODABLE, "an event's version is at least 1")
}

#[async_trait]
impl Subscriber for Deliveries {
    fn module(&self) -> &str {
        self.db().module()
    }

    fn topics(&self) -> Vec<String> {
        self.reactions.topics()
    }

    async fn deliver(&self, envelope: Envelope) -> Result<(), Fault> {
        if envelope.version < 1 || !self.reactions.subscribes_to(&envelope.topic()) {
            return self.take(envelope, By::Bus).await.map(drop);
        }
        self.take_with_others(envelope).await.map(drop)
    }

    async fn reject(&self, frame: &[u8], why: &Fault) -> Result<(), Fault> {
        tracing::error!(module = self.db().module(), %why, "a frame cannot be decoded as an event; it is a dead letter now");
        let (body, why) = (
            Arc::<str>::from(retry::frame_text(frame)),
            Arc::<str>::from(why.to_string()),
        );
        let key = retry::frame_key(frame);
        let write = self.db().write((key, body, why), |tx, (key, body, why)| async move {
            retry::keep_frame(&tx, &key, &body, &why).await
        });
        write.await
    }

    fn catch_up(&self) {
        self.missed.notify_one();
    }
}
