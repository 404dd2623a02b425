//! Fetches events that were never delivered from their producers: those before a gap, and those of subjects of which nothing was delivered at all.
//!
//! The broker is transport, not storage; the producer's outbox keeps the events. So what a broker lost is found here, at the latest by the next
//! comparison.

use std::{collections::HashMap, sync::Arc, time::Duration};

use banyan_core::{Call, Envelope, Fault, Subscriber, Timestamp};
use banyan_event_feed_contract::{EventFeed, Events, ListEvents, ListSubjects, Subject};
use futures::StreamExt;
use sea_orm::{FromQueryResult, Value};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Deliveries, advance,
    delivery::{By, Taken},
    reached, retry,
};
use crate::{Db, Feeds, feed, query};

/// The timeout for one page of a feed.
const FEED_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of events of one subject fetched by one call.
const EVENTS: u32 = 100;
/// The number of subjects fetched at the same time.
const CONCURRENCY: usize = 8;
/// The number of lanes read by one query.
const LANES: usize = 200;
/// A comparison starts this long before the last complete one: the producer's clock may be behind ours, and a transaction commits later than it reads
/// the clock.
const OVERLAP: Duration = Duration::from_secs(300);
/// The interval until the next comparison after one failed, unless `feed_compare_ms` is shorter.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

impl Deliveries {
    /// Compares at once, then at an interval, and whenever the transport says that events may have been missed.
    ///
    /// The events in a queue that was lost may be as old as anything in the outboxes. So at the start, and when events may have been missed, a comparison
    /// covers everything the producers keep; otherwise it covers what may have changed since the last complete one.
    pub(super) async fn compare_until(&self, feeds: &Feeds, held: &CancellationToken) {
        // When the last complete comparison with each source began. It is lost with the lease: the next holder compares everything.
        let mut compared: HashMap<String, Timestamp> = HashMap::new();
        loop {
            let mut pause = Duration::from_millis(self.db().settings().feed_compare_ms);
            for source in self.sources() {
                let begun = self.db().clock().now();
                // Stopping in the middle loses nothing: events that were not taken yet are still missing, and found again.
                let done = tokio::select! {
                    () = held.cancelled() => return,
                    done = self.compare(feeds, &source, compared.get(&source).copied()) => done,
                };
                match done {
                    Ok(()) => drop(compared.insert(source, begun)),
                    Err(fault) => {
                        tracing::info!(module = self.db().module(), source, %fault, "the comparison with this producer failed");
                        pause = pause.min(RETRY_INTERVAL);
                    }
                }
            }
            tokio::select! {
                () = held.cancelled() => return,
                () = self.missed.notified() => compared.clear(),
                () = sleep(pause) => {}
            }
        }
    }

    /// The modules subscribed to.
    fn sources(&self) -> Vec<String> {
        let mut sources: Vec<String> = self
            .topics()
            .iter()
            .filter_map(|topic| topic.split_once('.'))
            .map(|(source, _)| source.to_owned())
            .collect();
        sources.dedup();
        sources
    }

    /// The time from which a comparison starts, if the last complete one began at `last`: from there, if that is within the feed window; otherwise from
    /// the oldest events that producers keep.
    fn compare_since(&self, last: Option<Timestamp>) -> Timestamp {
        let (now, settings) = (self.db().clock().now(), self.db().settings());
        let window = settings.limits.feed_window;
        let kept = settings.outbox_retention();
        last.filter(|last| *last > now.minus(window))
            .map_or(now.minus(kept), |last| last.minus(OVERLAP))
    }

    /// Compares the lanes with the producer's feed, and fetches what is missing.
    async fn compare(&self, feeds: &Feeds, source: &str, last: Option<Timestamp>) -> Result<(), Fault> {
        let feed = feed_of(feeds, source)?;
        let since = self.compare_since(last);
        let mut after = String::new();
        loop {
            let request = ListSubjects {
                module: source.to_owned(),
                since_ms: since.as_ms(),
                after_subject: after,
                limit: feed::PAGE,
            };
            let call = Call::by_module(self.db().module()).within(FEED_TIMEOUT);
            let page = within(feed.list_subjects(&call, request)).await?.items;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.subject.clone();
            let full = page.len() >= feed::PAGE as usize;
            let behind = self.behind(source, page).await?;
            let fetched: Vec<Result<(), Fault>> = futures::stream::iter(behind)
                .map(|subject| async move { self.fetch(feeds, source, &subject.subject, subject.last_version).await })
                .buffer_unordered(CONCURRENCY)
                .collect()
                .await;
            fetched.into_iter().collect::<Result<(), Fault>>()?;
            if !full {
                return Ok(());
            }
        }
    }

