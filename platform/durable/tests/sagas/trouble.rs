//! Bugs: they park the saga they are in, and no other.

use banyan_core::{Fault, PageRequest};
use banyan_durable::{
    MachineryLimits, Settings,
    saga::{SagaFilter, SagaState},
};
use banyan_durable_testing::on_both_with;

use crate::script::{Act, Running, Script, Shop, Trouble, bug, entries, quick, unavailable};

#[tokio::test]
async fn five_bugs_of_a_service_park_the_saga_and_the_others_go_on() {
    on_both_with("orders", quick(), |db| async move {
        let shop = Shop::new(&db);
        shop.remote.script("panics", "authorise/do", (0..9).map(|_| Act::Panic));
        shop.remote.script("fails", "authorise/do", (0..9).map(|_| bug()));
        let running = shop.run();
        let broken = [shop.start("panics").await, shop.start("fails").await];
        let mut sound = Vec::new();
        for n in 0..5 {
            sound.push(shop.start(&format!("order-{n}")).await);
        }
        for id in sound {
            shop.until(id, SagaState::Completed).await;
        }
        for (id, key) in broken.into_iter().zip(["panics", "fails"]) {
            let parked = shop.until(id, SagaState::Parked).await;
            assert_eq!(
                shop.remote
                    .whats(key)
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
        let shop = Shop::new(&db);
        shop.remote.trouble("panics", (0..9).map(|_| Trouble::Panic));
        shop.remote.trouble(
            "refuses",
            (0..9).map(|_| Trouble::Fail(Fault::conflict("version", "not that one"))),
        );
        let running = shop.run();
        for key in ["panics", "refuses"] {
            let id = shop.start(key).await;
            let parked = shop.until(id, SagaState::Parked).await;
            assert_eq!(shop.remote.heard(key).len(), 5, "{key}");
            assert_eq!(
                shop.decisions(key).await,
                0,
                "{key}: what a failed decision wrote is gone"
            );
            assert_eq!(parked.saga.failures, 5, "{key}");
        }
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_state_or_command_that_cannot_be_read_parks_the_saga_unsent() {
    on_both_with("orders", quick(), |db| async move {
        let shop = Shop::new(&db);
        let ids = [shop.start("state").await, shop.start("command").await];
        shop.meddle("payload = 'no json'", ids[0]).await;
        shop.meddle("command = '{}', step = 'reserve'", ids[1]).await;
        shop.meddle("command_id = id", ids[1]).await;
        let running = shop.run();
        for (id, key) in ids.into_iter().zip(["state", "command"]) {
            let parked = shop.until(id, SagaState::Parked).await;
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
            assert_eq!(shop.remote.whats(key), Vec::<String>::new());
        }
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_definition_that_cannot_decide_for_want_of_something_tries_again_without_limit() {
    on_both_with("orders", quick(), |db| async move {
        let shop = Shop::new(&db);
        let away = Fault::new(banyan_core::FaultKind::Unavailable, "unavailable", "away");
        shop.remote
            .trouble("order-1", (0..8).map(|_| Trouble::Fail(away.clone())));
        let running = shop.run();
        let id = shop.start("order-1").await;
        shop.until(id, SagaState::Completed).await;
        assert_eq!(shop.decisions("order-1").await, 4);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn bugs_that_pass_do_not_add_up_over_steps() {
    on_both_with("orders", quick(), |db| async move {
        let shop = Shop::new(&db);
        for step in ["reserve/do", "authorise/do", "capture/do"] {
            shop.remote
                .script("order-1", step, [bug(), bug(), unavailable(), bug()]);
        }
        let running = shop.run();
        let id = shop.start("order-1").await;
        let ended = shop.until(id, SagaState::Completed).await;
        assert_eq!(ended.saga.failures, 0);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_definition_may_ask_for_a_person_and_its_command_stays() {
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
            let shop = Shop::new(&db);
            shop.remote.script("order-1", "authorise/do", [crate::script::refuse()]);
            shop.remote.script("order-1", "reserve/undo", [crate::script::refuse()]);
            let running = shop.run();
            let id = shop.start("order-1").await;
            let parked = shop.until(id, SagaState::Parked).await;
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
        let shop = Shop::new(&db);
        let id = shop.start("order-1").await;
        let before = shop.show(id).await;
        let newer = Running::new(banyan_durable::Sagas::new(db.clone()).with(Script::<2> {
            db: db.clone(),
            remote: shop.remote.clone(),
        }));
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        assert_eq!(shop.show(id).await, before);
        let listed = shop
            .ops()
            .list(&SagaFilter::default(), &PageRequest::default())
            .await
            .unwrap();
        assert_eq!(listed.items, [before.saga]);
        newer.stop().await;

        let both = banyan_durable::Sagas::new(db.clone())
            .with(Script::<2> {
                db: db.clone(),
                remote: shop.remote.clone(),
            })
            .with(Script::<1> {
                db: db.clone(),
                remote: shop.remote.clone(),
            });
        let running = Running::new(both);
        shop.until(id, SagaState::Completed).await;
        assert!(
            shop.remote.sent("order-1").iter().all(|sent| sent.version == 1),
            "the version it was born with drives it"
        );
        running.stop().await;
    })
    .await;
}
