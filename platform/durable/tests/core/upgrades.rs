//! Producers and subscribers of different versions, side by side: in a rolling upgrade either may be the older one.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use banyan_core::{Call, Event, Fault};
use banyan_durable::{Db, Feeds, Machinery, Reactions};
use banyan_durable_testing::eventually;
use banyan_event_feed_contract::{ConfirmHandled, Confirmed, EventFeed, Events, ListEvents, ListSubjects, Subjects};
use serde::{Deserialize, Serialize};

use crate::harness::{
    Faults, Ignored, Noted, Running, SOON, TestBus, append, count, execute, handled, lane, note, quick, retries,
    subscribed, texts, with_two,
};

/// An event that the producer's next version adds.
#[derive(Clone, Serialize, Deserialize)]
struct Signed {}

impl Event for Signed {
    const TYPE: &'static str = "banyan.test.v1.Signed";
    const ALL_TYPES: &'static [&'static str] = &[Noted::TYPE, Ignored::TYPE, Self::TYPE];
}

fn feeds_of(orders: &Db) -> Feeds {
    [("orders".to_owned(), Machinery::new(orders.clone()).feed())].into()
}

#[tokio::test]
async fn an_event_newer_than_the_subscriber_waits_until_it_is_upgraded() {
    with_two(quick(), |orders, mails| async move {
        note(&orders, "order/1", "a").await;
        append(&orders, "order/1", Ignored {}).await;
        append(&orders, "order/1", Signed {}).await;
        note(&orders, "order/1", "b").await;
        note(&orders, "order/2", "another").await;
        let bus = Arc::new(TestBus::default());
        let running = Running::start_with(&bus, vec![subscribed(&mails, &Faults::default())], feeds_of(&orders)).await;
        eventually("it was tried more often than a bug is", SOON, || async {
            count(&mails, "select coalesce(max(attempts), 0) from retry").await > 5
        })
        .await;
        assert_eq!(
            (lane(&mails, "order/1").await, lane(&mails, "order/2").await),
            (2, 1),
            "what is known and of no interest is passed, and other subjects are not concerned"
        );
        assert_eq!(retries(&mails).await, ["order/1:3 retrying", "order/1:4 waiting"]);
        let why = texts(&mails, "select last_error from retry where version = 3")
            .await
            .remove(0);
        assert!(why.contains("does not know the event banyan.test.v1.Signed"), "{why}");
        running.stop().await;

        // The next version of the subscriber, without anybody doing anything.
        let upgraded = Reactions::new(mails.clone())
            .on::<Noted, _, _>("orders.order", |tx, incoming| async move {
                crate::harness::record(&tx, &incoming).await
            })
            .on::<Signed, _, _>("orders.order", |_, _| async { Ok(()) });
        let machinery = Machinery::new(mails.clone()).reactions(upgraded);
        let running = Running::start_with(&bus, vec![machinery], feeds_of(&orders)).await;
        eventually("all are handled", SOON, || async {
            handled(&mails, "order/1").await == ["a", "b"] && lane(&mails, "order/1").await == 4
        })
        .await;
        running.stop().await;
    })
    .await;
}

/// A producer of an earlier version: it knows nothing that was added since.
struct EarlierFeed {
    feed: Arc<dyn EventFeed>,
    upgraded: AtomicBool,
    since: Mutex<Vec<i64>>,
}

#[async_trait]
impl EventFeed for EarlierFeed {
    async fn list_subjects(&self, call: &Call, mut request: ListSubjects) -> Result<Subjects, Fault> {
        self.since.lock().unwrap().push(request.since_ms);
        if self.upgraded.load(Ordering::SeqCst) {
            return self.feed.list_subjects(call, request).await;
        }
        request.by_change = false;
        let mut page = self.feed.list_subjects(call, request).await?;
        page.items.iter_mut().for_each(|item| item.last_event_id.clear());
        Ok(page)
    }

    async fn list_events(&self, call: &Call, mut request: ListEvents) -> Result<Events, Fault> {
        if self.upgraded.load(Ordering::SeqCst) {
            return self.feed.list_events(call, request).await;
        }
        request.subscriber.clear();
        let events = self.feed.list_events(call, request).await?;
        Ok(Events {
            last_version: 0,
            before_subscription: false,
            ..events
        })
    }

