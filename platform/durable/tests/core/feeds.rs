//! The comparison with a producer that has very many subjects: each is read once, in the order of the changes, and nothing is left out.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use banyan_core::{Call, Clock, Fault, Timestamp};
use banyan_durable::{Db, Feeds, Machinery};
use banyan_durable_testing::{ManualClock, PostgresHome, SqliteHome, eventually};
use banyan_event_feed_contract::{ConfirmHandled, Confirmed, EventFeed, Events, ListEvents, ListSubjects, Subjects};

use crate::harness::{
    Faults, Running, SOON, TestBus, count, execute, lane, note, open_as, quick, subscribed, with_two,
};

/// Ten thousand subjects that nobody subscribes to, changed one after the other, long ago.
async fn make_carts(orders: &Db) {
    execute(
        orders,
        "with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < 10000)
         insert into subject (subject, last_version, changed_at) select 'cart/' || n, 1, 1700000000000 + n / 3 from numbers",
    )
    .await;
}

/// The feed of orders, which counts what it returns and can fail.
struct CountingFeed {
    feed: Arc<dyn EventFeed>,
    /// Where each page began.
    pages: Mutex<Vec<i64>>,
    /// The number of times each subject was returned.
    returned: Mutex<BTreeMap<String, usize>>,
    /// The number of pages until it is unavailable.
    left: AtomicUsize,
}

impl CountingFeed {
    fn of(orders: &Db, pages: usize) -> (Arc<Self>, Feeds) {
        let feed = Arc::new(CountingFeed {
            feed: Machinery::new(orders.clone()).feed(),
            pages: Mutex::default(),
            returned: Mutex::default(),
            left: pages.into(),
        });
        (feed.clone(), [("orders".to_owned(), feed as Arc<dyn EventFeed>)].into())
    }
}

#[async_trait]
impl EventFeed for CountingFeed {
    async fn list_subjects(&self, call: &Call, request: ListSubjects) -> Result<Subjects, Fault> {
        if self.left.load(Ordering::SeqCst) == 0 {
            return Err(Fault::unavailable("It is down."));
        }
        self.left.fetch_sub(1, Ordering::SeqCst);
        self.pages.lock().unwrap().push(request.since_ms);
        let page = self.feed.list_subjects(call, request).await?;
        for item in &page.items {
            *self.returned.lock().unwrap().entry(item.subject.clone()).or_default() += 1;
        }
        Ok(page)
    }

    async fn list_events(&self, call: &Call, request: ListEvents) -> Result<Events, Fault> {
        self.feed.list_events(call, request).await
    }

    async fn confirm_handled(&self, call: &Call, request: ConfirmHandled) -> Result<Confirmed, Fault> {
        self.feed.confirm_handled(call, request).await
    }
}

#[tokio::test]
async fn a_comparison_that_was_interrupted_goes_on_where_it_was_and_reads_no_subject_twice() {
    with_two(quick(), |orders, mails| async move {
        make_carts(&orders).await;
        note(&orders, "order/1", "a").await;
        let bus = Arc::new(TestBus::default());
        let start = async |feeds| Running::start_with(&bus, vec![subscribed(&mails, &Faults::default())], feeds).await;

        let (feed, feeds) = CountingFeed::of(&orders, 4);
        let running = start(feeds).await;
        eventually("four pages were read", SOON, || async {
            feed.left.load(Ordering::SeqCst) == 0
        })
        .await;
        eventually("they are behind us", SOON, || async {
            count(&mails, "select coalesce(max(before_ms), 0) from compared").await > 1_700_000_001_000
        })
        .await;
        running.stop().await;

        // Another process goes on.
        let (rest, feeds) = CountingFeed::of(&orders, usize::MAX);
        let running = start(feeds).await;
        eventually("it is handled", SOON, || async { lane(&mails, "order/1").await == 1 }).await;
        eventually("it is confirmed", SOON, || async {
            count(
                &orders,
                "select coalesce(max(confirmed_before), 0) from subscriber where module = 'mails'",
            )
            .await
                > 1_700_000_010_000
        })
        .await;
        running.stop().await;
        let (first, rest) = (
            feed.returned.lock().unwrap().clone(),
            rest.returned.lock().unwrap().clone(),
        );
        let carts = |returned: &BTreeMap<String, usize>| {
            returned
                .iter()
                .filter(|(subject, _)| subject.starts_with("cart/"))
                .map(|(_, times)| times)
                .sum::<usize>()
        };
        assert_eq!(carts(&first), 4_000);
        // The three that changed at the same time as the last one of a page may come again.
        assert!((6_000..6_003).contains(&carts(&rest)), "{}", carts(&rest));
        let all: std::collections::BTreeSet<_> = first.keys().chain(rest.keys()).collect();
        assert_eq!(all.len(), 10_001, "none was left out");
    })
    .await;
}

