//! Asks producers for events that never came: those before a gap, and those of which nothing came at all.
//!
//! The broker is transport, not memory; the producer's outbox remembers. So what a broker lost is found here, at the latest with the next comparison.

use std::{collections::HashMap, sync::Arc, time::Duration};

use banyan_core::{Call, Envelope, Fault, Subscriber, Timestamp};
use banyan_event_feed_contract::{EventFeed, Events, ListEvents, ListSubjects, Subject};
use futures::StreamExt;
use sea_orm::{ConnectionTrait, Statement, Value};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Deliveries, advance,
    delivery::{By, Taken},
    reached, retry,
};
use crate::{Db, Feeds, fault::fault, feed};

/// The timeout for one page of a producer's feed.
const FEED_LIMIT: Duration = Duration::from_secs(5);
/// Events of one subject fetched at a time.
const EVENTS: u32 = 100;
/// Subjects fetched at the same time.
const CONCURRENCY: usize = 8;
/// Subjects looked up in one query.
const LANES: usize = 200;
/// What was found equal need not be compared again, except for a while before: the producer's clock may be behind ours, and a transaction
/// commits later than it reads the clock.
const OVERLAP: Duration = Duration::from_secs(300);
/// A producer that did not answer is asked again so soon, if not sooner by setting.
const AGAIN: Duration = Duration::from_secs(5);

