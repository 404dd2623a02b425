//! Compares with the producers, and fetches events that were never delivered: those before a gap, and those of subjects of which nothing was delivered
//! at all.
//!
//! The broker is transport, not storage; the producer's outbox keeps the events. So what a broker lost is found here, at the latest by the next
//! comparison. It reads the subjects in the order of their changes, from the place up to which everything is known to be handled, and pauses between
//! pages, so that a shop with very many subjects is not slowed down.

use std::{collections::HashMap, sync::Arc, time::Duration};

use banyan_core::{Call, Envelope, Fault, Subscriber, Timestamp};
use banyan_event_feed_contract::{EventFeed, Events, ListEvents, ListSubjects, Subject, Subjects};
use futures::StreamExt;
use sea_orm::{FromQueryResult, Value};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Deliveries, advance, compared,
    compared::Place,
    confirmed::Told,
    delivery::By,
    gap::Gap,
    lane::{Lane, skipped_to},
    reached, retry,
};
use crate::{Db, Feeds, feed, query};

/// The timeout for one page of a feed.
pub(super) const FEED_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of events of one subject fetched by one call.
const EVENTS: u32 = 100;
/// The number of subjects fetched at the same time.
const CONCURRENCY: usize = 8;
/// The number of lanes read by one query.
pub(super) const LANES: usize = 200;
/// A transaction is dated before it is committed. So what changed within this time before a page was read may still be incomplete.
const OVERLAP: Duration = Duration::from_secs(60);
/// As `OVERLAP`, for producers of earlier versions: there the two clocks may differ, too.
const CLOCKS_OVERLAP: Duration = Duration::from_secs(300);
/// The interval until the next comparison after one failed, unless `feed_compare_ms` is shorter.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// The pause after a page, as a multiple of the time the page took: a comparison uses a quarter of one core at most.
pub(super) const PAUSE: u32 = 3;

/// What this process knows of its comparisons with one producer. It is lost with the lease.
struct Progress {
    /// The producer knows where this module stands.
    resumed: bool,
    /// The producer did not go back, or all lanes were compared with it since.
    lanes_compared: bool,
    /// The last time that the producer was told.
    confirmed_before: Option<i64>,
    /// When the last complete comparison with a producer of an earlier version began.
    compared_at: Option<Timestamp>,
    /// When a comparison succeeded, or was first tried.
    succeeded_at: Instant,
    told: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            resumed: false,
            lanes_compared: false,
            confirmed_before: None,
            compared_at: None,
            succeeded_at: Instant::now(),
            told: false,
        }
    }
}

/// What came of fetching the events of a subject.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    /// Those that there are. `last_version`: of the subject; 0 if the producer does not say.
    Events { last_version: i64 },
    /// Some cannot be had, or are not those they should be; that is in the retry table.
    Gap,
}

