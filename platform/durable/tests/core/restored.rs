//! A producer whose database was restored from a backup that is older than what is compared as a rule: everything it lost is found, once.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use banyan_core::{Actor, Call, Fault, PageRequest};
use banyan_durable::{Db, DeadLetter, Feeds, Machinery, Ops};
use banyan_durable_testing::eventually;
use banyan_event_feed_contract::{ConfirmHandled, Confirmed, EventFeed, Events, ListEvents, ListSubjects, Subjects};

use crate::harness::{
    Faults, Running, SOON, TestBus, count, execute, handled, lane, note, quick, retries, subscribed, with_two,
};

const BACKED_UP: [&str; 3] = ["subject", "outbox", "subscriber"];

/// The events so far are of yesterday.
async fn a_day_passes(orders: &Db) {
    execute(orders, "update subject set changed_at = changed_at - 86400000").await;
}

/// Keeps the tables of orders as they are now, under a name.
async fn back_up(orders: &Db, name: &str) {
    for table in BACKED_UP {
        execute(orders, format!("create table {table}_{name} as select * from {table}")).await;
    }
}

async fn restore(orders: &Db, name: &str) {
    for table in BACKED_UP {
        execute(orders, format!("delete from {table}")).await;
        execute(orders, format!("insert into {table} select * from {table}_{name}")).await;
    }
}

/// The feed of orders, which records what is asked for by name.
struct Feed {
    feed: Arc<dyn EventFeed>,
    named: Mutex<Vec<Vec<String>>>,
    /// Of an earlier version, which neither notices that it went back nor knows subjects by name.
    earlier: AtomicBool,
    /// Every request by name but the first fails.
    interrupted: AtomicBool,
}

impl Feed {
    fn of(orders: &Db) -> Arc<Self> {
        Arc::new(Feed {
            feed: Machinery::new(orders.clone()).feed(),
            named: Mutex::default(),
            earlier: false.into(),
            interrupted: false.into(),
        })
    }

    fn named(&self) -> Vec<Vec<String>> {
        self.named.lock().unwrap().clone()
    }
}

#[async_trait]
impl EventFeed for Feed {
    async fn list_subjects(&self, call: &Call, mut request: ListSubjects) -> Result<Subjects, Fault> {
        if self.earlier.load(Ordering::SeqCst) {
            request.subjects.clear();
        }
        if !request.subjects.is_empty() {
            let mut named = self.named.lock().unwrap();
            if self.interrupted.load(Ordering::SeqCst) && !named.is_empty() {
                return Err(Fault::unavailable("It is down."));
            }
            named.push(request.subjects.clone());
        }
        self.feed.list_subjects(call, request).await
    }

    async fn list_events(&self, call: &Call, request: ListEvents) -> Result<Events, Fault> {
        self.feed.list_events(call, request).await
    }

    async fn confirm_handled(&self, call: &Call, mut request: ConfirmHandled) -> Result<Confirmed, Fault> {
        if self.earlier.load(Ordering::SeqCst) {
            request
                .handled
                .iter_mut()
                .for_each(|handled| handled.acknowledged_ms = 0);
        }
        self.feed.confirm_handled(call, request).await
    }
}

/// Mails, running.
struct Mails {
    running: Running,
    ops: Ops,
}

impl Mails {
    async fn start(mails: &Db, feed: &Arc<Feed>) -> Self {
        let machinery = subscribed(mails, &Faults::default());
        let ops = machinery.ops();
        let feeds: Feeds = [("orders".to_owned(), feed.clone() as Arc<dyn EventFeed>)].into();
        let running = Running::start_with(&Arc::new(TestBus::default()), vec![machinery], feeds).await;
        Mails { running, ops }
    }

    async fn letters(&self) -> Vec<DeadLetter> {
        let letters = self.ops.list_dead_letters(Some("dead"), &PageRequest::default()).await;
        let mut letters = letters.unwrap().items;
        letters.sort_by_key(|letter| letter.subject.clone());
        letters
    }

    async fn discard(&self, letter: &DeadLetter) {
        self.ops
            .discard_dead_letter(&Actor::default(), letter.id, "settled", None)
            .await
            .unwrap();
    }
}

/// Until mails has confirmed to orders what it handled, and knows that orders stored it.
async fn confirmed_anew(mails: &Db) {
    let acknowledged = || count(mails, "select coalesce(min(acknowledged_ms), 0) from compared");
    let before = acknowledged().await;
    eventually("confirmed", SOON, || async { acknowledged().await > before }).await;
}