#[tokio::test]
async fn subjects_that_change_while_they_are_paged_are_not_left_out() {
    with_two(quick(), |orders, _| async move {
        for number in 0..20 {
            note(&orders, &format!("order/{number:02}"), "a").await;
        }
        let feed = Machinery::new(orders.clone()).feed();
        let mut request = ListSubjects {
            module: "orders".to_owned(),
            limit: 3,
            by_change: true,
            ..ListSubjects::default()
        };
        let mut seen: BTreeMap<String, i64> = BTreeMap::new();
        for round in 0.. {
            let page = feed.list_subjects(&Call::default(), request.clone()).await.unwrap();
            let Some(last) = page.items.last() else { break };
            assert!(last.changed_ms <= page.now_ms);
            (request.since_ms, request.after_subject) = (last.changed_ms, last.subject.clone());
            for item in &page.items {
                seen.insert(item.subject.clone(), item.last_version);
            }
            // One that was read already, one that was not, and a new one.
            if round < 5 {
                for subject in ["order/00", "order/19", &format!("order/new-{round}")] {
                    note(&orders, subject, "b").await;
                }
            }
        }
        assert_eq!(seen.len(), 25);
        assert_eq!(
            (seen["order/00"], seen["order/19"], seen["order/10"]),
            (6, 6, 1),
            "each with its last version"
        );
    })
    .await;
}

/// The order of the changes is that of the commits, also while the clock is wrong.
async fn is_dated_after_what_was_committed(orders: &Db, clock: &ManualClock) {
    note(orders, "order/1", "a").await;
    clock.set(Timestamp::from_ms(1_000));
    for subject in ["order/2", "order/1", "order/3"] {
        note(orders, subject, "b").await;
    }
    let request = ListSubjects {
        module: "orders".to_owned(),
        since_ms: 5_000_000,
        after_subject: "order/1".to_owned(),
        by_change: true,
        ..ListSubjects::default()
    };
    let page = Machinery::new(orders.clone())
        .feed()
        .list_subjects(&Call::default(), request)
        .await
        .unwrap();
    let names: Vec<_> = page.items.iter().map(|item| item.subject.as_str()).collect();
    assert_eq!(names, ["order/2", "order/1", "order/3"]);
    assert!(page.now_ms >= page.items[2].changed_ms);
}

#[tokio::test]
async fn a_clock_that_steps_back_hides_no_change() {
    let home = SqliteHome::new();
    let clock = ManualClock::at(Timestamp::from_ms(5_000_000));
    let orders = open_as(
        "orders",
        &home.storage("orders"),
        quick(),
        clock.clone() as Arc<dyn Clock>,
    )
    .await;
    is_dated_after_what_was_committed(&orders, &clock).await;
    orders.close().await;

    let home = PostgresHome::new().await;
    let clock = ManualClock::at(Timestamp::from_ms(5_000_000));
    let orders = open_as(
        "orders",
        &home.storage("orders").await,
        quick(),
        clock.clone() as Arc<dyn Clock>,
    )
    .await;
    is_dated_after_what_was_committed(&orders, &clock).await;
    orders.close().await;
    home.remove().await;
}