impl Deliveries {
    /// Compares at once, then at an interval, and whenever the transport says that events may have been missed.
    pub(super) async fn compare_until(&self, feeds: &Feeds, held: &CancellationToken) {
        let mut progress: HashMap<String, Progress> = HashMap::new();
        loop {
            let mut pause = Duration::from_millis(self.db().settings().feed_compare_ms);
            for source in self.sources() {
                let progress = progress.entry(source.clone()).or_default();
                // Stopping in the middle loses nothing: events that were not taken yet are still missing, and found again.
                let done = tokio::select! {
                    () = held.cancelled() => return,
                    done = self.compare(feeds, &source, progress) => done,
                };
                if let Err(fault) = &done {
                    tracing::info!(module = self.db().module(), source, %fault, "the comparison with this producer failed");
                    pause = pause.min(RETRY_INTERVAL);
                }
                self.tell_how_long_it_fails(&source, progress, done.err());
            }
            tokio::select! {
                () = held.cancelled() => return,
                () = self.missed.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Comparisons are tried without limit, so somebody is told, once, when they have failed for long.
    fn tell_how_long_it_fails(&self, source: &str, progress: &mut Progress, failed: Option<Fault>) {
        let module = self.db().module();
        if failed.is_none() {
            progress.succeeded_at = Instant::now();
            progress.told = false;
        }
        let since = progress.succeeded_at.elapsed();
        let labels = [("module", module.to_owned()), ("source", source.to_owned())];
        metrics::gauge!("banyan_feed_comparison_overdue_seconds", &labels).set(if failed.is_some() {
            since.as_secs_f64()
        } else {
            0.0
        });
        if let Some(fault) = failed
            && since >= self.db().settings().limits.alert_after
            && !progress.told
        {
            progress.told = true;
            tracing::error!(module, source, %fault, "this module cannot compare with the producer; events that the bus lost are not found");
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

    /// The aggregates of a module that are subscribed to.
    fn aggregates(&self, source: &str) -> Vec<String> {
        let topics = self.topics();
        let topics = topics.iter().filter_map(|topic| topic.split_once('.'));
        topics
            .filter(|(of, _)| *of == source)
            .map(|(_, aggregate)| aggregate.to_owned())
            .collect()
    }

    /// Compares the lanes with the producer's feed, page by page, and fetches what is missing.
    async fn compare(&self, feeds: &Feeds, source: &str, progress: &mut Progress) -> Result<(), Fault> {
        let feed = feed_of(feeds, source)?;
        let aggregates = self.aggregates(source);
        if !progress.resumed {
            progress.resumed = self.resume(feed, source, &aggregates).await?;
        }
        let begun_at = self.db().clock().now();
        let places = compared::places(self.db(), source, &aggregates).await?;
        let place = if places.len() == aggregates.len() {
            places.values().map(|place| place.before_ms).min()
        } else {
            None
        };
        let mut request = ListSubjects {
            module: source.to_owned(),
            since_ms: place.unwrap_or_else(|| self.compare_since(progress.compared_at).as_ms()),
            after_subject: String::new(),
            limit: feed::PAGE,
            by_change: true,
            subjects: Vec::new(),
        };
        let mut settled = place;
        loop {
            let page_begun_at = Instant::now();
            let call = Call::by_module(self.db().module()).within(FEED_TIMEOUT);
            let Subjects { items, now_ms, .. } = within(feed.list_subjects(&call, request.clone())).await?;
            let full = items.len() >= feed::PAGE as usize;
            let Some(last) = items.last().cloned() else { break };
            self.catch_up_with(feeds, source, items).await?;
            request.after_subject = last.subject;
            if now_ms > 0 {
                request.since_ms = last.changed_ms;
                let complete = now_ms - i64::try_from(OVERLAP.as_millis()).unwrap_or(0);
                let reached = if full { complete.min(last.changed_ms) } else { complete };
                // Every page counts: a comparison that is interrupted goes on from here.
                if place.is_some() && settled.is_none_or(|settled| settled < reached) {
                    self.move_to(source, &aggregates, reached).await?;
                    settled = Some(reached);
                }
            }
            if !full {
                break;
            }
            sleep(page_begun_at.elapsed() * PAUSE).await;
        }
        progress.compared_at = Some(begun_at);
        if let Some(before_ms) =
            settled.filter(|settled| progress.resumed && progress.confirmed_before != Some(*settled))
        {
            let handled = aggregates.iter().map(|aggregate| {
                let acknowledged_ms = places.get(aggregate).map_or(0, |place| place.acknowledged_ms);
                (
                    aggregate.clone(),
                    Place {
                        before_ms,
                        acknowledged_ms,
                    },
                )
            });
            match self.confirm(feed, source, handled.collect(), false).await? {
                Told::Stored { .. } => progress.confirmed_before = Some(before_ms),
                Told::WentBack => {
                    *progress = Progress::default();
                    self.missed.notify_one();
                    return Ok(());
                }
            }
        }
        if !progress.lanes_compared {
            self.compare_lanes(feeds, source).await?;
            progress.lanes_compared = true;
        }
        Ok(())
    }

    /// The time from which a comparison with a producer of an earlier version starts, if the last complete one began at `last`: from there, if that is
    /// within the feed window; otherwise from the oldest events that such producers keep.
    fn compare_since(&self, last: Option<Timestamp>) -> Timestamp {
        let (now, settings) = (self.db().clock().now(), self.db().settings());
        let window = settings.limits.feed_window;
        let kept = settings.outbox_retention();
        last.filter(|last| *last > now.minus(window))
            .map_or(now.minus(kept), |last| last.minus(CLOCKS_OVERLAP))
    }

    /// Fetches what is missing of these subjects, and stops the lanes of those that went back.
    pub(super) async fn catch_up_with(&self, feeds: &Feeds, source: &str, subjects: Vec<Subject>) -> Result<(), Fault> {
        let subscribed = |subject: &Subject| {
            let aggregate = subject.subject.split('/').next().unwrap_or_default();
            self.reactions.subscribes_to(&format!("{source}.{aggregate}"))
        };
        let subscribed: Vec<Subject> = subjects.into_iter().filter(subscribed).collect();
        for subjects in subscribed.chunks(LANES) {
            let names: Vec<&str> = subjects.iter().map(|subject| subject.subject.as_str()).collect();
            let lanes = lanes(self.db(), source, &names).await?;
            let lane_of = |subject: &Subject| lanes.get(&subject.subject).copied().unwrap_or_default();
            let subjects = subjects.iter().map(|subject| (subject.clone(), lane_of(subject)));
            self.catch_up_all(feeds, source, subjects.collect()).await?;
        }
        Ok(())
    }

    /// As `catch_up_with`, for subjects of which the lanes are known.
    pub(super) async fn catch_up_all(
        &self,
        feeds: &Feeds,
        source: &str,
        subjects: Vec<(Subject, Lane)>,
    ) -> Result<(), Fault> {
        let differing = subjects.into_iter().filter(|(subject, lane)| differs(lane, subject));
        let fetched: Vec<Result<(), Fault>> = futures::stream::iter(differing)
            .map(|(subject, lane)| async move { self.catch_up_one(feeds, source, &subject, lane).await })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        fetched.into_iter().collect()
    }

    async fn catch_up_one(&self, feeds: &Feeds, source: &str, subject: &Subject, lane: Lane) -> Result<(), Fault> {
        let Subject {
            subject, last_version, ..
        } = subject;
        let Some(held) = retry::held_after(self.db(), source, subject, lane.version).await? else {
            return Ok(());
        };
        if lane.version >= *last_version {
            self.stop_if_it_went_back(feeds, source, subject).await.map(drop)
        } else if lane.version + held < *last_version {
            self.fetch(feeds, source, subject, *last_version).await.map(drop)
        } else {
            Ok(())
        }
    }

    /// Fetches and takes the events of a subject after its lane; what cannot be handled yet is stored. Versions up to `known` that the producer no longer
    /// keeps are stored as a gap, unless they were never meant for this module.
    pub(super) async fn fetch(&self, feeds: &Feeds, source: &str, subject: &str, known: i64) -> Result<Fetched, Fault> {
        let feed = feed_of(feeds, source)?;
        let lane = self.lane(source, subject).await?;
        let mut from = lane.version + 1;
        let mut fetched = None;
        loop {
            let Events {
                items,
                first_kept_version,
                last_version,
                before_subscription,
                unknown,
            } = self.list_events(feed, source, subject, from).await?;
            if is_behind(lane, last_version, unknown) {
                self.stop_if_it_went_back(feeds, source, subject).await?;
                return Ok(Fetched::Gap);
            }
            let known = if last_version > 0 {
                known.min(last_version)
            } else {
                known
            };
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
            if lost >= from && before_subscription && from == 1 {
                self.skip(source, subject, lost).await?;
            } else if lost >= from {
                self.keep(Gap::missing(source, subject, from, lost)).await?;
                fetched = Some(Fetched::Gap);
            }
            let full = items.len() >= EVENTS as usize;
            for body in items {
                let envelope = match Envelope::from_bytes(body.as_bytes()) {
                    Ok(envelope) => envelope,
                    Err(fault) => {
                        self.reject(body.as_bytes(), &fault).await?;
                        return Ok(Fetched::Events { last_version });
                    }
                };
                from = envelope.version + 1;
                // Those after one that cannot be handled now are stored, too: the producer need not keep what is here.
                self.take(envelope, By::Bus).await?;
            }
            if !full {
                return Ok(fetched.unwrap_or(Fetched::Events { last_version }));
            }
        }
    }

    /// Asks the producer for the event that was handled last, and stores a gap if it has another one in its place, or none; returns whether it has.
    pub(super) async fn stop_if_it_went_back(&self, feeds: &Feeds, source: &str, subject: &str) -> Result<bool, Fault> {
        let feed = feed_of(feeds, source)?;
        let handled = self.lane(source, subject).await?;
        let events = self.list_events(feed, source, subject, handled.version.max(1)).await?;
        let next = events.items.iter().map(|body| Envelope::from_bytes(body.as_bytes()));
        let next = next.take(2).collect::<Result<Vec<Envelope>, Fault>>()?;
        let found = if is_behind(handled, events.last_version, events.unknown) {
            Some(skipped_to(events.last_version))
        } else {
            next.iter().find(|event| handled.contradicts(event)).map(|event| Lane {
                version: event.version,
                event_id: Some(event.id),
            })
        };
        let Some(found) = found else { return Ok(false) };
        self.keep(Gap::went_back(source, subject, handled, found)).await?;
        Ok(true)
    }

    async fn lane(&self, source: &str, subject: &str) -> Result<Lane, Fault> {
        let lanes = lanes(self.db(), source, &[subject]).await?;
        Ok(lanes.get(subject).copied().unwrap_or_default())
    }

    async fn keep(&self, gap: Gap) -> Result<(), Fault> {
        let write = self.db().write(gap, |tx, gap| async move { gap.keep(&tx).await });
        write.await
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
            subscriber: self.db().module().to_owned(),
        };
        let call = Call::by_module(self.db().module()).within(FEED_TIMEOUT);
        let events = within(feed.list_events(&call, request)).await?;
        metrics::counter!("banyan_events_fetched_total", "module" => self.db().module().to_owned())
            .increment(events.items.len() as u64);
        Ok(events)
    }

    /// Begins a lane after events that were published before this module subscribed.
    async fn skip(&self, source: &str, subject: &str, until: i64) -> Result<(), Fault> {
        tracing::info!(
            module = self.db().module(),
            source,
            subject,
            until,
            "these events were published before this module subscribed; they are skipped"
        );
        metrics::counter!("banyan_events_passed_over_total", "module" => self.db().module().to_owned())
            .increment(u64::try_from(until).unwrap_or(0));
        let (source, subject) = (source.to_owned(), subject.to_owned());
        let write = self
            .db()
            .write((source, subject), move |tx, (source, subject)| async move {
                if reached(&tx, &source, &subject).await?.version == 0 {
                    advance(&tx, &source, &subject, 0, skipped_to(until)).await?;
                    retry::forget(&tx, &source, &subject, 1).await?;
                    tx.wake(retry::TOPIC);
                }
                Ok(())
            });
        write.await
    }
}

/// Whether the producer has fewer versions of a subject than were handled here, or never heard of it.
fn is_behind(lane: Lane, last_version: i64, unknown: bool) -> bool {
    (1..lane.version).contains(&last_version) || (unknown && lane.version > 0)
}

/// Whether there is something to fetch, or the two do not have the same event in the same place. A lane that is ahead may have got there since the page
/// was read, or the producer went back.
fn differs(lane: &Lane, subject: &Subject) -> bool {
    let last_id: Option<Uuid> = subject.last_event_id.parse().ok();
    lane.version != subject.last_version
        || lane
            .event_id
            .zip(last_id)
            .is_some_and(|(handled, last)| handled != last)
}

#[derive(FromQueryResult)]
pub(super) struct LaneOf {
    pub subject: String,
    #[sea_orm(nested)]
    pub lane: Lane,
}

/// The lanes of these subjects. A subject without a lane has had no event yet.
pub(super) async fn lanes(db: &Db, source: &str, subjects: &[&str]) -> Result<HashMap<String, Lane>, Fault> {
    let sql = format!(
        "select subject, last_version, case when event_version = last_version then event_id end as event_id from lane where source = $1 and subject in ({})",
        query::placeholders(2, subjects.len())
    );
    let values = std::iter::once(Value::from(source)).chain(subjects.iter().map(|subject| Value::from(*subject)));
    let rows: Vec<LaneOf> = query::all(db.read(), &sql, values).await?;
    Ok(rows.into_iter().map(|row| (row.subject, row.lane)).collect())
}

pub(super) fn feed_of<'a>(feeds: &'a Feeds, source: &str) -> Result<&'a Arc<dyn EventFeed>, Fault> {
    feeds
        .get(source)
        .ok_or_else(|| Fault::unavailable(format!("No event feed is configured for {source}.")))
}

pub(super) async fn within<T>(call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    timeout(FEED_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(Fault::timeout("The producer did not respond in time.")))
}