/// Mails handled what orders published, confirmed it, and stopped.
async fn handle_all(mails: &Db, feed: &Arc<Feed>) {
    let mailing = Mails::start(mails, feed).await;
    confirmed_anew(mails).await;
    mailing.running.stop().await;
}

async fn compared(mails: &Db) {
    eventually("every lane is compared", SOON, || async {
        count(mails, "select count(*) from restored").await == 0
    })
    .await;
}

#[tokio::test]
async fn a_producer_restored_from_an_old_backup_is_noticed_and_all_that_it_lost_is_named() {
    with_two(quick(), |orders, mails| async move {
        let feed = Feed::of(&orders);
        for subject in ["order/1", "order/2"] {
            note(&orders, subject, "a").await;
        }
        a_day_passes(&orders).await;
        handle_all(&mails, &feed).await;
        back_up(&orders, "yesterday").await;
        note(&orders, "order/1", "lost").await;
        note(&orders, "order/3", "began after the backup").await;
        handle_all(&mails, &feed).await;
        assert_eq!((lane(&mails, "order/1").await, lane(&mails, "order/3").await), (2, 1));
        assert!(feed.named().is_empty(), "a comparison as a rule reads no lane by name");

        restore(&orders, "yesterday").await;
        note(&orders, "order/4", "new").await;
        let mailing = Mails::start(&mails, &feed).await;
        eventually("both that lost something are told", SOON, || async {
            mailing.letters().await.len() == 2
        })
        .await;
        eventually("what is new is handled", SOON, || async {
            lane(&mails, "order/4").await == 1
        })
        .await;
        compared(&mails).await;
        let letters = mailing.letters().await;
        for (letter, subject, why) in [
            (&letters[0], "order/1", "continues from version 1, event"),
            (&letters[1], "order/3", "the source has no version of this subject"),
        ] {
            assert_eq!((letter.kind.as_str(), letter.subject.as_str()), ("went_back", subject));
            let text = letter.last_error.clone().unwrap();
            assert!(text.contains(why) && text.contains("discard"), "{text}");
        }
        assert_eq!(handled(&mails, "order/2").await, ["a"], "nothing was lost of it");

        // The operator settled what was lost; both subjects go on.
        for letter in &letters {
            mailing.discard(letter).await;
        }
        note(&orders, "order/1", "b").await;
        note(&orders, "order/3", "begins anew").await;
        eventually("they go on", SOON, || async {
            handled(&mails, "order/1").await == ["a", "lost", "b"]
                && handled(&mails, "order/3").await == ["began after the backup", "begins anew"]
        })
        .await;
        eventually("nothing waits", SOON, || async {
            retries(&mails).await == ["order/1:3 discarded", "order/3:2 discarded"]
        })
        .await;
        mailing.running.stop().await;

        // It was one restore, so it is compared once.
        let asked = feed.named().len();
        handle_all(&mails, &feed).await;
        assert_eq!(feed.named().len(), asked);
    })
    .await;
}

