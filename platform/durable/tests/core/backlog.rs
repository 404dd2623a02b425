//! The relay with very many events that wait: new ones are not behind them, and they go on.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use banyan_durable::{Db, Machinery};
use banyan_durable_testing::{eventually, on_both_with};

use crate::{
    events::PENDING,
    harness::{Running, SOON, TestBus, count, execute, note, quick},
};

/// Subjects whose events piled up, each with as many events as it may have; they sort before and after any new one.
async fn pile_up(db: &Db, subjects: u32, events: u32) {
    // Their ids sort before those of new events.
    let (at, id) = match db.backend() {
        sea_orm::DbBackend::Sqlite => ("unixepoch() * 1000", "cast(zeroblob(8) || randomblob(8) as blob)"),
        _ => (
            "cast(extract(epoch from now()) * 1000 as bigint)",
            "overlay(md5(s.i || '/' || v.i) placing '00000000' from 1)::uuid",
        ),
    };
    let series = format!(
        "with recursive s(i) as (select 1 union all select i + 1 from s where i < {subjects}),
         v(i) as (select 1 union all select i + 1 from v where i < {events})"
    );
    let body = r#"'{"specversion":"1.0","id":"00000000-0000-7000-8000-000000000001","source":"durable","type":"banyan.test.v1.Noted","subject":"order/' || s.i || '","time":"2026-01-01T00:00:00Z","datacontenttype":"application/json","version":' || v.i || ',"data":{"text":"old"}}'"#;
    let sql = format!(
        "{series} insert into outbox (id, kind, subject, version, body, state, attempts, next_attempt_at, created_at)
         select {id}, 'banyan.test.v1.Noted', 'order/' || s.i, v.i, {body}, 'pending', 0, {at}, {at}
         from s, v"
    );
    execute(db, sql).await;
}

#[tokio::test]
async fn a_new_event_is_not_behind_the_events_that_piled_up_and_those_go_on() {
    on_both_with("durable", quick(), |db| async move {
        pile_up(&db, 2_000, 2).await;
        let bus = Arc::new(TestBus::default());
        // With a window of 100 and 20 ms each, the pile takes more than a second.
        bus.slow_ms.store(20, Ordering::SeqCst);
        let running = Running::start(&bus, vec![Machinery::new(db.clone())]).await;
        eventually("the relay is at work", SOON, || async { bus.published().len() > 200 }).await;
        for subject in ["a/1", "order/1500-new", "z/1"] {
            let before = bus.published().len();
            note(&db, subject, "new").await;
            eventually("the new event is published", SOON, || async {
                bus.published().contains(&format!("{subject}:1"))
            })
            .await;
            let meanwhile = bus.published().len() - before;
            assert!(meanwhile < 500, "{subject} was behind {meanwhile} others");
        }
        assert!(count(&db, PENDING).await > 500, "the pile was too small");
        let all = Duration::from_secs(60);
        eventually("the pile is published too", all, || async {
            count(&db, PENDING).await == 0
        })
        .await;
        assert!(!bus.overtook.load(Ordering::SeqCst));
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_subject_with_very_many_events_holds_back_no_other() {
    on_both_with("durable", quick(), |db| async move {
        pile_up(&db, 1, 5_000).await;
        let bus = Arc::new(TestBus::default());
        bus.refused.lock().unwrap().push("order/1:1".to_owned());
        let running = Running::start(&bus, vec![Machinery::new(db.clone())]).await;
        note(&db, "order/2", "new").await;
        eventually("the other subject goes on", SOON, || async {
            bus.published() == ["order/2:1"]
        })
        .await;
        running.stop().await;
    })
    .await;
}
