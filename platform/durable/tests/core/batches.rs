//! Many events in one transaction: as one by one, and with two statements. Events of many transactions: published in rounds.

use std::{sync::Arc, time::Duration};

use banyan_core::{Call, Fault};
use banyan_durable::{
    Db, Machinery,
    outbox::{self, NewEvent},
};
use banyan_durable_testing::{PostgresHome, StatementLog, eventually, on_both_with, open, settings};

use crate::{
    events::PENDING,
    harness::{Noted, Running, SOON, TestBus, count, note, outbox_of, quick},
};

/// Appends one event to each of these subjects, in one transaction.
async fn append_all(db: &Db, subjects: &[&str]) -> Result<Vec<i64>, Fault> {
    let subjects: Vec<String> = subjects.iter().map(|subject| (*subject).to_owned()).collect();
    let appended = db.write(subjects, |tx, subjects| async move {
        let call = Call::by_module("orders");
        let events = subjects.iter().enumerate().map(|(number, subject)| {
            let text = format!("{subject} {number}");
            NewEvent::new(&call, subject, &Noted { text })
        });
        let events = events.collect::<Result<Vec<_>, _>>()?;
        outbox::append_all(&tx, events).await
    });
    appended.await
}

#[tokio::test]
async fn many_events_get_the_versions_that_they_would_get_one_by_one() {
    // Other tests run beside it, and it is not about time.
    let mut settings = quick();
    settings.limits.job_timeout *= 10;
    on_both_with("durable", settings, |db| async move {
        assert_eq!(append_all(&db, &[]).await, Ok(Vec::new()));
        assert_eq!(append_all(&db, &["b", "a", "b"]).await, Ok(vec![1, 1, 2]));
        assert_eq!(append_all(&db, &["a", "a", "c", "b"]).await, Ok(vec![2, 3, 1, 3]));
        let stored = outbox_of(&db).await;
        let mut stored: Vec<_> = stored
            .iter()
            .map(|event| (event.subject.as_str(), event.version))
            .collect();
        stored.sort_unstable();
        assert_eq!(
            stored,
            [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("b", 3), ("c", 1)]
        );
        let subjects: Vec<String> = (0..1_200).map(|number| format!("many/{number}")).collect();
        let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
        assert_eq!(append_all(&db, &subjects).await, Ok(vec![1; 1_200]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_that_write_to_the_same_subjects_do_not_deadlock() {
    on_both_with("durable", quick(), |db| async move {
        let subjects: Vec<String> = (0..50).map(|number| format!("order/{number:02}")).collect();
        let writers = (0..12).map(|number| {
            let (db, mut subjects) = (db.clone(), subjects.clone());
            subjects.rotate_left(number * 4);
            tokio::spawn(async move {
                let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
                for _ in 0..5 {
                    append_all(&db, &subjects).await.expect("the events are stored");
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("the writer is done");
        }
    })
    .await;
}

#[tokio::test]
async fn many_events_are_stored_by_two_statements() {
    let home = PostgresHome::new().await;
    let (log, storage) = StatementLog::before(&home.storage("durable").await, Duration::ZERO).await;
    let db = open("durable", &storage, settings()).await;
    for count in [1, 2, 100] {
        let subjects: Vec<String> = (0..count).map(|number| format!("order/{number}")).collect();
        let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
        log.take();
        append_all(&db, &subjects).await.expect("the events are stored");
        assert_eq!(log.take().len(), 2, "{count} events");
    }
    db.close().await;
    home.remove().await;
}

/// The first event is published at once. Those that follow within a pace share the next round, and what is confirmed is stored together.
#[tokio::test]
async fn events_that_follow_each_other_are_published_in_rounds() {
    let home = PostgresHome::new().await;
    let (log, storage) = StatementLog::before(&home.storage("durable").await, Duration::ZERO).await;
    let mut slow = quick();
    slow.limits.idle_poll = Duration::from_secs(60);
    slow.limits.pace = Duration::from_millis(500);
    let db = open("durable", &storage, slow).await;
    let bus = Arc::new(TestBus::default());
    let running = Running::start(&bus, vec![Machinery::new(db.clone())]).await;
    note(&db, "order/first", "at once").await;
    eventually("the first is published", SOON, || async { bus.published().len() == 1 }).await;
    log.take();
    for number in 0..10 {
        note(&db, &format!("order/{number}"), "later").await;
    }
    eventually("all are published", SOON, || async { bus.published().len() == 11 }).await;
    eventually("all are stored as sent", SOON, || async {
        count(&db, PENDING).await == 0
    })
    .await;
    let statements = log.take();
    let with = |text: &str| statements.iter().filter(|statement| statement.contains(text)).count();
    let (looks, stored) = (with("with recursive head"), with("update outbox set state = 'sent'"));
    assert!((1..=3).contains(&looks), "{looks} looks in {statements:#?}");
    assert!((1..=2).contains(&stored), "stored {stored} times in {statements:#?}");
    running.stop().await;
    db.close().await;
    home.remove().await;
}
