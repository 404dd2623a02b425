//! Clocks that are set back or jump ahead: every due time of the machinery's tables. Those of sagas are in their own tests.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use banyan_core::{Fault, Timestamp};
use banyan_durable::{Command, Db, Machinery, Memory, Outcome, hold, once};
use banyan_durable_testing::{ManualClock, SqliteHome, eventually, on_both_with};
use tokio_util::sync::CancellationToken;

use crate::harness::{
    Faults, Running, SOON, TestBus, count, execute, handled, note, open_as, quick, subscribed, with_two,
};

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_prolong_the_lease_of_a_crashed_instance() {
    on_both_with("durable", quick(), |db| async move {
        let until = if db.backend() == sea_orm::DbBackend::Sqlite {
            "cast(unixepoch('now', 'subsec') * 1000 as integer)"
        } else {
            "cast(extract(epoch from now()) * 1000 as bigint)"
        };
        let lease =
            format!("insert into lease (name, owner, token, until) values ('work', 'crashed', 7, {until} + 3600000)");
        execute(&db, Box::leak(lease.into_boxed_str())).await;
        let (stop, begun) = (CancellationToken::new(), CancellationToken::new());
        let (token, signal) = (stop.clone(), begun.clone());
        let holder = tokio::spawn(async move {
            let run = |held: CancellationToken| {
                signal.cancel();
                async move { held.cancelled().await }
            };
            hold(&db, "work", &token, run).await;
        });
        tokio::time::timeout(SOON, begun.cancelled()).await.expect("it works");
        stop.cancel();
        holder.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_was_set_back_delays_no_retry_of_a_reaction() {
    with_two(quick(), |orders, mails| async move {
        let faults = Faults::default();
        faults.set("unavailable", Fault::unavailable("the catalog is unavailable"));
        let bus = Arc::new(TestBus::default());
        let running = Running::start(&bus, vec![Machinery::new(orders.clone()), subscribed(&mails, &faults)]).await;
        note(&orders, "order/1", "unavailable").await;
        eventually("it is tried", SOON, || async {
            count(&mails, "select count(*) from retry where attempts > 1").await == 1
        })
        .await;
        running.stop().await;
        faults.clear();
        execute(&mails, "update retry set next_attempt_at = next_attempt_at + 3600000").await;
        let running = Running::start(&bus, vec![Machinery::new(orders.clone()), subscribed(&mails, &faults)]).await;
        eventually("it is handled", SOON, || async {
            handled(&mails, "order/1").await == ["unavailable"]
        })
        .await;
        running.stop().await;
    })
    .await;
}

async fn request(db: &Db) -> Memory<String> {
    let request = Command::new("request", "r-1", b"x").keep_for(Duration::from_secs(30 * 86_400));
    let memory = once(db, request, (), |_, ()| async {
        Ok(Outcome::Done("placed".to_owned()))
    });
    memory.await.unwrap()
}

#[tokio::test]
async fn a_clock_that_jumps_thirty_days_ahead_does_not_forget_the_requests_of_yesterday() {
    let clock = ManualClock::at(Timestamp::from_ms(1_700_000_000_000));
    let home = SqliteHome::new();
    let db = open_as("orders", &home.storage("orders"), quick(), clock.clone()).await;
    let bus = Arc::new(TestBus::default());
    bus.down.store(true, Ordering::SeqCst);
    let prune_once = || async {
        execute(&db, "insert into inbox (kind, id, fingerprint, tombstone, created_at, expires_at) values ('k', 'old', '', true, 0, 1)").await;
        let running = Running::start(&bus, vec![Machinery::new(db.clone())]).await;
        eventually("pruned", SOON, || async {
            count(&db, "select count(*) from inbox where expires_at = 1").await == 0
        })
        .await;
        running.stop().await;
    };
    prune_once().await;
    assert_eq!(request(&db).await, Memory::First("placed".to_owned()));
    clock.advance(Duration::from_secs(86_400));
    prune_once().await;
    clock.advance(Duration::from_secs(30 * 86_400));
    prune_once().await;
    assert_eq!(request(&db).await, Memory::Again("placed".to_owned()));
    db.close().await;
}
