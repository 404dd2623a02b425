//! The way back: refusals, signals, deadlines.

use std::{sync::Arc, time::Duration};

use banyan_core::{Clock, RandomIds, SystemClock, Timestamp};
use banyan_durable::{
    Db, MachineryLimits, Settings,
    saga::{SagaState, command_id},
};
use banyan_durable_testing::{ManualClock, PostgresHome, SqliteHome, eventually, on_both_with, open};
use tokio::time::Instant;

use crate::{
    harness::{Harness, entries, quick},
    script::{Act, Failure, LONG, News, done, gated, refuse, unavailable, unavailable_for},
};

/// Longer than any of these tests may take: a saga with a waiting input must not wait for it.
const FAR: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_refusal_undoes_what_was_done_in_reverse_order() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness.remote.script("order-1", "capture/do", [refuse()]);
        harness.remote.script(
            "order-1",
            "authorise/undo",
            [unavailable(), Act::Answer(News::InProgress), done()],
        );
        let running = harness.run();
        let id = harness.start("order-1").await;
        let ended = harness.until(id, SagaState::Compensated).await;
        assert_eq!(
            harness.remote.steps_sent("order-1"),
            [
                "reserve/do",
                "authorise/do",
                "capture/do",
                "authorise/undo",
                "authorise/undo",
                "authorise/undo",
                "reserve/undo"
            ]
        );
        let undos: Vec<_> = harness
            .remote
            .sent("order-1")
            .into_iter()
            .filter(|sent| sent.what == "authorise/undo")
            .collect();
        assert!(
            undos
                .iter()
                .all(|undo| undo.command_id == command_id(id, "authorise", true) && undo.command == undos[0].command)
        );
        assert_eq!(ended.command_id, None);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_decision_to_compensate_is_committed_before_the_first_undo_is_sent() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness.remote.script("order-1", "authorise/do", [refuse()]);
        let running = harness.run();
        let id = harness.start("order-1").await;
        harness.until(id, SagaState::Compensated).await;
        let sent = harness.remote.sent("order-1");
        let undo = sent.iter().find(|sent| sent.what == "reserve/undo").unwrap();
        assert_eq!(undo.stored_state, "compensating");
        assert_eq!(undo.stored_command_id, command_id(id, "reserve", true));
        assert!(
            sent.iter()
                .filter(|sent| sent.what.ends_with("/do"))
                .all(|sent| sent.stored_state == "running")
        );
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_refused_first_step_leaves_nothing_to_undo() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness.remote.script("order-1", "reserve/do", [refuse()]);
        let running = harness.run();
        let id = harness.start("order-1").await;
        harness.until(id, SagaState::Compensated).await;
        assert_eq!(harness.remote.steps_sent("order-1"), ["reserve/do"]);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_signal_during_an_unknown_outcome_is_processed_before_the_command_is_sent_again() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness.remote.script("order-1", "authorise/do", [unavailable_for(FAR)]);
        let running = harness.run();
        let id = harness.start("order-1").await;
        eventually("the outcome is unknown", LONG, || async {
            harness.show(id).await.saga.attempts == 1
        })
        .await;
        assert!(harness.signal("order-1", "cancel").await);
        let ended = harness.until(id, SagaState::Compensated).await;
        assert_eq!(
            harness.remote.steps_sent("order-1"),
            ["reserve/do", "authorise/do", "authorise/undo", "reserve/undo"]
        );
        assert_eq!(
            harness.remote.inputs("order-1"),
            ["Started", "News", "Signal+signal", "News", "News"]
        );
        assert_eq!(ended.saga.signal, None);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_signal_while_a_command_is_under_way_comes_with_its_news_or_right_after() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        let (answered, late_answer) = gated(done());
        let (lost, late_loss) = gated(unavailable_for(FAR));
        harness.remote.script("answered", "reserve/do", [late_answer]);
        harness.remote.script("lost", "reserve/do", [late_loss]);
        let running = harness.run();
        let ids = [harness.start("answered").await, harness.start("lost").await];
        for (key, gate) in [("answered", answered), ("lost", lost)] {
            harness.remote.until_sent(key, "reserve/do", 1).await;
            assert!(harness.signal(key, "cancel").await);
            gate.notify_one();
        }
        for id in ids {
            harness.until(id, SagaState::Compensated).await;
        }
        // The runner learns of the signal when it stores its decision, which is then taken again.
        assert_eq!(
            harness.remote.inputs("answered"),
            ["Started", "News", "News+signal", "News"]
        );
        assert_eq!(harness.remote.inputs("lost"), ["Started", "Signal+signal", "News"]);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_signal_that_comes_too_late_changes_nothing_and_is_processed_once() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness
            .remote
            .script("order-1", "capture/do", [unavailable_for(FAR), unavailable(), done()]);
        let running = harness.run();
        let id = harness.start("order-1").await;
        eventually("the capture is unknown", LONG, || async {
            let saga = harness.show(id).await.saga;
            saga.step == "capture" && saga.attempts == 1
        })
        .await;
        assert!(harness.signal("order-1", "cancel").await);
        harness.until(id, SagaState::Completed).await;
        let captures: Vec<_> = harness
            .remote
            .sent("order-1")
            .into_iter()
            .filter(|sent| sent.what == "capture/do")
            .collect();
        assert_eq!(captures.len(), 3);
        assert!(
            captures
                .iter()
                .all(|one| one.command == captures[0].command && one.command_id == captures[0].command_id)
        );
        assert_eq!(
            harness
                .remote
                .inputs("order-1")
                .iter()
                .filter(|input| input.contains("signal"))
                .count(),
            1
        );
        assert!(
            !harness.signal("order-1", "cancel").await,
            "a saga gets no signal after its end"
        );
        assert!(
            !harness.signal("order-2", "cancel").await,
            "nor one for a saga that never was"
        );
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_deadline_during_an_unknown_outcome_is_processed_when_it_passes() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness.remote.script("order-1", "authorise/do", [unavailable_for(FAR)]);
        let running = harness.run();
        let begun = Instant::now();
        let id = harness.start_within("order-1", Duration::from_secs(2)).await;
        let ended = harness.until(id, SagaState::Compensated).await;
        assert!(
            begun.elapsed() >= Duration::from_millis(1_990),
            "not before: {:?}",
            begun.elapsed()
        );
        assert_eq!(ended.payload["deadlines_told"], 1);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_deadline_while_a_command_is_under_way_is_processed_if_its_outcome_stays_unknown() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        let (gate, lost) = gated(unavailable_for(FAR));
        harness.remote.script("order-1", "authorise/do", [lost]);
        let running = harness.run();
        let id = harness.start_within("order-1", Duration::from_secs(60)).await;
        harness.remote.until_sent("order-1", "authorise/do", 1).await;
        harness.edit("deadline_at = 1", id).await;
        gate.notify_one();
        harness.until(id, SagaState::Compensated).await;
        assert_eq!(
            harness.remote.steps_sent("order-1"),
            ["reserve/do", "authorise/do", "authorise/undo", "reserve/undo"]
        );
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_deadline_is_processed_once() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        let (gate, late) = gated(unavailable());
        harness.remote.script(
            "order-1",
            "capture/do",
            [late, unavailable(), unavailable(), unavailable()],
        );
        let running = harness.run();
        let id = harness.start_within("order-1", Duration::from_secs(60)).await;
        harness.remote.until_sent("order-1", "capture/do", 1).await;
        harness.edit("deadline_at = 1", id).await;
        gate.notify_one();
        let ended = harness.until(id, SagaState::Completed).await;
        assert_eq!(ended.payload["deadlines_told"], 1);
        assert_eq!(
            entries(&ended)
                .iter()
                .filter(|entry| **entry == "deadline_passed")
                .count(),
            1
        );
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_passed_deadline_is_visible_to_the_decision_on_the_news() {
    // Longer than the deadline.
    let settings = Settings {
        limits: MachineryLimits {
            saga_call_timeout: LONG,
            ..quick().limits
        },
        ..quick()
    };
    on_both_with("orders", settings, |db| async move {
        let harness = Harness::new(&db);
        let (gate, late) = gated(done());
        harness.remote.script("order-1", "authorise/do", [late]);
        let running = harness.run();
        let id = harness.start_within("order-1", Duration::from_secs(2)).await;
        harness.remote.until_sent("order-1", "authorise/do", 1).await;
        let deadline = harness.show(id).await.saga.deadline_at.unwrap();
        eventually("the deadline has passed", LONG, || async {
            // The runner counts on from the time at which it claimed the saga.
            SystemClock.now() > deadline.plus(Duration::from_millis(500))
        })
        .await;
        gate.notify_one();
        harness.until(id, SagaState::Compensated).await;
        assert_eq!(
            harness.remote.inputs("order-1"),
            ["Started", "News", "News", "News", "News"]
        );
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_signal_during_a_decision_is_not_lost_with_it() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        let (gate, late) = gated(done());
        harness.remote.script("order-1", "reserve/do", [late]);
        harness
            .remote
            .fail_decisions("order-1", [Failure::Slow(Duration::from_millis(400))]);
        let running = harness.run();
        let id = harness.start("order-1").await;
        eventually("it decides", LONG, || async {
            harness.remote.inputs("order-1").len() == 1
        })
        .await;
        assert!(harness.signal("order-1", "cancel").await);
        gate.notify_one();
        harness.until(id, SagaState::Compensated).await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn deadlines_and_leases_are_judged_by_the_databases_clock() {
    let (sqlite, postgres) = (SqliteHome::new(), PostgresHome::new().await);
    for storage in [sqlite.storage("orders"), postgres.storage("orders").await] {
        open("orders", &storage, quick()).await.close().await;
        // Some seventy years ahead.
        let clock = ManualClock::at(Timestamp::from_ms(4_000_000_000_000));
        let db = Db::open("orders", &storage, quick(), clock, Arc::new(RandomIds))
            .await
            .unwrap();
        let harness = Harness::new(&db);
        harness
            .remote
            .script("order-1", "authorise/do", [unavailable(), unavailable(), done()]);
        harness.remote.script("order-2", "authorise/do", [unavailable_for(FAR)]);
        let running = harness.run();
        let id = harness.start_within("order-1", Duration::from_secs(60)).await;
        let ended = harness.until(id, SagaState::Completed).await;
        assert_eq!(ended.payload["deadlines_told"], 0);
        let id = harness.start_within("order-2", Duration::from_millis(300)).await;
        harness.until(id, SagaState::Compensated).await;
        running.stop().await;
        db.close().await;
    }
    postgres.remove().await;
}
