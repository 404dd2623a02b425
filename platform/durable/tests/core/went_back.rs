//! A producer whose database lost what it had committed (a failover to a late standby, a restored backup) gives versions out again. Subscribers see it, stop
//! the subject, and an operator decides.

use std::{sync::Arc, time::Duration};

use banyan_core::{Actor, Envelope, PageRequest, Subscriber};
use banyan_durable::{Db, DeadLetter, Feeds, Machinery, Ops};
use banyan_durable_testing::{SqliteHome, eventually};

use crate::harness::{
    Faults, Running, SOON, TestBus, execute, handled, lane, note, open_as, outbox_of, prepare, quick, retries,
    subscribed, with_two,
};

/// The tables of orders as they were at a time.
async fn back_up(orders: &Db) {
    execute(orders, "create table subject_then as select * from subject").await;
    execute(orders, "create table outbox_then as select * from outbox").await;
}

/// Loses every transaction since the backup.
async fn lose_what_was_committed(orders: &Db) {
    execute(orders, "delete from outbox").await;
    execute(orders, "insert into outbox select * from outbox_then").await;
    execute(orders, "delete from subject").await;
    execute(orders, "insert into subject select * from subject_then").await;
}

/// Mails, running; the bus delivers what a test gives it.
struct Mails {
    bus: Arc<TestBus>,
    running: Running,
    ops: Ops,
}

impl Mails {
    async fn start(mails: &Db, orders: &Db) -> Self {
        let bus = Arc::new(TestBus::default());
        let machinery = subscribed(mails, &Faults::default());
        let ops = machinery.ops();
        let feeds: Feeds = [("orders".to_owned(), Machinery::new(orders.clone()).feed())].into();
        let running = Running::start_with(&bus, vec![machinery], feeds).await;
        Mails { bus, running, ops }
    }

    fn subscriber(&self) -> Arc<dyn Subscriber> {
        self.bus.subscriber()
    }

    async fn deliver(&self, event: &Envelope) {
        self.subscriber().deliver(event.clone()).await.unwrap();
    }

    /// The dead letter that says that orders went back.
    async fn letter(&self) -> DeadLetter {
        let letters = async || {
            self.ops
                .list_dead_letters(Some("dead"), &PageRequest::default())
                .await
                .unwrap()
                .items
        };
        eventually("a dead letter", SOON, || async { letters().await.len() == 1 }).await;
        let letter = letters().await.remove(0);
        assert_eq!(letter.kind, "went_back");
        letter
    }
}

async fn note_all(orders: &Db, texts: &[&str]) {
    for text in texts {
        note(orders, "order/1", text).await;
    }
}

