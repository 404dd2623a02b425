//! A database's clock that is set back or jumps ahead. Moving the times in a row the other way is the same to it.

use std::{sync::Arc, time::Duration};

use banyan_core::RandomIds;
use banyan_durable::{Db, MachineryLimits, Settings, saga::SagaState};
use banyan_durable_testing::{AheadClock, PostgresHome, on_both_with, open};

use crate::{
    harness::{Harness, quick},
    script::{Act, unavailable_for},
};

const HOUR_MS: i64 = 3_600_000;

#[tokio::test]
async fn a_clock_that_was_set_back_delays_no_saga() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        let id = harness.start("order-1").await;
        harness
            .edit(&format!("next_run_at = next_run_at + {HOUR_MS}"), id)
            .await;
        let running = harness.run();
        harness.until(id, SagaState::Completed).await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_prolong_the_lease_of_a_crashed_runner() {
    let settings = Settings {
        lease_ms: 60_000,
        limits: MachineryLimits {
            saga_call_timeout: Duration::from_secs(60),
            ..quick().limits
        },
        ..quick()
    };
    on_both_with("orders", settings, |db| async move {
        let harness = Harness::new(&db);
        harness.remote.script("order-1", "reserve/do", [Act::Hang]);
        let crashes = harness.run();
        let id = harness.start("order-1").await;
        harness.remote.until_sent("order-1", "reserve/do", 1).await;
        // It runs while the first one crashes: on SQLite the start of a runner ends all leases.
        let running = harness.run();
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(crashes);
        harness
            .edit(&format!("lease_until = lease_until + {HOUR_MS}"), id)
            .await;
        harness.until(id, SagaState::Completed).await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_postpone_a_deadline_by_as_much() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness.remote.script(
            "order-1",
            "authorise/do",
            (0..100).map(|_| unavailable_for(Duration::from_millis(50))),
        );
        let id = harness.start_within("order-1", Duration::from_secs(1)).await;
        harness
            .edit(&format!("deadline_at = deadline_at + {HOUR_MS}"), id)
            .await;
        let running = harness.run();
        harness.until(id, SagaState::Compensated).await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_jumped_ahead_breaks_no_saga() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        let id = harness.start("order-1").await;
        let month_ms = 30 * 24 * HOUR_MS;
        harness
            .edit(
                &format!("next_run_at = next_run_at - {month_ms}, created_at = created_at - {month_ms}"),
                id,
            )
            .await;
        let running = harness.run();
        harness.until(id, SagaState::Completed).await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_saga_that_an_instance_whose_clock_is_ahead_began_is_driven_in_time() {
    let home = PostgresHome::new().await;
    let storage = home.storage("orders").await;
    let on_time = open("orders", &storage, quick()).await;
    let ahead = Db::open("orders", &storage, quick(), Arc::new(AheadClock), Arc::new(RandomIds)).await;
    let ahead = Harness::new(&ahead.unwrap());
    ahead
        .remote
        .script("order-1", "reserve/do", [unavailable_for(Duration::from_millis(500))]);
    let id = ahead.start("order-1").await;
    let running = ahead.run();
    ahead.remote.until_sent("order-1", "reserve/do", 1).await;
    running.stop().await;
    let harness = Harness::new(&on_time);
    let (new, running) = (harness.start("order-2").await, harness.run());
    harness.until(id, SagaState::Completed).await;
    harness.until(new, SagaState::Completed).await;
    running.stop().await;
    ahead.db.close().await;
    on_time.close().await;
    home.remove().await;
}