    /// The subjects that this module subscribes to and whose last version it has not handled, unless the retry table has events of them.
    async fn behind(&self, source: &str, subjects: Vec<Subject>) -> Result<Vec<Subject>, Fault> {
        let subscribed = |subject: &Subject| {
            let aggregate = subject.subject.split('/').next().unwrap_or_default();
            self.reactions.subscribes_to(&format!("{source}.{aggregate}"))
        };
        let subscribed: Vec<Subject> = subjects.into_iter().filter(subscribed).collect();
        let mut behind = Vec::new();
        for subjects in subscribed.chunks(LANES) {
            let names: Vec<&str> = subjects.iter().map(|subject| subject.subject.as_str()).collect();
            let lanes = lanes(self.db(), source, &names).await?;
            for subject in subjects {
                let reached = lanes.get(&subject.subject).copied().unwrap_or(0);
                if reached < subject.last_version && !retry::holds_any(self.db(), source, &subject.subject).await? {
                    behind.push(subject.clone());
                }
            }
        }
        Ok(behind)
    }

    /// Fetches and takes the events of a subject after its lane. Versions that the producer no longer keeps are skipped, up to the oldest one it keeps,
    /// but never beyond `known`.
    pub(super) async fn fetch(&self, feeds: &Feeds, source: &str, subject: &str, known: i64) -> Result<(), Fault> {
        let feed = feed_of(feeds, source)?;
        let lane = lanes(self.db(), source, &[subject]).await?;
        let mut from = lane.get(subject).copied().unwrap_or(0) + 1;
        loop {
            let Events {
                items,
                first_kept_version,
            } = self.list_events(feed, source, subject, from).await?;
            let first_kept = if first_kept_version == 0 {
                known + 1
            } else {
                first_kept_version
            };
            let first = items
                .first()
                .map(|body| Envelope::from_bytes(body.as_bytes()))
                .transpose();
            // The first event returned counts for more than the oldest version said to be kept: the outbox may be pruned between the two.
            let first = first
                .ok()
                .flatten()
                .map_or(first_kept, |event| event.version.min(first_kept));
            let lost = (first - 1).min(known);
            if lost >= from {
                self.skip(source, subject, from - 1, lost).await?;
            }
            let full = items.len() >= EVENTS as usize;
            for body in items {
                let envelope = match Envelope::from_bytes(body.as_bytes()) {
                    Ok(envelope) => envelope,
                    Err(fault) => return self.reject(body.as_bytes(), &fault).await,
                };
                from = envelope.version + 1;
                // An event that was kept for later holds back those after it; they will be fetched once it is handled.
                if self.take(envelope, By::Bus).await? == Taken::Kept {
                    return Ok(());
                }
            }
            if !full {
                return Ok(());
            }
        }
    }

    async fn list_events(
        &self,
        feed: &Arc<dyn EventFeed>,
        source: &str,
        subject: &str,
        from_version: i64,
    ) -> Result<Events, Fault> {
        let request = ListEvents {
            module: source.to_owned(),
            subject: subject.to_owned(),
            from_version,
            limit: EVENTS,
        };
        let call = Call::by_module(self.db().module()).within(FEED_TIMEOUT);
        let events = within(feed.list_events(&call, request)).await?;
        metrics::counter!("banyan_events_fetched_total", "module" => self.db().module().to_owned())
            .increment(events.items.len() as u64);
        Ok(events)
    }

    /// Moves the lane past events that the producer no longer keeps.
    async fn skip(&self, source: &str, subject: &str, from: i64, to: i64) -> Result<(), Fault> {
        tracing::warn!(
            module = self.db().module(),
            source,
            subject,
            from,
            to,
            "the producer no longer keeps these events; they are skipped"
        );
        metrics::counter!("banyan_events_passed_over_total", "module" => self.db().module().to_owned())
            .increment(u64::try_from(to - from).unwrap_or(0));
        let (source, subject) = (source.to_owned(), subject.to_owned());
        let write = self
            .db()
            .write((source, subject), move |tx, (source, subject)| async move {
                if reached(&tx, &source, &subject).await? == from {
                    advance(&tx, &source, &subject, from, to).await?;
                    tx.wake(retry::TOPIC);
                }
                Ok(())
            });
        write.await
    }
}

#[derive(FromQueryResult)]
struct Lane {
    subject: String,
    last_version: i64,
}

/// The versions of the lanes of these subjects. A subject without a lane has had no event yet.
pub(super) async fn lanes(db: &Db, source: &str, subjects: &[&str]) -> Result<HashMap<String, i64>, Fault> {
    let sql = format!(
        "select subject, last_version from lane where source = $1 and subject in ({})",
        query::placeholders(2, subjects.len())
    );
    let values = std::iter::once(Value::from(source)).chain(subjects.iter().map(|subject| Value::from(*subject)));
    let rows: Vec<Lane> = query::all(db.read(), &sql, values).await?;
    Ok(rows.into_iter().map(|lane| (lane.subject, lane.last_version)).collect())
}

fn feed_of<'a>(feeds: &'a Feeds, source: &str) -> Result<&'a Arc<dyn EventFeed>, Fault> {
    feeds
        .get(source)
        .ok_or_else(|| Fault::unavailable(format!("No event feed is configured for {source}.")))
}

async fn within<T>(call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    timeout(FEED_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(Fault::timeout("The producer did not respond in time.")))
}