#[tokio::test]
async fn a_version_given_out_again_is_no_duplicate() {
    with_two(quick(), |orders, mails| async move {
        note_all(&orders, &["a"]).await;
        back_up(&orders).await;
        note_all(&orders, &["lost"]).await;
        let mailing = Mails::start(&mails, &orders).await;
        eventually("both are handled", SOON, || async {
            lane(&mails, "order/1").await == 2
        })
        .await;

        lose_what_was_committed(&orders).await;
        note_all(&orders, &["b", "c"]).await;
        let events = outbox_of(&orders).await;
        mailing.deliver(&events[1]).await;
        let letter = mailing.letter().await;
        mailing.deliver(&events[2]).await;
        assert_eq!(
            handled(&mails, "order/1").await,
            ["a", "lost"],
            "the subject is held back"
        );

        // The operator settled by hand what was lost.
        mailing
            .ops
            .discard_dead_letter(&Actor::default(), letter.id, "settled", None)
            .await
            .unwrap();
        eventually("what is new is handled", SOON, || async {
            handled(&mails, "order/1").await == ["a", "lost", "b", "c"]
        })
        .await;
        note_all(&orders, &["d"]).await;
        mailing.deliver(outbox_of(&orders).await.last().unwrap()).await;
        assert_eq!(handled(&mails, "order/1").await.len(), 5);
        eventually("nothing waits", SOON, || async {
            retries(&mails).await == ["order/1:3 discarded"]
        })
        .await;
        mailing.running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_new_history_is_recognised_by_the_event_it_continues() {
    with_two(quick(), |orders, mails| async move {
        note_all(&orders, &["a"]).await;
        back_up(&orders).await;
        note_all(&orders, &["lost"]).await;
        let events = outbox_of(&orders).await;
        let mailing = Mails::start(&mails, &orders).await;
        mailing.deliver(&events[0]).await;
        mailing.deliver(&events[1]).await;
        lose_what_was_committed(&orders).await;
        note_all(&orders, &["b", "c"]).await;
        // The bus loses the event that has the same version.
        mailing.deliver(&outbox_of(&orders).await[2]).await;
        mailing.letter().await;
        assert_eq!(handled(&mails, "order/1").await, ["a", "lost"]);
        mailing.running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_producer_that_is_behind_its_subscriber_is_found_by_comparing() {
    with_two(quick(), |orders, mails| async move {
        note_all(&orders, &["a"]).await;
        back_up(&orders).await;
        note_all(&orders, &["lost", "lost too"]).await;
        let events = outbox_of(&orders).await;
        let mailing = Mails::start(&mails, &orders).await;
        for event in &events {
            mailing.deliver(event).await;
        }
        lose_what_was_committed(&orders).await;
        note_all(&orders, &["b"]).await;
        let letter = mailing.letter().await;
        let why = letter.last_error.unwrap();
        assert!(
            why.starts_with("Version 3 was event") && why.contains("version 2"),
            "{why}"
        );
        mailing
            .ops
            .discard_dead_letter(&Actor::default(), letter.id, "settled", None)
            .await
            .unwrap();
        note_all(&orders, &["c"]).await;
        mailing.deliver(outbox_of(&orders).await.last().unwrap()).await;
        eventually("it goes on", SOON, || async {
            handled(&mails, "order/1").await.last() == Some(&"c".to_owned())
        })
        .await;
        mailing.running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_producer_that_is_repaired_is_followed_again_without_loss() {
    with_two(quick(), |orders, mails| async move {
        note_all(&orders, &["a"]).await;
        back_up(&orders).await;
        note_all(&orders, &["kept after all"]).await;
        let events = outbox_of(&orders).await;
        let mailing = Mails::start(&mails, &orders).await;
        for event in &events {
            mailing.deliver(event).await;
        }
        execute(&orders, "create table subject_whole as select * from subject").await;
        execute(&orders, "create table outbox_whole as select * from outbox").await;
        lose_what_was_committed(&orders).await;
        note_all(&orders, &["a mistake"]).await;
        let letter = mailing.letter().await;

        mailing
            .ops
            .replay_dead_letter(&Actor::default(), letter.id, "repaired?", None)
            .await
            .unwrap();
        assert_eq!(mailing.letter().await.id, letter.id, "it is not");
        execute(&orders, "delete from outbox").await;
        execute(&orders, "insert into outbox select * from outbox_whole").await;
        execute(&orders, "delete from subject").await;
        execute(&orders, "insert into subject select * from subject_whole").await;
        mailing
            .ops
            .replay_dead_letter(&Actor::default(), letter.id, "repaired", None)
            .await
            .unwrap();
        eventually("it goes on", SOON, || async { retries(&mails).await.is_empty() }).await;
        note_all(&orders, &["b"]).await;
        mailing.deliver(outbox_of(&orders).await.last().unwrap()).await;
        assert_eq!(handled(&mails, "order/1").await, ["a", "kept after all", "b"]);
        mailing.running.stop().await;
    })
    .await;
}

/// As an operator restores a backup: the files of the producer are those of yesterday.
#[tokio::test]
async fn a_restored_file_is_noticed() {
    let (home, clock) = (SqliteHome::new(), Arc::new(banyan_core::SystemClock));
    let open = async |module: &str| open_as(module, &home.storage(module), quick(), clock.clone()).await;
    let mails = open("mails").await;
    prepare(&mails).await;
    let orders = open("orders").await;
    note_all(&orders, &["a"]).await;
    orders.close().await;
    let (file, backup) = (home.path().join("orders.db"), home.path().join("backup.db"));
    std::fs::copy(&file, &backup).unwrap();

    let orders = open("orders").await;
    note_all(&orders, &["lost"]).await;
    let mailing = Mails::start(&mails, &orders).await;
    eventually("both are handled", SOON, || async {
        lane(&mails, "order/1").await == 2
    })
    .await;
    mailing.running.stop().await;
    orders.close().await;
    for rest in ["orders.db-wal", "orders.db-shm"] {
        std::fs::remove_file(home.path().join(rest)).ok();
    }
    std::fs::copy(&backup, &file).unwrap();

    let orders = open("orders").await;
    note_all(&orders, &["b"]).await;
    let mailing = Mails::start(&mails, &orders).await;
    mailing.letter().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(handled(&mails, "order/1").await, ["a", "lost"]);
    mailing.running.stop().await;
    orders.close().await;
    mails.close().await;
}
