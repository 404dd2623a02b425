//! What comes too early, too late or not at all: it is fetched from its producer.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use banyan_core::{Call, Fault};
use banyan_durable::{Db, Feeds, Machinery, Settings};
use banyan_durable_testing::eventually;
use banyan_event_feed_contract::{ConfirmHandled, Confirmed, EventFeed, Events, ListEvents, ListSubjects, Subjects};

use crate::harness::{
    Faults, Running, SOON, TestBus, count, execute, handled, lane, note, outbox_of, quick, retries, subscribed,
    subscriber, with_two,
};

/// Seldom enough that no comparison but the first happens in a test.
fn no_comparison() -> Settings {
    Settings {
        feed_compare_ms: 600_000,
        ..quick()
    }
}

#[tokio::test]
async fn an_early_event_waits_and_the_missing_ones_are_fetched() {
    with_two(no_comparison(), |orders, mails| async move {
        let machinery = subscribed(&mails, &Faults::default());
        let bus = Arc::new(TestBus::default());
        // The feed's first comparison finds nothing, because nothing has happened yet.
        let feeds: Feeds = [("orders".to_owned(), Machinery::new(orders.clone()).feed())].into();
        let running = Running::start_with(&bus, vec![machinery], feeds).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        for text in ["a", "b", "c", "d"] {
            note(&orders, "order/1", text).await;
        }
        let events = outbox_of(&orders).await;
        bus.subscriber().deliver(events[3].clone()).await.unwrap();
        bus.subscriber().deliver(events[2].clone()).await.unwrap();
        eventually("all are handled", SOON, || async { lane(&mails, "order/1").await == 4 }).await;
        assert_eq!(handled(&mails, "order/1").await, ["a", "b", "c", "d"]);
        eventually("nothing is kept", SOON, || async { retries(&mails).await.is_empty() }).await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_early_event_is_stored_before_it_is_confirmed() {
    with_two(quick(), |orders, mails| async move {
        let subscriber = subscriber(&mails, &Faults::default()).await;
        note(&orders, "order/1", "a").await;
        note(&orders, "order/1", "b").await;
        subscriber.deliver(outbox_of(&orders).await[1].clone()).await.unwrap();
        assert_eq!(retries(&mails).await, ["order/1:2 waiting"]);
        assert_eq!(
            (lane(&mails, "order/1").await, handled(&mails, "order/1").await.len()),
            (0, 0)
        );
    })
    .await;
}

#[tokio::test]
async fn events_lost_by_the_broker_are_found_by_comparing_with_the_producer() {
    with_two(quick(), |orders, mails| async move {
        let bus = Arc::new(TestBus::default());
        bus.losing.store(true, Ordering::SeqCst);
        let running = Running::start(
            &bus,
            vec![Machinery::new(orders.clone()), subscribed(&mails, &Faults::default())],
        )
        .await;
        for text in ["a", "b", "c"] {
            for subject in 1..=3 {
                note(&orders, &format!("order/{subject}"), text).await;
            }
        }
        note(&orders, "cart/1", "not for us").await;
        eventually("confirmed, and lost", SOON, || async {
            count(&orders, "select count(*) from outbox where state = 'sent'").await == 10
        })
        .await;
        eventually("all are handled", SOON, || async {
            count(&mails, "select count(*) from handled").await == 9
        })
        .await;
        for subject in 1..=3 {
            assert_eq!(handled(&mails, &format!("order/{subject}")).await, ["a", "b", "c"]);
        }
        assert_eq!(
            count(&mails, "select count(*) from lane").await,
            3,
            "only subscribed topics"
        );
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_comparison_runs_at_start_and_when_the_transport_reports_a_loss() {
    with_two(no_comparison(), |orders, mails| async move {
        note(&orders, "order/1", "before the start").await;
        let bus = Arc::new(TestBus::default());
        let feeds: Feeds = [("orders".to_owned(), Machinery::new(orders.clone()).feed())].into();
        let running = Running::start_with(&bus, vec![subscribed(&mails, &Faults::default())], feeds).await;
        eventually("it is received", SOON, || async { lane(&mails, "order/1").await == 1 }).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        note(&orders, "order/1", "lost").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(lane(&mails, "order/1").await, 1, "no loss was reported");
        bus.subscriber().catch_up();
        eventually("it is handled too", SOON, || async {
            lane(&mails, "order/1").await == 2
        })
        .await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_restarted_subscriber_goes_on_where_it_was_and_finds_what_the_bus_lost_meanwhile() {
    with_two(no_comparison(), |orders, mails| async move {
        note(&orders, "order/1", "a").await;
        // Old enough to be complete.
        execute(&orders, "update subject set changed_at = changed_at - 120000").await;
        let (feed, feeds) = UnreliableFeed::feed_of(&orders, false);
        let bus = Arc::new(TestBus::default());
        let start =
            async || Running::start_with(&bus, vec![subscribed(&mails, &Faults::default())], feeds.clone()).await;
        let running = start().await;
        eventually("it is compared", SOON, || async {
            lane(&mails, "order/1").await == 1
                && count(&mails, "select coalesce(max(before_ms), 0) from compared").await > 0
        })
        .await;
        running.stop().await;
        let reached = count(&mails, "select before_ms from compared").await;
        note(&orders, "order/2", "lost").await;
        let running = start().await;
        eventually("it is handled", SOON, || async { lane(&mails, "order/2").await == 1 }).await;
        assert_eq!(
            *feed.since.lock().unwrap(),
            [0, reached],
            "what was handled is not read again"
        );
        running.stop().await;
    })
    .await;
}

/// A feed that can be unavailable and records the requests.
struct UnreliableFeed {
    feed: Arc<dyn EventFeed>,
    unavailable: std::sync::atomic::AtomicBool,
    since: Mutex<Vec<i64>>,
    requests: std::sync::atomic::AtomicUsize,
}

impl UnreliableFeed {
    /// The feed of orders, available or not, and the feeds of a subscriber that contain it.
    fn feed_of(orders: &Db, unavailable: bool) -> (Arc<UnreliableFeed>, Feeds) {
        let feed = Machinery::new(orders.clone()).feed();
        let feed = Arc::new(UnreliableFeed {
            feed,
            unavailable: unavailable.into(),
            since: Mutex::default(),
            requests: 0.into(),
        });
        (feed.clone(), [("orders".to_owned(), feed as Arc<dyn EventFeed>)].into())
    }
}

#[async_trait]
impl EventFeed for UnreliableFeed {
    async fn list_subjects(&self, call: &Call, request: ListSubjects) -> Result<Subjects, Fault> {
        self.since.lock().unwrap().push(request.since_ms);
        if self.unavailable.load(Ordering::SeqCst) {
            Err(Fault::unavailable("It is down."))
        } else {
            self.feed.list_subjects(call, request).await
        }
    }

    async fn confirm_handled(&self, call: &Call, request: ConfirmHandled) -> Result<Confirmed, Fault> {
        if self.unavailable.load(Ordering::SeqCst) {
            Err(Fault::unavailable("It is down."))
        } else {
            self.feed.confirm_handled(call, request).await
        }
    }

    async fn list_events(&self, call: &Call, request: ListEvents) -> Result<Events, Fault> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if self.unavailable.load(Ordering::SeqCst) {
            Err(Fault::unavailable("It is down."))
        } else {
            self.feed.list_events(call, request).await
        }
    }
}

#[tokio::test]
async fn while_the_producer_is_unavailable_an_early_event_waits_without_limit() {
    with_two(quick(), |orders, mails| async move {
        for text in ["a", "b"] {
            note(&orders, "order/1", text).await;
        }
        let (feed, feeds) = UnreliableFeed::feed_of(&orders, true);
        let bus = Arc::new(TestBus::default());
        let running = Running::start_with(&bus, vec![subscribed(&mails, &Faults::default())], feeds).await;
        bus.subscriber()
            .deliver(outbox_of(&orders).await[1].clone())
            .await
            .unwrap();
        eventually("it was requested often", SOON, || async {
            count(&mails, "select attempts from retry").await > 5
        })
        .await;
        assert_eq!(retries(&mails).await, ["order/1:2 waiting"]);
        feed.unavailable.store(false, Ordering::SeqCst);
        eventually("both are handled", SOON, || async {
            handled(&mails, "order/1").await == ["a", "b"]
        })
        .await;
        // Each comparison that was complete shortens the next: first the whole window, then only what may have changed since.
        eventually("the comparison looks back less far", SOON, || async {
            let since = feed.since.lock().unwrap();
            since.last().is_some_and(|last| last - since[0] > 3_600_000)
        })
        .await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn events_behind_a_dead_letter_are_left_alone() {
    with_two(quick(), |orders, mails| async move {
        let faults = Faults::default();
        faults.set("bug", Fault::internal("on_purpose", "a bug"));
        let (feed, feeds) = UnreliableFeed::feed_of(&orders, false);
        let bus = Arc::new(TestBus::default());
        let running = Running::start_with(&bus, vec![subscribed(&mails, &faults)], feeds).await;
        for text in ["bug", "behind", "far behind"] {
            note(&orders, "order/1", text).await;
        }
        for event in outbox_of(&orders).await {
            bus.subscriber().deliver(event).await.unwrap();
        }
        eventually("one is dead", SOON, || async {
            count(&mails, "select count(*) from retry where state = 'dead'").await == 1
        })
        .await;
        let requests = feed.requests.load(Ordering::SeqCst);
        let compared = feed.since.lock().unwrap().len();
        eventually("compared twice more", SOON, || async {
            feed.since.lock().unwrap().len() > compared + 2
        })
        .await;
        assert_eq!(
            feed.requests.load(Ordering::SeqCst),
            requests,
            "events that a dead letter holds back are not requested"
        );
        assert_eq!(
            count(
                &mails,
                "select cast(sum(attempts) as bigint) from retry where state = 'waiting'"
            )
            .await,
            0
        );
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_feed_serves_its_own_module_only() {
    with_two(quick(), |orders, _| async move {
        let feed = Machinery::new(orders.clone()).feed();
        let of_another = ListSubjects {
            module: "payments".to_owned(),
            ..ListSubjects::default()
        };
        assert!(
            feed.list_subjects(&Call::default(), of_another)
                .await
                .unwrap_err()
                .is_refusal()
        );
        for subject in 0..5 {
            note(&orders, &format!("order/{subject}"), "a").await;
        }
        note(&orders, "order/3", "b").await;
        let page = |after: &str| ListSubjects {
            module: "orders".to_owned(),
            since_ms: 0,
            after_subject: after.to_owned(),
            limit: 2,
            ..ListSubjects::default()
        };
        let first = feed.list_subjects(&Call::default(), page("")).await.unwrap().items;
        let rest = feed
            .list_subjects(&Call::default(), page(&first[1].subject))
            .await
            .unwrap()
            .items;
        let versions: Vec<_> = first
            .iter()
            .chain(&rest)
            .map(|item| (item.subject.as_str(), item.last_version))
            .collect();
        assert_eq!(
            versions,
            [("order/0", 1), ("order/1", 1), ("order/2", 1), ("order/3", 2)]
        );
        let recent = ListSubjects {
            module: "orders".to_owned(),
            since_ms: i64::MAX,
            ..ListSubjects::default()
        };
        assert!(
            feed.list_subjects(&Call::default(), recent)
                .await
                .unwrap()
                .items
                .is_empty()
        );
    })
    .await;
}