impl Deliveries {
    /// Compares at once, then again and again, and whenever the carrier says that something may have been missed.
    ///
    /// What a queue held when it was lost may be as old as the outboxes remember, so a start and a word of the carrier's are followed by a
    /// comparison over all of that; the others look at what may have changed since the last complete one.
    pub(super) async fn compare_until(&self, feeds: &Feeds, held: &CancellationToken) {
        // When the last complete comparison with each source began. It is forgotten with the lease: whoever takes over compares everything.
        let mut compared: HashMap<String, Timestamp> = HashMap::new();
        loop {
            let mut pause = Duration::from_millis(self.db().settings().feed_compare_ms);
            for source in self.sources() {
                let begun = self.db().clock().now();
                // Giving up in the middle loses nothing: what was not taken yet is missing still, and found again.
                let done = tokio::select! {
                    () = held.cancelled() => return,
                    done = self.compare(feeds, &source, compared.get(&source).copied()) => done,
                };
                match done {
                    Ok(()) => drop(compared.insert(source, begun)),
                    Err(fault) => {
                        tracing::info!(module = self.db().module(), source, %fault, "cannot compare with this producer now");
                        pause = pause.min(AGAIN);
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

    /// The modules listened to.
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

    /// From when on a comparison looks, the last complete one having begun at `last`: from there, if that is not too long ago; else as far back
    /// as producers keep their events.
    fn looks_back_to(&self, last: Option<Timestamp>) -> Timestamp {
        let (now, settings) = (self.db().clock().now(), self.db().settings());
        let window = settings.limits.feed_window;
        let kept = settings.outbox_retention();
        last.filter(|last| *last > now.minus(window))
            .map_or(now.minus(kept), |last| last.minus(OVERLAP))
    }

    /// Compares the lanes with what the producer says, and fetches what is missing.
    async fn compare(&self, feeds: &Feeds, source: &str, last: Option<Timestamp>) -> Result<(), Fault> {
        let feed = feed_of(feeds, source)?;
        let since = self.looks_back_to(last);
        let mut after = String::new();
        loop {
            let request = ListSubjects {
                module: source.to_owned(),
                since_ms: since.as_ms(),
                after_subject: after,
                limit: feed::PAGE,
            };
            let call = Call::by_module(self.db().module()).within(FEED_LIMIT);
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

    /// Those of the subjects that this module follows and of which it has not seen the last version, unless the retry runner is at them.
    async fn behind(&self, source: &str, subjects: Vec<Subject>) -> Result<Vec<Subject>, Fault> {
        let heard = |subject: &Subject| {
            let aggregate = subject.subject.split('/').next().unwrap_or_default();
            self.reactions.listens_to(&format!("{source}.{aggregate}"))
        };
        let heard: Vec<Subject> = subjects.into_iter().filter(heard).collect();
        let mut behind = Vec::new();
        for subjects in heard.chunks(LANES) {
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

    /// Fetches and takes the events of a subject from where its lane stands. What the producer keeps no more is passed over: up to the oldest
    /// version it keeps, but never beyond `known`.
    pub(super) async fn fetch(&self, feeds: &Feeds, source: &str, subject: &str, known: i64) -> Result<(), Fault> {
        let feed = feed_of(feeds, source)?;
        let lane = lanes(self.db(), source, &[subject]).await?;
        let mut from = lane.get(subject).copied().unwrap_or(0) + 1;
        loop {
            let Events {
                items,
                first_kept_version,
            } = self.ask(feed, source, subject, from).await?;
            let first_kept = if first_kept_version == 0 {
                known + 1
            } else {
                first_kept_version
            };
            let first = items
                .first()
                .map(|body| Envelope::from_bytes(body.as_bytes()))
                .transpose();
            // What was given counts for more than what is said to be kept: the outbox may be pruned between the two.
            let first = first
                .ok()
                .flatten()
                .map_or(first_kept, |event| event.version.min(first_kept));
            let gone = (first - 1).min(known);
            if gone >= from {
                self.pass_over(source, subject, from - 1, gone).await?;
            }
            let full = items.len() >= EVENTS as usize;
            for body in items {
                let envelope = match Envelope::from_bytes(body.as_bytes()) {
                    Ok(envelope) => envelope,
                    Err(fault) => return self.reject(body.as_bytes(), &fault).await,
                };
                from = envelope.version + 1;
                // One that was kept for later holds back those behind it; they will be fetched when its turn is over.
                if self.take(envelope, By::Bus).await? == Taken::Kept {
                    return Ok(());
                }
            }
            if !full {
                return Ok(());
            }
        }
    }

    async fn ask(
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
        let call = Call::by_module(self.db().module()).within(FEED_LIMIT);
        let events = within(feed.list_events(&call, request)).await?;
        metrics::counter!("banyan_events_fetched_total", "module" => self.db().module().to_owned())
            .increment(events.items.len() as u64);
        Ok(events)
    }

    /// Moves the lane past events that nobody keeps any more.
    async fn pass_over(&self, source: &str, subject: &str, from: i64, to: i64) -> Result<(), Fault> {
        tracing::warn!(
            module = self.db().module(),
            source,
            subject,
            from,
            to,
            "the producer keeps these events no more; they are passed over"
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

/// Where the lanes of these subjects stand; a subject without one has not been heard of.
pub(super) async fn lanes(db: &Db, source: &str, subjects: &[&str]) -> Result<HashMap<String, i64>, Fault> {
    let places: Vec<String> = (2..subjects.len() + 2).map(|place| format!("${place}")).collect();
    let sql = format!(
        "select subject, last_version from lane where source = $1 and subject in ({})",
        places.join(", ")
    );
    let values = std::iter::once(Value::from(source)).chain(subjects.iter().map(|subject| Value::from(*subject)));
    let rows = db
        .read()
        .query_all_raw(Statement::from_sql_and_values(db.backend(), sql, values))
        .await
        .map_err(fault)?;
    rows.iter()
        .map(|row| {
            Ok((
                row.try_get("", "subject").map_err(fault)?,
                row.try_get("", "last_version").map_err(fault)?,
            ))
        })
        .collect()
}

fn feed_of<'a>(feeds: &'a Feeds, source: &str) -> Result<&'a Arc<dyn EventFeed>, Fault> {
    feeds
        .get(source)
        .ok_or_else(|| Fault::unavailable(format!("It is not known where to ask {source} for its events.")))
}

async fn within<T>(asked: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    timeout(FEED_LIMIT, asked)
        .await
        .unwrap_or_else(|_| Err(Fault::timeout("The producer did not answer in time.")))
}