#[tokio::test]
async fn a_producer_that_is_restored_while_its_subscriber_runs_is_noticed() {
    with_two(quick(), |orders, mails| async move {
        let feed = Feed::of(&orders);
        note(&orders, "order/1", "a").await;
        a_day_passes(&orders).await;
        let mailing = Mails::start(&mails, &feed).await;
        confirmed_anew(&mails).await;
        back_up(&orders, "yesterday").await;
        note(&orders, "order/2", "lost").await;
        eventually("handled", SOON, || async { lane(&mails, "order/2").await == 1 }).await;
        confirmed_anew(&mails).await;
        back_up(&orders, "today").await;
        restore(&orders, "yesterday").await;
        // What is confirmed moves on with the next change.
        note(&orders, "order/1", "b").await;
        eventually("told", SOON, || async { mailing.letters().await.len() == 1 }).await;
        assert_eq!(mailing.letters().await[0].subject, "order/2");
        compared(&mails).await;

        // The lost data is brought back.
        restore(&orders, "today").await;
        let letter = mailing.letters().await.remove(0);
        mailing
            .ops
            .replay_dead_letter(&Actor::default(), letter.id, "it is back", None)
            .await
            .unwrap();
        eventually("nothing waits", SOON, || async { retries(&mails).await.is_empty() }).await;
        note(&orders, "order/2", "b").await;
        eventually("it goes on", SOON, || async {
            handled(&mails, "order/2").await == ["lost", "b"]
        })
        .await;
        mailing.running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_comparison_with_a_restored_producer_reads_pages_and_goes_on_where_it_was_interrupted() {
    with_two(quick(), |orders, mails| async move {
        let feed = Feed::of(&orders);
        note(&orders, "order/1", "a").await;
        handle_all(&mails, &feed).await;
        for (db, insert) in [
            (
                &mails,
                "insert into lane (source, subject, last_version) select 'orders', 'order/more-' || n, 1 from numbers",
            ),
            (
                &orders,
                "insert into subject (subject, last_version, changed_at) select 'order/more-' || n, 1, 1 from numbers",
            ),
        ] {
            let numbers =
                "with recursive numbers (n) as (select 1000 union all select n + 1 from numbers where n < 1449)";
            execute(db, format!("{numbers} {insert}")).await;
        }
        execute(&orders, "update subscriber set confirmed_before = 1000").await;
        feed.interrupted.store(true, Ordering::SeqCst);
        let mailing = Mails::start(&mails, &feed).await;
        eventually("the first page is compared", SOON, || async {
            !feed.named().is_empty()
        })
        .await;
        confirmed_anew(&mails).await;
        mailing.running.stop().await;
        feed.interrupted.store(false, Ordering::SeqCst);
        let mailing = Mails::start(&mails, &feed).await;
        compared(&mails).await;
        let asked = feed.named();
        assert!(
            asked.iter().all(|page| page.len() <= 200),
            "{:?}",
            asked.iter().map(Vec::len).collect::<Vec<_>>()
        );
        let mut all: Vec<String> = asked.concat();
        let together = all.len();
        all.sort();
        all.dedup();
        assert_eq!((all.len(), together), (451, 451), "each lane is compared once");
        assert!(mailing.letters().await.is_empty());
        mailing.running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_producer_that_never_stored_a_confirmation_was_not_restored() {
    with_two(quick(), |orders, mails| async move {
        let feed = Feed::of(&orders);
        // A lane that the producer does not know would be told if this looked like a restore.
        execute(
            &mails,
            "insert into lane (source, subject, last_version) values ('orders', 'order/unknown', 3)",
        )
        .await;
        let untold = async |when: &str| {
            handle_all(&mails, &feed).await;
            assert!(feed.named().is_empty() && retries(&mails).await.is_empty(), "{when}");
        };
        note(&orders, "order/1", "a").await;
        untold("a new subscriber").await;
        // Both upgraded from versions that kept no acknowledgement.
        execute(&orders, "delete from subscriber").await;
        execute(&mails, "update compared set acknowledged_ms = null").await;
        untold("an upgrade").await;
        let ops = Machinery::new(orders.clone()).ops();
        ops.give_up_subscriber(&Actor::default(), "mails", "switched off", None)
            .await
            .unwrap();
        untold("given up, and back").await;
        // The subscriber itself was restored, and knows less than the producer.
        execute(&mails, "update compared set before_ms = 1000, acknowledged_ms = 1000").await;
        untold("the subscriber was restored").await;
        feed.earlier.store(true, Ordering::SeqCst);
        untold("a producer of an earlier version").await;
        feed.earlier.store(false, Ordering::SeqCst);
        untold("the producer was upgraded").await;
    })
    .await;
}

/// What a producer of an earlier version promised to a subscriber stays as it was: it notices nothing, and nothing breaks.
#[tokio::test]
async fn a_restored_producer_of_an_earlier_version_is_not_noticed_but_served() {
    with_two(quick(), |orders, mails| async move {
        let feed = Feed::of(&orders);
        note(&orders, "order/1", "a").await;
        a_day_passes(&orders).await;
        handle_all(&mails, &feed).await;
        back_up(&orders, "yesterday").await;
        note(&orders, "order/2", "lost").await;
        handle_all(&mails, &feed).await;
        feed.earlier.store(true, Ordering::SeqCst);
        restore(&orders, "yesterday").await;
        note(&orders, "order/3", "new").await;
        let mailing = Mails::start(&mails, &feed).await;
        eventually("what is new is handled", SOON, || async {
            lane(&mails, "order/3").await == 1
        })
        .await;
        confirmed_anew(&mails).await;
        assert!(retries(&mails).await.is_empty());
        mailing.running.stop().await;
    })
    .await;
}
