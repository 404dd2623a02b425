//! The marks by which a database that was restored alone is noticed: no crash and no other instance may make one look restored that was not.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use banyan_core::{RandomIds, SystemClock, Timestamp};
use banyan_durable::{
    Db,
    marks::{self, Marks},
};
use banyan_durable_testing::{ManualClock, PostgresHome, on_both_with, settings};

use crate::harness::{count, open_as, quick, with_two};

async fn mark_of(db: &Db, name: &str) -> i64 {
    count(
        db,
        &format!("select coalesce(max(at_ms), 0) from mark where name = '{name}'"),
    )
    .await
}

/// Whether one remembers a mark that the other does not have. Memories are read first: own marks only grow.
async fn one_looks_restored(one: &Db, other: &Db) -> bool {
    let remembered = (mark_of(one, other.module()).await, mark_of(other, one.module()).await);
    let own = (mark_of(other, other.module()).await, mark_of(one, one.module()).await);
    remembered.0 > own.0 || remembered.1 > own.1
}

#[tokio::test]
async fn an_own_mark_only_grows_and_a_remembered_one_never_goes_back() {
    on_both_with("durable", quick(), |db| async move {
        let first = marks::advance(&db, &Marks::from([("other".to_owned(), 50)]))
            .await
            .unwrap();
        assert!(first > 1_000_000_000_000, "a time");
        let ahead = first + 3_600_000;
        crate::harness::execute(&db, format!("update mark set at_ms = {ahead} where name = 'durable'")).await;
        // The clock is behind the mark, as after a step back. And an instance that knows less comes late.
        let second = marks::advance(&db, &Marks::from([("other".to_owned(), 40), ("durable".to_owned(), 7)])).await;
        assert_eq!(second.unwrap(), ahead + 1);
        assert_eq!(
            (mark_of(&db, "durable").await, mark_of(&db, "other").await),
            (ahead + 1, 50)
        );
    })
    .await;
}

/// The process is killed between the writes to the two databases, in either order, again and again.
#[tokio::test]
async fn a_crash_between_the_marks_of_two_databases_is_no_restore() {
    with_two(quick(), |orders, mails| async move {
        for round in 0..8 {
            let committed = Marks::from([
                ("orders".to_owned(), mark_of(&orders, "orders").await),
                ("mails".to_owned(), mark_of(&mails, "mails").await),
            ]);
            let (first, second) = if round % 2 == 0 {
                (&orders, &mails)
            } else {
                (&mails, &orders)
            };
            marks::advance(first, &committed).await.unwrap();
            assert!(
                !one_looks_restored(&orders, &mails).await,
                "killed after the first of round {round}"
            );
            if round % 3 == 0 {
                marks::advance(second, &committed).await.unwrap();
                assert!(!one_looks_restored(&orders, &mails).await, "round {round}");
            }
        }
        // A restored one does, so the check is not blind.
        crate::harness::execute(&mails, "delete from mark where name = 'mails'").await;
        assert!(one_looks_restored(&orders, &mails).await);
    })
    .await;
}

/// Two instances of a process advance the marks of the same schemas, while a third starts again and again.
#[tokio::test]
async fn instances_that_advance_the_same_marks_raise_no_alarm() {
    let home = PostgresHome::new().await;
    let (orders_at, mails_at) = (home.storage("orders").await, home.storage("mails").await);
    let clock = Arc::new(SystemClock);
    let orders = open_as("orders", &orders_at, settings(), clock.clone()).await;
    let mails = open_as("mails", &mails_at, settings(), clock).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut instances = Vec::new();
    // One has a clock that is an hour ahead.
    for ahead_ms in [0, 3_600_000] {
        let clock = ManualClock::at(Timestamp::from_ms(1_800_000_000_000 + ahead_ms));
        let open = async |name: &str, at| {
            Db::open(name, at, settings(), clock.clone(), Arc::new(RandomIds))
                .await
                .unwrap()
        };
        let (orders, mails) = (open("orders", &orders_at).await, open("mails", &mails_at).await);
        let stop = stop.clone();
        instances.push(tokio::spawn(async move {
            let mut committed = Marks::new();
            while !stop.load(Ordering::SeqCst) {
                let (of_orders, of_mails) =
                    tokio::join!(marks::advance(&orders, &committed), marks::advance(&mails, &committed));
                committed.extend([
                    ("orders".to_owned(), of_orders.unwrap()),
                    ("mails".to_owned(), of_mails.unwrap()),
                ]);
            }
            orders.close().await;
            mails.close().await;
        }));
    }
    for _ in 0..100 {
        assert!(!one_looks_restored(&orders, &mails).await);
    }
    stop.store(true, Ordering::SeqCst);
    for instance in instances {
        instance.await.unwrap();
    }
    assert!(!one_looks_restored(&orders, &mails).await);
    assert!(mark_of(&orders, "mails").await > 0, "they remember each other");
    orders.close().await;
    mails.close().await;
    home.remove().await;
}
