//! Bugs: they park the saga they are in, and no other.

use banyan_core::{Fault, PageRequest};
use banyan_durable::{
    MachineryLimits, Settings,
    saga::{SagaFilter, SagaState},
};
use banyan_durable_testing::on_both_with;

use crate::{
    harness::{Harness, Running, entries, quick},
    script::{Act, Failure, Script, bug, unavailable},
};

#[tokio::test]
async fn five_bugs_of_a_service_park_the_saga_and_the_others_go_on() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness
            .remote
            .script("panics", "authorise/do", (0..9).map(|_| Act::Panic));
        harness.remote.script("fails", "authorise/do", (0..9).map(|_| bug()));
        let running = harness.run();
        let broken = [harness.start("panics").await, harness.start("fails").await];
        let mut sound = Vec::new();
        for n in 0..5 {
            sound.push(harness.start(&format!("order-{n}")).await);
        }
        for id in sound {
            harness.until(id, SagaState::Completed).await;
        }
        for (id, key) in broken.into_iter().zip(["panics", "fails"]) {
            let parked = harness.until(id, SagaState::Parked).await;
            assert_eq!(
                harness
                    .remote
                    .steps_sent(key)
                    .iter()
                    .filter(|what| *what == "authorise/do")
                    .count(),
                5,
                "{key}"
            );
            assert_eq!(
                (parked.saga.failures, parked.saga.parked_state),
                (5, Some(SagaState::Running)),
                "{key}"
            );
            assert!(
                parked.saga.parked_reason.is_some() && parked.saga.last_error.is_some(),
                "{key}"
            );
            assert_eq!(entries(&parked).last(), Some(&"parked"), "{key}");
            assert_eq!(parked.lease_owner, None, "{key}");
        }
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn five_bugs_of_a_definition_park_its_saga_and_leave_no_trace_of_their_writes() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness.remote.fail_decisions("panics", (0..9).map(|_| Failure::Panic));
        harness.remote.fail_decisions(
            "refuses",
            (0..9).map(|_| Failure::Fail(Fault::conflict("version", "not that one"))),
        );
        let running = harness.run();
        for key in ["panics", "refuses"] {
            let id = harness.start(key).await;
            let parked = harness.until(id, SagaState::Parked).await;
            assert_eq!(harness.remote.inputs(key).len(), 5, "{key}");
            assert_eq!(
                harness.decisions(key).await,
                0,
                "{key}: what a failed decision wrote is rolled back"
            );
            assert_eq!(parked.saga.failures, 5, "{key}");
        }
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_undecodable_state_or_command_parks_the_saga_unsent() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        let ids = [harness.start("state").await, harness.start("command").await];
        harness.edit("payload = 'no json'", ids[0]).await;
        harness.edit("command = '{}', step = 'reserve'", ids[1]).await;
        harness.edit("command_id = id", ids[1]).await;
        let running = harness.run();
        for (id, key) in ids.into_iter().zip(["state", "command"]) {
            let parked = harness.until(id, SagaState::Parked).await;
            assert!(
                parked
                    .saga
                    .last_error
                    .as_deref()
                    .unwrap_or_default()
                    .starts_with("unreadable_saga"),
                "{:?}",
                parked.saga.last_error
            );
            assert_eq!(harness.remote.steps_sent(key), Vec::<String>::new());
        }
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_decision_that_meets_a_transient_fault_is_retried_without_limit() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        let unavailable = Fault::new(banyan_core::FaultKind::Unavailable, "unavailable", "unavailable");
        harness
            .remote
            .fail_decisions("order-1", (0..8).map(|_| Failure::Fail(unavailable.clone())));
        let running = harness.run();
        let id = harness.start("order-1").await;
        harness.until(id, SagaState::Completed).await;
        assert_eq!(harness.decisions("order-1").await, 4);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn failures_do_not_add_up_over_steps() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        for step in ["reserve/do", "authorise/do", "capture/do"] {
            harness
                .remote
                .script("order-1", step, [bug(), bug(), unavailable(), bug()]);
        }
        let running = harness.run();
        let id = harness.start("order-1").await;
        let ended = harness.until(id, SagaState::Completed).await;
        assert_eq!(ended.saga.failures, 0);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_definition_may_park_its_saga_and_the_command_stays() {
    on_both_with(
        "orders",
        Settings {
            limits: MachineryLimits {
                max_failures: 1,
                ..quick().limits
            },
            ..quick()
        },
        |db| async move {
            let harness = Harness::new(&db);
            harness
                .remote
                .script("order-1", "authorise/do", [crate::script::refuse()]);
            harness
                .remote
                .script("order-1", "reserve/undo", [crate::script::refuse()]);
            let running = harness.run();
            let id = harness.start("order-1").await;
            let parked = harness.until(id, SagaState::Parked).await;
            assert_eq!(parked.saga.parked_state, Some(SagaState::Compensating));
            assert_eq!(parked.saga.parked_reason.as_deref(), Some("declined: no"));
            assert_eq!(
                parked.command_id,
                Some(banyan_durable::saga::command_id(id, "reserve", true))
            );
            running.stop().await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_saga_of_an_unknown_version_is_shown_and_left_alone() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        let id = harness.start("order-1").await;
        let before = harness.show(id).await;
        let newer = Running::new(banyan_durable::Sagas::new(db.clone()).with(Script::<2> {
            db: db.clone(),
            remote: harness.remote.clone(),
        }));
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        assert_eq!(harness.show(id).await, before);
        let listed = harness
            .ops()
            .list(&SagaFilter::default(), &PageRequest::default())
            .await
            .unwrap();
        assert_eq!(listed.items, [before.saga]);
        newer.stop().await;

        let both = banyan_durable::Sagas::new(db.clone())
            .with(Script::<2> {
                db: db.clone(),
                remote: harness.remote.clone(),
            })
            .with(Script::<1> {
                db: db.clone(),
                remote: harness.remote.clone(),
            });
        let running = Running::new(both);
        harness.until(id, SagaState::Completed).await;
        assert!(
            harness.remote.sent("order-1").iter().all(|sent| sent.version == 1),
            "the version it was started with runs it"
        );
        running.stop().await;
    })
    .await;
}
