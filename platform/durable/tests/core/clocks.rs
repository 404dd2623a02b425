//! Clocks that are set back or jump ahead: every due time of the machinery's tables. Those of sagas are in their own tests.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use banyan_core::{Fault, SystemClock, Timestamp};
use banyan_durable::{Command, Db, Machinery, MachineryLimits, Memory, Outcome, Settings, hold, once};
use banyan_durable_testing::{AheadClock, ManualClock, PostgresHome, SqliteHome, eventually, on_both_with};
use tokio_util::sync::CancellationToken;

use crate::harness::{
    Faults, Running, SOON, TestBus, count, execute, handled, note, open_as, outbox_of, prepare, quick, subscribed,
    subscriber, with_two,
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

/// Two instances of a module on one database. What the first one is to do later, the second one does.
async fn ahead_and_on_time(home: &PostgresHome, module: &str, settings: Settings) -> (Db, Db) {
    let storage = home.storage(module).await;
    let ahead = open_as(module, &storage, settings.clone(), Arc::new(AheadClock)).await;
    let on_time = open_as(module, &storage, settings, Arc::new(SystemClock)).await;
    (ahead, on_time)
}

#[tokio::test]
async fn a_reaction_that_failed_in_an_instance_whose_clock_is_ahead_is_retried_in_time() {
    let home = PostgresHome::new().await;
    let storage = home.storage("orders").await;
    let orders = open_as("orders", &storage, quick(), Arc::new(SystemClock)).await;
    let (ahead, on_time) = ahead_and_on_time(&home, "mails", quick()).await;
    prepare(&on_time).await;
    note(&orders, "order/1", "fails").await;
    note(&orders, "order/2", "first").await;
    note(&orders, "order/2", "early").await;
    let faults = Faults::default();
    faults.set("fails", Fault::unavailable("users is unavailable"));
    let receives = subscriber(&ahead, &faults).await;
    let [fails, _, early] = outbox_of(&orders).await.try_into().expect("three events");
    receives.deliver(fails).await.unwrap();
    receives.deliver(early).await.unwrap();
    faults.clear();
    let bus = Arc::new(TestBus::default());
    bus.down.store(true, Ordering::SeqCst);
    let running = Running::start(
        &bus,
        vec![Machinery::new(orders.clone()), subscribed(&on_time, &faults)],
    )
    .await;
    eventually("what failed is handled", SOON, || async {
        handled(&on_time, "order/1").await == ["fails"]
    })
    .await;
    eventually("what was early is handled", SOON, || async {
        handled(&on_time, "order/2").await == ["first", "early"]
    })
    .await;
    running.stop().await;
    for db in [orders, ahead, on_time] {
        db.close().await;
    }
    home.remove().await;
}

#[tokio::test]
async fn an_event_that_an_instance_whose_clock_is_ahead_could_not_publish_is_published_in_time() {
    let often = std::iter::repeat_n(Duration::from_millis(50), 1_000);
    let settings = Settings {
        limits: MachineryLimits {
            // A delay longer than the difference, so that it could be one.
            retry_delays: often.chain([Duration::from_secs(60)]).collect(),
            ..quick().limits
        },
        ..quick()
    };
    let home = PostgresHome::new().await;
    let (ahead, on_time) = ahead_and_on_time(&home, "orders", settings).await;
    let bus = Arc::new(TestBus::default());
    bus.down.store(true, Ordering::SeqCst);
    let running = Running::start(&bus, vec![Machinery::new(ahead.clone())]).await;
    note(&ahead, "order/1", "placed").await;
    eventually("it is tried", SOON, || async {
        count(&ahead, "select count(*) from outbox where attempts > 0").await == 1
    })
    .await;
    running.stop().await;
    bus.down.store(false, Ordering::SeqCst);
    let running = Running::start(&bus, vec![Machinery::new(on_time.clone())]).await;
    eventually("it is published", SOON, || async { bus.published() == ["order/1:1"] }).await;
    running.stop().await;
    ahead.close().await;
    on_time.close().await;
    home.remove().await;
}

/// What a module ends goes with the machinery's own pruning, portion by portion.
#[tokio::test]
async fn rows_of_a_module_end_in_portions_and_not_because_a_clock_jumps_ahead() {
    let clock = ManualClock::at(Timestamp::from_ms(1_700_000_000_000));
    let home = SqliteHome::new();
    let db = open_as("orders", &home.storage("orders"), quick(), clock.clone()).await;
    execute(&db, "create table note (at bigint not null)").await;
    execute(&db, "insert into note (at) values (1), (2), (3), (1700000000000)").await;
    let bus = Arc::new(TestBus::default());
    bus.down.store(true, Ordering::SeqCst);
    let end = || async {
        let machinery = Machinery::new(db.clone()).expire(|tx, now| async move {
            let before = now.minus(Duration::from_secs(86_400)).as_ms();
            let sql =
                format!("delete from note where at in (select at from note where at < {before} order by at limit 2)");
            let deleted = sea_orm::ConnectionTrait::execute_unprepared(tx.conn(), &sql).await;
            Ok(deleted.map_err(banyan_durable::fault)?.rows_affected() == 2)
        });
        execute(&db, "insert into note (at) values (0)").await;
        let running = Running::start(&bus, vec![machinery]).await;
        eventually("ended", SOON, || async {
            count(&db, "select count(*) from note where at < 4").await == 0
        })
        .await;
        running.stop().await;
    };
    end().await;
    clock.advance(Duration::from_secs(30 * 86_400));
    end().await;
    assert_eq!(count(&db, "select count(*) from note").await, 1);
    db.close().await;
}
