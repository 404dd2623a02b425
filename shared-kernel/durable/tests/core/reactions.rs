//! Reactions: every event once, in order per subject, whatever the carrier does.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use durable::{Db, Feeds, Machinery, Reactions, Settings, outbox};
use durable_testing::{ManualClock, SqliteHome, eventually};
use event_feed_contract::{EventFeed, Events, ListEvents, ListSubjects, Subjects};
use sea_orm::{ConnectionTrait, Statement, Value};
use shared_kernel::{Call, Clock, Envelope, Fault, Listener, SystemClock, Timestamp};

use crate::house::{
    Faults, Ignored, Noted, Running, SOON, TestBus, append, count, execute, heard, listening, note, open_as, prepare, quick, texts,
    with_two, write_down,
};

async fn lane(db: &Db, subject: &str) -> i64 {
    let sql = format!("select coalesce(max(last_version), 0) from lane where source = 'orders' and subject = '{subject}'");
    count(db, &sql).await
}

async fn retries(db: &Db) -> Vec<String> {
    texts(db, "select subject || ':' || version || ' ' || state from retry order by subject, version").await
}

/// The events in a module's outbox, as they would travel.
async fn outbox_of(db: &Db) -> Vec<Envelope> {
    let bodies = texts(db, "select body from outbox order by subject, version").await;
    bodies.iter().map(|body| Envelope::from_bytes(body.as_bytes()).unwrap()).collect()
}

/// A listener whose machinery does not run: what it does is done by `deliver` alone.
async fn listener(db: &Db, faults: &Faults) -> Arc<dyn Listener> {
    let bus = Arc::new(TestBus::default());
    let carrier: Arc<dyn shared_kernel::Bus> = bus.clone();
    listening(db, faults).connect(&carrier).await.unwrap();
    bus.listener()
}

/// Seldom enough that no comparison but the first happens in a test.
fn no_comparison() -> Settings {
    Settings { feed_compare_ms: 600_000, ..quick() }
}