    async fn confirm_handled(&self, call: &Call, request: ConfirmHandled) -> Result<Confirmed, Fault> {
        if self.upgraded.load(Ordering::SeqCst) {
            return self.feed.confirm_handled(call, request).await;
        }
        // As a server responds that has no such method.
        Err(Fault::internal(
            "unimplemented",
            "Operation is not implemented or not supported",
        ))
    }
}

#[tokio::test]
async fn a_subscriber_compares_with_a_producer_that_is_older_and_with_its_next_version() {
    with_two(quick(), |orders, mails| async move {
        let feed = Arc::new(EarlierFeed {
            feed: Machinery::new(orders.clone()).feed(),
            upgraded: false.into(),
            since: Mutex::default(),
        });
        let feeds: Feeds = [("orders".to_owned(), feed.clone() as Arc<dyn EventFeed>)].into();
        // More than a page.
        execute(
            &orders,
            "with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < 1500)
             insert into subject (subject, last_version, changed_at) select 'cart/' || n, 1, 8000000000000 from numbers",
        )
        .await;
        note(&orders, "order/1", "a").await;
        let bus = Arc::new(TestBus::default());
        let running = Running::start_with(&bus, vec![subscribed(&mails, &Faults::default())], feeds).await;
        eventually("it is handled", SOON, || async { lane(&mails, "order/1").await == 1 }).await;
        assert!(feed.since.lock().unwrap().iter().all(|since| *since > 0), "such a producer keeps seven days");
        assert_eq!(count(&mails, "select count(*) from compared").await, 0);
        note(&orders, "order/1", "b").await;
        eventually("so is the next", SOON, || async { lane(&mails, "order/1").await == 2 }).await;

        feed.upgraded.store(true, Ordering::SeqCst);
        note(&orders, "order/1", "c").await;
        eventually("the next version is told how far it has come", SOON, || async {
            count(&orders, "select coalesce(max(confirmed_before), 0) from subscriber where module = 'mails'").await > 0
        })
        .await;
        assert_eq!(handled(&mails, "order/1").await, ["a", "b", "c"]);
        running.stop().await;
    })
    .await;
}

/// In a rolling upgrade an instance of an earlier version writes beside a newer one, and counts up without the ids.
#[tokio::test]
async fn instances_of_an_earlier_version_beside_newer_ones_are_not_taken_for_a_loss() {
    with_two(quick(), |orders, mails| async move {
        let bus = Arc::new(TestBus::default());
        let running = Running::start_with(&bus, vec![subscribed(&mails, &Faults::default())], feeds_of(&orders)).await;
        note(&orders, "order/1", "a").await;
        note(&orders, "order/1", "as an earlier version writes it").await;
        execute(
            &orders,
            "update subject set last_event_version = 1, last_event_id = (select id from outbox where version = 1)",
        )
        .await;
        note(&orders, "order/1", "b").await;
        eventually("handled", SOON, || async { lane(&mails, "order/1").await == 3 }).await;
        // The subscriber too: its lane moved on, and the id stayed.
        execute(&mails, "update lane set event_version = 2").await;
        note(&orders, "order/1", "c").await;
        eventually("handled", SOON, || async { lane(&mails, "order/1").await == 4 }).await;
        assert!(retries(&mails).await.is_empty());
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_older_subscriber_pages_by_name() {
    with_two(quick(), |orders, _| async move {
        let feed = Machinery::new(orders.clone()).feed();
        for subject in ["order/b", "order/c", "order/a"] {
            note(&orders, subject, "a").await;
        }
        let page = async |after: &str| {
            let request = ListSubjects {
                module: "orders".to_owned(),
                after_subject: after.to_owned(),
                limit: 2,
                ..ListSubjects::default()
            };
            let page = feed.list_subjects(&Call::default(), request).await.unwrap();
            assert_eq!(page.now_ms, 0);
            page.items.into_iter().map(|item| item.subject).collect::<Vec<_>>()
        };
        assert_eq!(page("").await, ["order/a", "order/b"]);
        assert_eq!(page("order/b").await, ["order/c"]);
    })
    .await;
}
