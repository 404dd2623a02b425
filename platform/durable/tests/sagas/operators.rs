//! The operators' actions, and when they are refused.

use std::time::Duration;

use banyan_core::OPERATOR;
use banyan_core::{Actor, Fault, PageRequest};
use banyan_durable::saga::{self, SagaDetails, SagaFilter, SagaState};
use banyan_durable_testing::{eventually, on_both_with};
use sea_orm::{ConnectionTrait, Statement};
use uuid::Uuid;

use crate::{
    harness::{Harness, entries, quick},
    script::{Act, Failure, LONG, Script, bug, gated, refuse, unavailable_for},
};

const FAR: Duration = Duration::from_secs(600);

fn operator() -> Actor {
    Actor::user(Uuid::from_u128(7), [OPERATOR])
}

#[tokio::test]
async fn a_parked_saga_goes_on_where_it_stopped_once_it_is_retried() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness.remote.script("order-1", "authorise/do", (0..5).map(|_| bug()));
        let running = harness.run();
        let id = harness.start("order-1").await;
        harness.until(id, SagaState::Parked).await;
        let retried = harness
            .ops()
            .retry(&operator(), id, "fixed", Some("release 12"))
            .await
            .unwrap();
        assert_eq!(
            (retried.state, retried.failures, retried.parked_reason),
            (SagaState::Running, 0, None)
        );
        let ended = harness.until(id, SagaState::Completed).await;
        let sent: Vec<_> = harness
            .remote
            .sent("order-1")
            .into_iter()
            .filter(|sent| sent.what == "authorise/do")
            .collect();
        assert!(
            sent.len() == 6
                && sent
                    .iter()
                    .all(|one| one.command == sent[0].command && one.command_id == sent[0].command_id)
        );
        assert!(entries(&ended).contains(&"retried"));
        assert_eq!(harness.audits("saga.retry", &format!("saga/{id}")).await, 1);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_saga_parked_while_undoing_goes_on_undoing() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness.remote.script("order-1", "authorise/do", [refuse()]);
        harness.remote.script("order-1", "reserve/undo", [refuse()]);
        let running = harness.run();
        let id = harness.start("order-1").await;
        harness.until(id, SagaState::Parked).await;
        let refused = harness
            .ops()
            .compensate(&operator(), id, "why not", None)
            .await
            .unwrap_err();
        assert_eq!(refused.code, "saga_compensating");
        assert_eq!(
            harness.ops().retry(&operator(), id, "fixed", None).await.unwrap().state,
            SagaState::Compensating
        );
        harness.until(id, SagaState::Compensated).await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_waiting_saga_goes_on_now_once_it_is_retried() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness.remote.script("order-1", "authorise/do", [unavailable_for(FAR)]);
        let running = harness.run();
        let id = harness.start("order-1").await;
        eventually("the outcome is unknown", LONG, || async {
            harness.show(id).await.saga.attempts == 1
        })
        .await;
        harness.ops().retry(&operator(), id, "it is back", None).await.unwrap();
        harness.until(id, SagaState::Completed).await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_runner_obtains_after_an_operators_action_is_void() {
    // One at a time: the saga is not claimed again before the response comes, which is void nevertheless.
    let settings = banyan_durable::Settings {
        saga_concurrency: 1,
        limits: banyan_durable::MachineryLimits {
            saga_call_timeout: Duration::from_secs(60),
            renewals_per_lease: 0,
            ..quick().limits
        },
        ..quick()
    };
    on_both_with("orders", settings, |db| async move {
        let harness = Harness::new(&db);
        let (overruled, refusal) = gated(refuse());
        harness.remote.script("order-1", "authorise/do", [refusal]);
        let running = harness.run();
        let id = harness.start("order-1").await;
        harness.remote.until_sent("order-1", "authorise/do", 1).await;
        harness
            .ops()
            .retry(&operator(), id, "takes too long", None)
            .await
            .unwrap();
        overruled.notify_one();
        let ended = harness.until(id, SagaState::Completed).await;
        assert_eq!(
            harness.remote.steps_sent("order-1"),
            ["reserve/do", "authorise/do", "authorise/do", "capture/do"]
        );
        assert!(!entries(&ended).contains(&"refused"));
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_operator_can_compensate_a_running_or_parked_saga() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness.remote.script("waiting", "authorise/do", [unavailable_for(FAR)]);
        harness.remote.script("under way", "authorise/do", [Act::Hang]);
        harness.remote.script("parked", "authorise/do", (0..5).map(|_| bug()));
        let running = harness.run();
        for key in ["waiting", "under way", "parked"] {
            let id = harness.start(key).await;
            let times = if key == "parked" { 5 } else { 1 };
            harness.remote.until_sent(key, "authorise/do", times).await;
            if key == "parked" {
                harness.until(id, SagaState::Parked).await;
            }
            harness.ops().compensate(&operator(), id, "fraud", None).await.unwrap();
            let ended = harness.until(id, SagaState::Compensated).await;
            assert_eq!(
                harness.remote.steps_sent(key)[1 + times..],
                ["authorise/undo", "reserve/undo"],
                "{key}"
            );
            assert!(
                !ended.saga.compensate_asked && entries(&ended).contains(&"compensation_asked"),
                "{key}"
            );
            assert_eq!(
                harness.audits("saga.compensate", &format!("saga/{id}")).await,
                1,
                "{key}"
            );
        }
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_definition_may_decide_that_an_operator_is_too_late() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness.remote.script("order-1", "capture/do", [unavailable_for(FAR)]);
        let running = harness.run();
        let id = harness.start("order-1").await;
        eventually("the capture is unknown", LONG, || async {
            let saga = harness.show(id).await.saga;
            saga.step == "capture" && saga.attempts == 1
        })
        .await;
        harness.ops().compensate(&operator(), id, "fraud", None).await.unwrap();
        harness.until(id, SagaState::Completed).await;
        assert_eq!(
            harness
                .remote
                .inputs("order-1")
                .iter()
                .filter(|input| *input == "Compensate")
                .count(),
            1
        );
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn only_a_parked_saga_can_be_abandoned_and_then_nothing_more() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        let ops = harness.ops();
        harness.remote.fail_decisions("order-1", [Failure::Park]);
        let id = harness.start("order-1").await;
        let target = format!("saga/{id}");
        assert_eq!(
            ops.abandon(&operator(), id, "tired", None).await.unwrap_err().code,
            "saga_not_parked"
        );
        let running = harness.run();
        harness.until(id, SagaState::Parked).await;
        assert_eq!(
            ops.abandon(&operator(), id, " ", None).await.unwrap_err().code,
            "reason_required"
        );
        assert_eq!(
            harness.audits("saga.abandon", &target).await,
            0,
            "a refused action leaves no audit row"
        );
        harness
            .remote
            .fail_decisions("order-1", [Failure::Fail(Fault::conflict("not_now", "as scripted"))]);
        assert_eq!(
            ops.abandon(&operator(), id, "tired", None).await.unwrap_err().code,
            "not_now"
        );
        let of_another_binary = banyan_durable::Machinery::new(db.clone()).ops().sagas();
        assert_eq!(
            of_another_binary
                .abandon(&operator(), id, "tired", None)
                .await
                .unwrap_err()
                .code,
            "saga_unknown"
        );
        assert_eq!(harness.show(id).await.saga.state, SagaState::Parked);
        assert_eq!(harness.audits("given_up", "order-1").await, 0, "nothing was given up");
        let abandoned = ops
            .abandon(&operator(), id, "settled by hand", Some("ticket 4711"))
            .await
            .unwrap();
        assert_eq!(
            harness.audits("given_up", "order-1").await,
            1,
            "the definition says what it means, in the same transaction"
        );
        assert_eq!(abandoned.state, SagaState::Abandoned);
        assert_eq!(harness.audits("saga.abandon", &target).await, 1);
        assert_eq!(
            harness.show(id).await.log.last().unwrap().detail,
            format!("{}: settled by hand", operator().label())
        );

        for refused in [
            ops.retry(&operator(), id, "why", None).await,
            ops.compensate(&operator(), id, "why", None).await,
            ops.abandon(&operator(), id, "why", None).await,
        ] {
            assert_eq!(refused.unwrap_err().code, "saga_finished");
        }
        assert_eq!(
            ops.retry(&operator(), Uuid::from_u128(1), "why", None)
                .await
                .unwrap_err()
                .code,
            "not_found"
        );
        assert_eq!(ops.show(Uuid::from_u128(1)).await.unwrap_err().code, "not_found");
        assert!(!harness.signal("order-1", "cancel").await);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn sagas_are_listed_by_state_and_kind_a_page_at_a_time() {
    on_both_with("orders", quick(), |db| async move {
        let (harness, ops) = (Harness::new(&db), Harness::new(&db).ops());
        let running = harness.run();
        let mut ids = Vec::new();
        for n in 0..5 {
            let key = format!("order-{n}");
            if n == 2 {
                harness.remote.fail_decisions(&key, [Failure::Park]);
            }
            ids.push(harness.start(&key).await);
        }
        for (n, id) in ids.iter().enumerate() {
            harness
                .until(
                    *id,
                    if n == 2 {
                        SagaState::Parked
                    } else {
                        SagaState::Completed
                    },
                )
                .await;
        }
        let parked = SagaFilter {
            state: Some(SagaState::Parked),
            kind: Some("script".into()),
            ..SagaFilter::default()
        };
        let listed = ops.list(&parked, &PageRequest::default()).await.unwrap();
        assert_eq!(listed.items.iter().map(|saga| saga.id).collect::<Vec<_>>(), [ids[2]]);
        let others = SagaFilter {
            kind: Some("other".into()),
            ..SagaFilter::default()
        };
        assert!(
            ops.list(&others, &PageRequest::default())
                .await
                .unwrap()
                .items
                .is_empty()
        );

        let about = SagaFilter {
            business_key: Some("order-3".into()),
            ..SagaFilter::default()
        };
        let listed = ops.list(&about, &PageRequest::default()).await.unwrap();
        assert_eq!(listed.items.iter().map(|saga| saga.id).collect::<Vec<_>>(), [ids[3]]);

        let (mut page, mut seen) = (PageRequest { limit: 2, after: None }, Vec::new());
        loop {
            let listed = ops.list(&SagaFilter::default(), &page).await.unwrap();
            seen.extend(listed.items.iter().map(|saga| saga.id));
            match listed.next {
                Some(next) => page.after = Some(next),
                None => break,
            }
        }
        seen.reverse();
        assert_eq!(seen, ids, "each once, the newest first");
        let bad = PageRequest {
            limit: 2,
            after: Some(banyan_core::Cursor("x".into())),
        };
        assert_eq!(
            ops.list(&SagaFilter::default(), &bad).await.unwrap_err().code,
            "invalid_cursor"
        );

        let shown = harness.show(ids[0]).await;
        let json = serde_json::to_value(&shown).unwrap();
        assert_eq!(
            (json["state"].as_str(), json["payload"]["done"][0].as_str()),
            (Some("completed"), Some("reserve"))
        );
        assert_eq!(serde_json::from_value::<SagaDetails>(json).unwrap(), shown);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn active_sagas_are_counted_and_parked_ones_are_not() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        let under_way = async || saga::count_under_way::<Script>(&db, 2).await.unwrap();
        assert_eq!(under_way().await, 0);
        harness.remote.fail_decisions("order-1", [Failure::Park]);
        let id = harness.start("order-1").await;
        assert_eq!(under_way().await, 1);
        let running = harness.run();
        harness.until(id, SagaState::Parked).await;
        running.stop().await;
        assert_eq!(under_way().await, 0, "it is parked");
        harness.start("order-2").await;
        assert_eq!(under_way().await, 1);
        harness
            .ops()
            .retry(&operator(), id, "looked at it", None)
            .await
            .unwrap();
        assert_eq!(under_way().await, 2);
        harness.start("order-3").await;
        assert_eq!(under_way().await, 2, "no more are counted");
    })
    .await;
}

/// While the provider is away the undos of old orders wait for it; that must not close the shop to new ones.
#[tokio::test]
async fn sagas_that_are_compensated_do_not_count_as_under_way() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness.remote.script("order-1", "authorise/do", [refuse()]);
        harness.remote.script("order-1", "reserve/undo", [unavailable_for(FAR)]);
        let running = harness.run();
        let id = harness.start("order-1").await;
        harness.until(id, SagaState::Compensating).await;
        assert_eq!(saga::count_under_way::<Script>(&db, 1).await.unwrap(), 0);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_log_that_has_become_long_moves_and_stays_whole() {
    on_both_with("orders", quick(), |db| async move {
        const RETRIES: i64 = 60;
        let harness = Harness::new(&db);
        let id = harness.start("order-1").await;
        let long = "because ".repeat(200);
        for retry in 1..=RETRIES {
            let reason = format!("{retry} {long}");
            harness.ops().retry(&operator(), id, &reason, None).await.unwrap();
        }
        let in_row = "select count(*) from saga where length(log) > 40000";
        let moved = "select count(*) from saga_log";
        for (sql, holds) in [(in_row, 0..=0), (moved, 20..=RETRIES)] {
            let statement = Statement::from_string(db.backend(), sql);
            let row = db.read().query_one_raw(statement).await.unwrap().unwrap();
            let count: i64 = row.try_get_by_index(0).unwrap();
            assert!(holds.contains(&count), "{sql}: {count}");
        }
        let log = harness.show(id).await.log;
        let seqs: Vec<i64> = log.iter().map(|entry| entry.seq).collect();
        assert_eq!(seqs, (1..=RETRIES + 1).collect::<Vec<_>>());
        for (retry, entry) in log.iter().skip(1).enumerate() {
            assert!(
                entry.detail.contains(&format!(": {} because", retry + 1)),
                "{}",
                entry.detail
            );
        }
    })
    .await;
}