#[tokio::test]
async fn what_happens_in_one_module_is_heard_once_and_in_order_in_the_other() {
    with_two(quick(), |orders, mails| async move {
        let bus = Arc::new(TestBus::default());
        let running = Running::start(&bus, vec![Machinery::new(orders.clone()), listening(&mails, &Faults::default())]).await;
        for text in ["a", "b", "c"] {
            for subject in 1..=5 {
                note(&orders, &format!("order/{subject}"), text).await;
            }
        }
        eventually("all is heard", SOON, || async { count(&mails, "select count(*) from heard").await == 15 }).await;
        for subject in 1..=5 {
            assert_eq!(heard(&mails, &format!("order/{subject}")).await, ["a", "b", "c"]);
        }
        running.stop().await;
        assert!(retries(&mails).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_duplicate_does_nothing() {
    with_two(quick(), |orders, mails| async move {
        let listener = listener(&mails, &Faults::default()).await;
        note(&orders, "order/1", "a").await;
        note(&orders, "order/1", "b").await;
        let events = outbox_of(&orders).await;
        for event in events.iter().chain(&events).chain(&events[..1]) {
            listener.deliver(event.clone()).await.unwrap();
        }
        let twins = events.iter().map(|event| listener.deliver(event.clone()));
        futures::future::join_all(twins).await.into_iter().collect::<Result<(), Fault>>().unwrap();
        assert_eq!(heard(&mails, "order/1").await, ["a", "b"]);
        assert_eq!((lane(&mails, "order/1").await, retries(&mails).await.len()), (2, 0));
    })
    .await;
}

#[tokio::test]
async fn the_same_event_delivered_many_times_at_once_takes_effect_once() {
    with_two(Settings { pool: 8, ..quick() }, |orders, mails| async move {
        let listener = listener(&mails, &Faults::default()).await;
        // The first event of a subject makes its lane, the second moves it.
        note(&orders, "order/1", "a").await;
        note(&orders, "order/1", "b").await;
        for event in outbox_of(&orders).await {
            let many = (0..8).map(|_| listener.deliver(event.clone()));
            futures::future::join_all(many).await.into_iter().collect::<Result<(), Fault>>().unwrap();
        }
        assert_eq!(heard(&mails, "order/1").await, ["a", "b"]);
    })
    .await;
}

#[tokio::test]
async fn an_event_of_no_interest_moves_the_lane_and_one_of_another_aggregate_leaves_no_trace() {
    with_two(quick(), |orders, mails| async move {
        let listener = listener(&mails, &Faults::default()).await;
        append(&orders, "order/1", Ignored {}).await;
        note(&orders, "order/1", "b").await;
        note(&orders, "cart/1", "c").await;
        for event in outbox_of(&orders).await {
            listener.deliver(event).await.unwrap();
        }
        assert_eq!((lane(&mails, "order/1").await, heard(&mails, "order/1").await), (2, vec!["b".to_owned()]));
        assert_eq!(count(&mails, "select count(*) from lane").await, 1);
    })
    .await;
}

#[tokio::test]
async fn what_comes_too_early_waits_and_what_is_missing_is_fetched() {
    with_two(no_comparison(), |orders, mails| async move {
        let machinery = listening(&mails, &Faults::default());
        let bus = Arc::new(TestBus::default());
        // The feed's first comparison finds nothing, because nothing has happened yet.
        let feeds: Feeds = [("orders".to_owned(), Machinery::new(orders.clone()).feed())].into();
        let running = Running::start_with(&bus, vec![machinery], feeds).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        for text in ["a", "b", "c", "d"] {
            note(&orders, "order/1", text).await;
        }
        let events = outbox_of(&orders).await;
        bus.listener().deliver(events[3].clone()).await.unwrap();
        bus.listener().deliver(events[2].clone()).await.unwrap();
        eventually("all is heard", SOON, || async { lane(&mails, "order/1").await == 4 }).await;
        assert_eq!(heard(&mails, "order/1").await, ["a", "b", "c", "d"]);
        eventually("nothing is kept", SOON, || async { retries(&mails).await.is_empty() }).await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_comes_too_early_is_stored_before_it_is_confirmed() {
    with_two(quick(), |orders, mails| async move {
        let listener = listener(&mails, &Faults::default()).await;
        note(&orders, "order/1", "a").await;
        note(&orders, "order/1", "b").await;
        listener.deliver(outbox_of(&orders).await[1].clone()).await.unwrap();
        assert_eq!(retries(&mails).await, ["order/1:2 waiting"]);
        assert_eq!((lane(&mails, "order/1").await, heard(&mails, "order/1").await.len()), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn what_the_producer_has_forgotten_is_passed_over() {
    with_two(no_comparison(), |orders, mails| async move {
        for text in ["a", "b", "c", "d"] {
            note(&orders, "order/1", text).await;
        }
        let last = outbox_of(&orders).await.remove(3);
        execute(&orders, "delete from outbox where version <= 2").await;
        let bus = Arc::new(TestBus::default());
        let feeds: Feeds = [("orders".to_owned(), Machinery::new(orders.clone()).feed())].into();
        let running = Running::start_with(&bus, vec![listening(&mails, &Faults::default())], feeds).await;
        eventually("it starts with the oldest kept", SOON, || async { heard(&mails, "order/1").await == ["c", "d"] }).await;
        // And one that comes with nothing at all kept before it.
        for text in ["a", "b"] {
            note(&orders, "order/2", text).await;
        }
        let mut second = outbox_of(&orders).await.pop().unwrap();
        assert_eq!((second.subject.as_str(), second.version), ("order/2", 2));
        execute(&orders, "delete from outbox").await;
        bus.listener().deliver(second.clone()).await.unwrap();
        eventually("it is heard alone", SOON, || async { heard(&mails, "order/2").await == ["b"] }).await;
        second.version = 1;
        bus.listener().deliver(second).await.unwrap();
        bus.listener().deliver(last).await.unwrap();
        assert_eq!((heard(&mails, "order/1").await.len(), heard(&mails, "order/2").await.len()), (2, 1), "late ones are duplicates");
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_failing_reaction_is_rolled_back_kept_and_tried_again() {
    with_two(quick(), |orders, mails| async move {
        let faults = Faults::default();
        faults.set("a", Fault::conflict("as_told", "not now"));
        let idle = listener(&mails, &faults).await;
        note(&orders, "order/1", "a").await;
        note(&orders, "order/1", "b").await;
        for event in outbox_of(&orders).await {
            idle.deliver(event).await.unwrap();
        }
        assert_eq!(retries(&mails).await, ["order/1:1 retrying", "order/1:2 waiting"]);
        assert_eq!((lane(&mails, "order/1").await, heard(&mails, "order/1").await.len()), (0, 0), "nothing of it stays");
        faults.clear();
        let bus = Arc::new(TestBus::default());
        let running = Running::start(&bus, vec![listening(&mails, &faults)]).await;
        eventually("both are heard", SOON, || async { heard(&mails, "order/1").await == ["a", "b"] }).await;
        eventually("nothing is kept", SOON, || async { retries(&mails).await.is_empty() }).await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_redelivery_does_not_spend_the_tries_of_one_that_failed() {
    with_two(quick(), |orders, mails| async move {
        let faults = Faults::default();
        faults.set("a", Fault::conflict("as_told", "not now"));
        let idle = listener(&mails, &faults).await;
        note(&orders, "order/1", "a").await;
        let event = outbox_of(&orders).await.remove(0);
        for _ in 0..5 {
            idle.deliver(event.clone()).await.unwrap();
        }
        assert_eq!(count(&mails, "select attempts from retry").await, 1);
        assert_eq!(retries(&mails).await, ["order/1:1 retrying"]);
    })
    .await;
}

#[tokio::test]
async fn a_reaction_that_fails_again_is_put_off_for_longer_and_then_always_as_long() {
    let clock = ManualClock::at(Timestamp::from_ms(1_700_000_000_000));
    let settings = Settings { retry_ms: Settings::default().retry_ms, ..quick() };
    let home = SqliteHome::new();
    let orders = open_as("orders", &home.place("orders"), settings.clone(), clock.clone()).await;
    let mails = open_as("mails", &home.place("mails"), settings, clock.clone()).await;
    prepare(&mails).await;
    let faults = Faults::default();
    faults.set("away", Fault::unavailable("the catalog is away"));
    let bus = Arc::new(TestBus::default());
    // Without feeds: a comparison may fetch the event while it is being delivered, and then both tries count.
    let running = Running::start_with(&bus, vec![Machinery::new(orders.clone()), listening(&mails, &faults)], Feeds::new()).await;
    note(&orders, "order/1", "away").await;
    for (attempts, wait_ms) in [(1, 200), (2, 1_000), (3, 5_000), (4, 15_000), (5, 15_000)] {
        let tried = || async { count(&mails, "select coalesce(max(attempts), 0) from retry").await == attempts };
        eventually(&format!("try {attempts}"), SOON, tried).await;
        let next_attempt_at = count(&mails, "select next_attempt_at from retry").await;
        assert_eq!(next_attempt_at - clock.now().as_ms(), wait_ms, "after try {attempts}");
        clock.advance(Duration::from_millis(wait_ms as u64));
    }
    running.stop().await;
    orders.close().await;
    mails.close().await;
}

#[tokio::test]
async fn for_want_of_another_module_it_is_tried_without_limit() {
    with_two(quick(), |orders, mails| async move {
        let faults = Faults::default();
        faults.set("away", Fault::unavailable("the catalog is away"));
        faults.set("late", Fault::timeout("the catalog is slow"));
        let bus = Arc::new(TestBus::default());
        let running = Running::start(&bus, vec![Machinery::new(orders.clone()), listening(&mails, &faults)]).await;
        note(&orders, "order/1", "away").await;
        note(&orders, "order/2", "late").await;
        eventually("tried more often than failures are allowed", SOON, || async {
            count(&mails, "select count(*) from retry where attempts > 6 and failures = 0 and state = 'retrying'").await == 2
        })
        .await;
        faults.clear();
        eventually("both are heard", SOON, || async { count(&mails, "select count(*) from heard").await == 2 }).await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_dead_letter_holds_back_its_own_subject_and_no_other() {
    with_two(quick(), |orders, mails| async move {
        let faults = Faults::default();
        faults.set("bug", Fault::internal("as_told", "a bug"));
        faults.set("crash", Fault::internal("panic", "a bug"));
        faults.set("away", Fault::unavailable("the catalog is away"));
        let bus = Arc::new(TestBus::default());
        let running = Running::start(&bus, vec![Machinery::new(orders.clone()), listening(&mails, &faults)]).await;
        for (subject, text) in [("order/1", "bug"), ("order/1", "behind"), ("order/2", "fine"), ("order/3", "crash")] {
            note(&orders, subject, text).await;
        }
        note(&orders, "order/4", "fine").await;
        note(&orders, "order/4", "away").await;
        eventually("two are dead", SOON, || async { count(&mails, "select count(*) from retry where state = 'dead'").await == 2 }).await;
        note(&orders, "order/1", "far behind").await;
        note(&orders, "order/2", "fine too").await;
        eventually("the others go on", SOON, || async { heard(&mails, "order/2").await == ["fine", "fine too"] }).await;
        eventually("all is sent", SOON, || async { count(&orders, "select count(*) from outbox where state = 'pending'").await == 0 })
            .await;
        let kept = ["order/1:1 dead", "order/1:2 waiting", "order/1:3 waiting", "order/3:1 dead", "order/4:2 retrying"];
        assert_eq!(retries(&mails).await, kept);
        assert_eq!(count(&mails, "select failures from retry where subject = 'order/1' and version = 1").await, 3);
        // Comparing with the feed and redelivering must not wake the dead.
        let dead = outbox_of(&orders).await.remove(0);
        faults.clear();
        bus.listener().deliver(dead).await.unwrap();
        eventually("what failed elsewhere is tried again", SOON, || async { heard(&mails, "order/4").await == ["fine", "away"] }).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(heard(&mails, "order/1").await.len(), 0);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_read_is_a_dead_letter_at_once() {
    with_two(quick(), |orders, mails| async move {
        let listener = listener(&mails, &Faults::default()).await;
        append(&orders, "order/1", Misnamed { number: 7 }).await;
        note(&orders, "order/2", "zero").await;
        let events = outbox_of(&orders).await;
        listener.deliver(events[0].clone()).await.unwrap();
        let mut versionless = events[1].clone();
        versionless.version = 0;
        listener.deliver(versionless).await.unwrap();
        for frame in [&b"no json"[..], &b"\xff\x00"[..], &b"no json"[..]] {
            let why = Envelope::from_bytes(frame).unwrap_err();
            listener.reject(frame, &why).await.unwrap();
        }
        let dead = texts(&mails, "select substr(subject, 1, 6) || state from retry order by subject").await;
        assert_eq!(dead, ["frame/dead", "frame/dead", "frame/dead", "order/dead"], "the same frame once");
        listener.deliver(events[1].clone()).await.unwrap();
        assert_eq!(heard(&mails, "order/2").await, ["zero"], "an unreadable frame holds back nobody");
    })
    .await;
}

/// Says that it is a [`Noted`] and is none.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Misnamed {
    number: i64,
}

impl shared_kernel::Event for Misnamed {
    const TYPE: &'static str = <Noted as shared_kernel::Event>::TYPE;
}

#[tokio::test]
async fn what_a_broker_lost_is_found_by_comparing_with_the_producer() {
    with_two(quick(), |orders, mails| async move {
        let bus = Arc::new(TestBus::default());
        bus.losing.store(true, Ordering::SeqCst);
        let running = Running::start(&bus, vec![Machinery::new(orders.clone()), listening(&mails, &Faults::default())]).await;
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
        eventually("all is heard", SOON, || async { count(&mails, "select count(*) from heard").await == 9 }).await;
        for subject in 1..=3 {
            assert_eq!(heard(&mails, &format!("order/{subject}")).await, ["a", "b", "c"]);
        }
        assert_eq!(count(&mails, "select count(*) from lane").await, 3, "only what is listened to");
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_comparison_is_made_at_start_and_when_the_carrier_says_so() {
    with_two(no_comparison(), |orders, mails| async move {
        note(&orders, "order/1", "before the start").await;
        let bus = Arc::new(TestBus::default());
        let feeds: Feeds = [("orders".to_owned(), Machinery::new(orders.clone()).feed())].into();
        let running = Running::start_with(&bus, vec![listening(&mails, &Faults::default())], feeds).await;
        eventually("it is heard", SOON, || async { lane(&mails, "order/1").await == 1 }).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        note(&orders, "order/1", "lost").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(lane(&mails, "order/1").await, 1, "nobody has said anything");
        bus.listener().catch_up();
        eventually("it is heard too", SOON, || async { lane(&mails, "order/1").await == 2 }).await;
        running.stop().await;
    })
    .await;
}

/// What a module tells about a subject for the first time, so many days ago.
async fn note_days_ago(db: &Db, subject: &str, days: i64) {
    let (ms, subject) = (days * 86_400_000, subject.to_owned());
    let noted = db.write(move |tx| {
        let (subject, values): (_, [Value; 2]) = (subject.clone(), [ms.into(), subject.as_str().into()]);
        async move {
            outbox::append(&tx, &Call::by_module("orders"), &subject, &Noted { text: "a".to_owned() }).await?;
            let backend = tx.conn().get_database_backend();
            let earlier = "update subject set changed_at = changed_at - $1 where subject = $2";
            tx.conn().execute_raw(Statement::from_sql_and_values(backend, earlier, values)).await.map(drop).map_err(durable::fault)
        }
    });
    noted.await.unwrap();
}

#[tokio::test]
async fn what_was_lost_is_fetched_however_long_it_waited_as_long_as_it_is_kept() {
    with_two(Settings { feed_compare_ms: 50, ..quick() }, |orders, mails| async move {
        let feed =
            Arc::new(Away { feed: Machinery::new(orders.clone()).feed(), away: false.into(), since: Mutex::default(), asked: 0.into() });
        let feeds: Feeds = [("orders".to_owned(), feed.clone() as Arc<dyn EventFeed>)].into();
        note_days_ago(&orders, "order/1", 6).await;
        let bus = Arc::new(TestBus::default());
        let running = Running::start_with(&bus, vec![listening(&mails, &Faults::default())], feeds).await;
        eventually("what is six days old is heard", SOON, || async { lane(&mails, "order/1").await == 1 }).await;

        note_days_ago(&orders, "order/2", 6).await;
        let compared = feed.since.lock().unwrap().len();
        eventually("compared twice more", SOON, || async { feed.since.lock().unwrap().len() > compared + 2 }).await;
        assert_eq!(lane(&mails, "order/2").await, 0, "as long as nobody says so, nothing that old is looked for");
        bus.listener().catch_up();
        eventually("it is heard too", SOON, || async { lane(&mails, "order/2").await == 1 }).await;
        let furthest = feed.since.lock().unwrap().iter().copied().min().unwrap();
        let kept = i64::try_from(quick().outbox_keep_days).unwrap() * 86_400_000;
        assert!(furthest >= SystemClock.now().as_ms() - kept - 60_000, "nobody asks for what producers keep no more");
        running.stop().await;
    })
    .await;
}

/// Answers nothing until it is told; notes what it was asked for.
struct Away {
    feed: Arc<dyn EventFeed>,
    away: std::sync::atomic::AtomicBool,
    since: Mutex<Vec<i64>>,
    asked: std::sync::atomic::AtomicUsize,
}

#[async_trait]
impl EventFeed for Away {
    async fn list_subjects(&self, call: &Call, request: ListSubjects) -> Result<Subjects, Fault> {
        self.since.lock().unwrap().push(request.since_ms);
        if self.away.load(Ordering::SeqCst) { Err(Fault::unavailable("away")) } else { self.feed.list_subjects(call, request).await }
    }

    async fn list_events(&self, call: &Call, request: ListEvents) -> Result<Events, Fault> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) { Err(Fault::unavailable("away")) } else { self.feed.list_events(call, request).await }
    }
}

#[tokio::test]
async fn while_the_producer_is_away_what_came_too_early_waits_without_limit() {
    with_two(quick(), |orders, mails| async move {
        for text in ["a", "b"] {
            note(&orders, "order/1", text).await;
        }
        let feed =
            Arc::new(Away { feed: Machinery::new(orders.clone()).feed(), away: true.into(), since: Mutex::default(), asked: 0.into() });
        let feeds: Feeds = [("orders".to_owned(), feed.clone() as Arc<dyn EventFeed>)].into();
        let bus = Arc::new(TestBus::default());
        let running = Running::start_with(&bus, vec![listening(&mails, &Faults::default())], feeds).await;
        bus.listener().deliver(outbox_of(&orders).await[1].clone()).await.unwrap();
        eventually("it was asked for often", SOON, || async { count(&mails, "select attempts from retry").await > 5 }).await;
        assert_eq!(retries(&mails).await, ["order/1:2 waiting"]);
        feed.away.store(false, Ordering::SeqCst);
        eventually("both are heard", SOON, || async { heard(&mails, "order/1").await == ["a", "b"] }).await;
        // Each comparison that was complete shortens the next: first the whole window, then only what may have changed since.
        eventually("the comparison looks back less far", SOON, || async {
            let since = feed.since.lock().unwrap();
            since.last().unwrap() - since[0] > 3_600_000
        })
        .await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_waits_behind_a_dead_letter_is_left_alone() {
    with_two(quick(), |orders, mails| async move {
        let faults = Faults::default();
        faults.set("bug", Fault::internal("as_told", "a bug"));
        let feed =
            Arc::new(Away { feed: Machinery::new(orders.clone()).feed(), away: false.into(), since: Mutex::default(), asked: 0.into() });
        let feeds: Feeds = [("orders".to_owned(), feed.clone() as Arc<dyn EventFeed>)].into();
        let bus = Arc::new(TestBus::default());
        let running = Running::start_with(&bus, vec![listening(&mails, &faults)], feeds).await;
        for text in ["bug", "behind", "far behind"] {
            note(&orders, "order/1", text).await;
        }
        for event in outbox_of(&orders).await {
            bus.listener().deliver(event).await.unwrap();
        }
        eventually("one is dead", SOON, || async { count(&mails, "select count(*) from retry where state = 'dead'").await == 1 }).await;
        let asked = feed.asked.load(Ordering::SeqCst);
        let compared = feed.since.lock().unwrap().len();
        eventually("compared twice more", SOON, || async { feed.since.lock().unwrap().len() > compared + 2 }).await;
        assert_eq!(feed.asked.load(Ordering::SeqCst), asked, "nobody asks for what a dead letter holds back");
        assert_eq!(count(&mails, "select cast(sum(attempts) as bigint) from retry where state = 'waiting'").await, 0);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_feed_speaks_for_its_own_module_alone() {
    with_two(quick(), |orders, _| async move {
        let feed = Machinery::new(orders.clone()).feed();
        let asked = ListSubjects { module: "payments".to_owned(), ..ListSubjects::default() };
        assert!(feed.list_subjects(&Call::default(), asked).await.unwrap_err().is_refusal());
        for subject in 0..5 {
            note(&orders, &format!("order/{subject}"), "a").await;
        }
        note(&orders, "order/3", "b").await;
        let page = |after: &str| ListSubjects { module: "orders".to_owned(), since_ms: 0, after_subject: after.to_owned(), limit: 2 };
        let first = feed.list_subjects(&Call::default(), page("")).await.unwrap().items;
        let rest = feed.list_subjects(&Call::default(), page(&first[1].subject)).await.unwrap().items;
        let versions: Vec<_> = first.iter().chain(&rest).map(|item| (item.subject.as_str(), item.last_version)).collect();
        assert_eq!(versions, [("order/0", 1), ("order/1", 1), ("order/2", 1), ("order/3", 2)]);
        let recent = ListSubjects { module: "orders".to_owned(), since_ms: i64::MAX, ..ListSubjects::default() };
        assert!(feed.list_subjects(&Call::default(), recent).await.unwrap().items.is_empty());
    })
    .await;
}

#[tokio::test]
async fn two_reactions_to_one_event_are_one_transaction() {
    with_two(quick(), |orders, mails| async move {
        let reactions = Reactions::new(mails.clone())
            .on::<Noted, _, _>("orders.order", |tx, heard| async move { write_down(&tx, &heard).await })
            .on::<Noted, _, _>("orders.order", |_, _| async move { Err(Fault::conflict("as_told", "no")) });
        let bus = Arc::new(TestBus::default());
        let carrier: Arc<dyn shared_kernel::Bus> = bus.clone();
        Machinery::new(mails.clone()).reactions(reactions).connect(&carrier).await.unwrap();
        assert_eq!(bus.listener().topics(), ["orders.order"]);
        note(&orders, "order/1", "a").await;
        bus.listener().deliver(outbox_of(&orders).await.remove(0)).await.unwrap();
        assert_eq!(heard(&mails, "order/1").await.len(), 0);
    })
    .await;
}
