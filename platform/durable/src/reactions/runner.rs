//! Retries what is due in the `retry` table. One instance does it for a module, by lease.

use std::{sync::Arc, time::Duration};

use banyan_core::{Envelope, Fault};
use futures::StreamExt;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Deliveries,
    catch_up::Fetched,
    delivery::{By, no_version},
    gap::{MISSING, WENT_BACK, is_gap},
    retry::{self, Due},
};
use crate::{Db, Feeds, changed, lease, machinery::Work, time};

/// The number of subjects retried at the same time.
const CONCURRENCY: usize = 16;
/// The number of rows read in one pass.
const PAGE: i64 = 64;

impl Deliveries {
    /// Retries, and compares with the producers' feeds, until stopped.
    pub fn work(self, feeds: Feeds) -> Work {
        let feeds = Arc::new(feeds);
        Arc::new(move |stop| {
            let (deliveries, feeds) = (self.clone(), feeds.clone());
            Box::pin(async move {
                let run = |held: CancellationToken| {
                    let (deliveries, feeds) = (&deliveries, &feeds);
                    async move {
                        tokio::join!(
                            deliveries.retry_until(feeds, &held),
                            deliveries.compare_until(feeds, &held)
                        );
                    }
                };
                lease::hold(deliveries.db(), "reactions", &stop, run).await;
            })
        })
    }

    async fn retry_until(&self, feeds: &Feeds, held: &CancellationToken) {
        let mut changes = self.db().changes();
        while !held.is_cancelled() {
            // Stopping in the middle loses nothing: a row stays in the table until the transaction that handles it.
            let passed = tokio::select! {
                () = held.cancelled() => return,
                passed = self.pass(feeds) => passed,
            };
            let pause = passed.unwrap_or_else(|fault| {
                tracing::warn!(module = self.db().module(), %fault, "retries failed");
                self.db().settings().limits.poll
            });
            tokio::select! {
                () = held.cancelled() => return,
                () = changed(&mut changes, retry::TOPIC), if !pause.is_zero() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Retries what is due; returns the time until the next event is due. What is kept meanwhile is announced; the idle poll is for announcements that
    /// were lost.
    async fn pass(&self, feeds: &Feeds) -> Result<Duration, Fault> {
        let settings = self.db().settings();
        let heads = retry::heads(self.db(), PAGE).await?;
        let longest_ms = time::ms_of(settings.max_wait());
        let (due, waiting): (Vec<Due>, Vec<Due>) = heads
            .into_iter()
            .partition(|head| head.wait_ms <= 0 || head.wait_ms > longest_ms);
        if due.is_empty() {
            let next = waiting.first().and_then(|head| u64::try_from(head.wait_ms).ok());
            let idle = settings.limits.idle_poll;
            return Ok(next.map_or(idle, |wait_ms| Duration::from_millis(wait_ms).min(idle)));
        }
        let retried: Vec<Result<(), Fault>> = futures::stream::iter(due)
            .map(|due| self.retry(feeds, due))
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        retried.into_iter().collect::<Result<(), Fault>>()?;
        Ok(Duration::ZERO)
    }

    async fn retry(&self, feeds: &Feeds, due: Due) -> Result<(), Fault> {
        if due.is_frame() {
            return self.decode_again(due).await;
        }
        if is_gap(&due.kind) {
            return self.fill(feeds, due).await;
        }
        let reached = lane_of(self.db(), &due).await?;
        if due.version <= reached + 1 {
            // A stored body is always decodable unless somebody edits the table.
            let envelope = Envelope::from_bytes(due.body.as_bytes())?;
            return self.take(envelope, By::Runner).await.map(drop);
        }
        // The versions before it are missing.
        let fetched = self.fetch(feeds, &due.source, &due.subject, due.version - 1).await;
        let missing = match fetched {
            Err(fault) => fault,
            Ok(_) if lane_of(self.db(), &due).await? > reached => return Ok(()),
            Ok(_) if retry::holds(self.db(), &due.source, &due.subject, reached + 1).await? => return Ok(()),
            Ok(_) => Fault::unavailable("The feed of the producer does not have the versions before this one yet."),
        };
        tracing::debug!(module = self.db().module(), source = due.source, subject = due.subject, %missing, "the missing events could not be fetched");
        self.postpone(due, missing).await
    }

    /// Asks the producer again for versions that were missing, or whether it is what it was: an operator may have restored it.
    async fn fill(&self, feeds: &Feeds, due: Due) -> Result<(), Fault> {
        let until = due.until_version.unwrap_or(due.version);
        let filled = async {
            if due.kind == WENT_BACK {
                if self.stop_if_it_went_back(feeds, &due.source, &due.subject).await? {
                    return Ok(Fetched::Gap);
                }
                self.forget(&due).await?;
            }
            // Of `missing` no version may be known to exist; then this only asks for those that there are.
            let known = if due.kind == WENT_BACK {
                until.max(due.version)
            } else {
                until
            };
            self.fetch(feeds, &due.source, &due.subject, known).await
        };
        match filled.await {
            Err(fault) => self.postpone(due, fault).await,
            // What is missing was stored again, with the time of the next attempt.
            Ok(Fetched::Gap) => Ok(()),
            Ok(Fetched::Events { .. }) if due.kind == MISSING && until < due.version => self.forget(&due).await,
            Ok(Fetched::Events { last_version }) if last_version > 0 && last_version < due.version => {
                self.forget(&due).await
            }
            Ok(Fetched::Events { .. }) => match lane_of(self.db(), &due).await? {
                reached if reached >= due.version => self.forget(&due).await,
                _ => {
                    self.postpone(
                        due,
                        Fault::unavailable("The producer sends something else in place of the missing events."),
                    )
                    .await
                }
            },
        }
    }

    async fn forget(&self, due: &Due) -> Result<(), Fault> {
        let key = (due.source.clone(), due.subject.clone(), due.version);
        let write = self.db().write(key, |tx, (source, subject, version)| async move {
            retry::forget(&tx, &source, &subject, version).await
        });
        write.await
    }

    /// A frame that an operator replays: perhaps this build can decode it.
    async fn decode_again(&self, due: Due) -> Result<(), Fault> {
        match Envelope::from_bytes(due.body.as_bytes()).and_then(|event| {
            if event.version < 1 {
                Err(no_version())
            } else {
                Ok(event)
            }
        }) {
            Ok(envelope) => {
                self.take(envelope, By::Bus).await?;
                let write = self.db().write(due.subject, |tx, subject| async move {
                    retry::forget(&tx, "", &subject, 0).await
                });
                write.await
            }
            Err(fault) => {
                let (key, body, why) = (due.subject, due.body, fault.to_string());
                let write = self.db().write((key, body, why), |tx, (key, body, why)| async move {
                    retry::keep_frame(&tx, &key, &body, &why).await
                });
                write.await
            }
        }
    }

    async fn postpone(&self, due: Due, why: Fault) -> Result<(), Fault> {
        let due = Arc::new((due, why));
        let write = self
            .db()
            .write(due, |tx, due| async move { retry::postpone(&tx, &due.0, &due.1).await });
        write.await
    }
}

async fn lane_of(db: &Db, due: &Due) -> Result<i64, Fault> {
    let lanes = super::catch_up::lanes(db, &due.source, &[due.subject.as_str()]).await?;
    Ok(lanes.get(&due.subject).map_or(0, |lane| lane.version))
}
