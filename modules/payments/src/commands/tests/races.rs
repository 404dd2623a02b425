//! Voids, captures and authorisations that meet, in every order, in one instance and in two.

use std::{sync::Arc, time::Duration};

use banyan_durable_testing::eventually;

use super::{Failure, Order, on_both, on_postgres};
use crate::{
    commands::record::{Recorded, record, record_webhook},
    provider::Response,
    store,
};

const SOON: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_void_before_its_authorisation_leaves_a_tombstone() {
    on_both(|home| async move {
        let (shop, order) = (home.open().await, Order::new());
        assert_eq!(order.void(&shop).await, "voided");
        assert_eq!(order.authorise(&shop).await, "undone");
        assert_eq!(order.authorise(&shop).await, "undone");
        assert_eq!(order.void(&shop).await, "voided");
        assert_eq!(shop.status(&order).await, "none");
        assert_eq!(shop.effects().await, [0, 0, 0, 0]);
        shop.crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_void_of_an_authorisation_under_way_is_carried_out_when_the_outcome_is_known() {
    on_both(|home| async move {
        let shop = home.open_impatient().await;
        for (times, failure) in [(1, Failure::RequestHangs), (2, Failure::ResponseHangs)] {
            let order = Order::new();
            shop.provider.fail_next(failure);
            assert_eq!(order.authorise(&shop).await, "in_progress");
            assert_eq!(order.void(&shop).await, "in_progress");
            assert_eq!(order.void(&shop).await, "in_progress", "a repeated void waits too");
            assert_eq!(order.capture(&shop).await, "payment_voided", "the void came first");
            shop.provider.repair();
            eventually("the void follows by itself", SOON, || async {
                shop.status(&order).await == "voided"
            })
            .await;
            assert_eq!(order.void(&shop).await, "voided");
            assert_eq!(shop.effects().await, [times, 0, times, 0]);
        }
        shop.assert_books_agree().await;
        shop.crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_void_of_a_declined_authorisation_has_nothing_to_do() {
    on_both(|home| async move {
        let (shop, order) = (home.open_impatient().await, Order::paying_by("pm_card_declined"));
        shop.provider.fail_next(Failure::ResponseHangs);
        assert_eq!(order.authorise(&shop).await, "in_progress");
        assert_eq!(order.void(&shop).await, "in_progress");
        shop.provider.repair();
        assert_eq!(Order::until_known(|| order.void(&shop)).await, "voided");
        assert_eq!(order.authorise(&shop).await, "card_declined");
        assert_eq!(shop.status(&order).await, "declined");
        assert_eq!(shop.effects().await, [0, 0, 0, 0]);
        shop.crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_capture_after_a_void_changes_nothing() {
    on_both(|home| async move {
        let (shop, order) = (home.open().await, Order::new());
        assert_eq!(order.authorise(&shop).await, "authorised");
        assert_eq!(order.void(&shop).await, "voided");
        assert_eq!(order.capture(&shop).await, "payment_voided");
        assert_eq!(shop.status(&order).await, "voided");
        assert_eq!(shop.effects().await, [1, 0, 1, 0]);
        shop.assert_books_agree().await;
        shop.crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_void_that_meets_a_capture_on_its_way_does_as_the_capture_ends() {
    on_both(|home| async move {
        let shop = home.open_impatient().await;
        for (method, captured, voided, status) in [
            ("pm_card_visa", "captured", "already_captured", "captured"),
            ("pm_card_capture_declined", "capture_declined", "voided", "voided"),
        ] {
            let order = Order::paying_by(method);
            assert_eq!(Order::until_known(|| order.authorise(&shop)).await, "authorised");
            shop.provider.fail_next(Failure::ResponseHangs);
            assert_eq!(order.capture(&shop).await, "in_progress");
            assert_eq!(order.void(&shop).await, "in_progress");
            shop.provider.repair();
            assert_eq!(Order::until_known(|| order.capture(&shop)).await, captured);
            assert_eq!(Order::until_known(|| order.void(&shop)).await, voided);
            assert_eq!(shop.status(&order).await, status);
        }
        assert_eq!(shop.effects().await, [2, 1, 1, 0]);
        shop.assert_books_agree().await;
        shop.crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_reported_twice_is_recorded_once() {
    on_both(|home| async move {
        let (shop, order) = (home.open_impatient().await, Order::new());
        shop.provider.fail_next(Failure::ResponseHangs);
        assert_eq!(order.authorise(&shop).await, "in_progress");
        let command = order.command("authorise").parse().unwrap();
        let response = Response::Accepted {
            id: "auth_by_webhook".into(),
        };
        assert!(matches!(
            record_webhook(&shop.db, command, response.clone()).await.unwrap(),
            Recorded::Now { void: None, .. }
        ));
        let repeated = record_webhook(&shop.db, command, response.clone()).await;
        assert_eq!(repeated.unwrap(), Recorded::Before);
        assert_eq!(
            record(&shop.db, command, response, None).await.unwrap(),
            Recorded::Before
        );
        let declined = Response::Declined {
            code: "too_late".into(),
            detail: "It was accepted.".into(),
        };
        assert_eq!(
            record(&shop.db, command, declined, None).await.unwrap(),
            Recorded::Before
        );
        shop.provider.repair();
        assert_eq!(order.authorise(&shop).await, "authorised");
        let unknown = uuid::Uuid::new_v4();
        assert_eq!(
            record(&shop.db, unknown, Response::Accepted { id: "x".into() }, None)
                .await
                .unwrap(),
            Recorded::Unknown
        );
        eventually("one event is published", SOON, || async {
            banyan_durable_testing::published(&shop.db).await.len() == 1
        })
        .await;
        shop.crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_reported_twice_at_the_same_time_is_recorded_once() {
    on_postgres(|home| async move {
        let (shop, order) = (home.open_impatient().await, Order::new());
        shop.provider.fail_next(Failure::ResponseHangs);
        assert_eq!(order.authorise(&shop).await, "in_progress");
        let command = order.command("authorise").parse().unwrap();
        let db = shop.db.clone();
        // Both have seen that the command is open, and wait to write its outcome.
        let holding = shop.db.write(db, move |tx, db| async move {
            store::lock_command(&tx, command).await;
            let both = [(); 2].map(|()| {
                let db = db.clone();
                tokio::spawn(async move { record(&db, command, Response::Accepted { id: "auth".into() }, None).await })
            });
            eventually("both wait", SOON, || async {
                store::count_waiting(db.read()).await == 2
            })
            .await;
            Ok(both)
        });
        let [one, other] = holding.await.unwrap();
        let recorded = [one.await.unwrap().unwrap(), other.await.unwrap().unwrap()];
        assert!(
            recorded
                .iter()
                .any(|recorded| matches!(recorded, Recorded::Now { void: None, .. }))
                && recorded.contains(&Recorded::Before),
            "{recorded:?}"
        );
        shop.crash().await;
    })
    .await;
}

/// Which of the two comes first is up to the scheduler; thirty orders meet most interleavings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_void_racing_its_authorisation_leaves_nothing_blocked() {
    on_both(|home| async move {
        let shop = Arc::new(home.open().await);
        let races = (0..30).map(|at| {
            let shop = shop.clone();
            tokio::spawn(async move {
                let order = Order::paying_by(if at % 5 == 0 {
                    "pm_card_declined"
                } else {
                    "pm_card_visa"
                });
                let (by_saga, by_operator) = (order.clone(), order.clone());
                let (ours, theirs) = (shop.clone(), shop.clone());
                let authorised = tokio::spawn(async move { Order::until_known(|| by_saga.authorise(&ours)).await });
                tokio::time::sleep(Duration::from_millis(at % 7)).await;
                let voided = tokio::spawn(async move { Order::until_known(|| by_operator.void(&theirs)).await });
                assert_eq!(voided.await.unwrap(), "voided");
                let authorised = authorised.await.unwrap();
                assert!(
                    ["authorised", "undone", "card_declined"].contains(&authorised.as_str()),
                    "{authorised}"
                );
                let status = shop.status(&order).await;
                assert!(["voided", "none", "declined"].contains(&status.as_str()), "{status}");
            })
        });
        for race in races.collect::<Vec<_>>() {
            race.await.unwrap();
        }
        let [authorisations, captures, voids, refunds] = shop.effects().await;
        assert_eq!((authorisations, captures, refunds), (voids, 0, 0));
        shop.assert_books_agree().await;
        Arc::into_inner(shop).unwrap().crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_commands_at_two_instances_take_effect_once() {
    on_postgres(|home| async move {
        let shops = [Arc::new(home.open().await), Arc::new(home.open().await)];
        let times = 12;
        let races = (0..times).map(|_| {
            let shops = shops.clone();
            tokio::spawn(async move {
                let order = Order::new();
                let [one, other] = &shops;
                let both = tokio::join!(
                    Order::until_known(|| order.authorise(one)),
                    Order::until_known(|| order.authorise(other))
                );
                assert_eq!(both, ("authorised".into(), "authorised".into()));
                let both = tokio::join!(
                    Order::until_known(|| order.capture(one)),
                    Order::until_known(|| order.capture(other))
                );
                assert_eq!(both, ("captured".into(), "captured".into()));
                let both = tokio::join!(
                    Order::until_known(|| order.refund(one)),
                    Order::until_known(|| order.refund(other))
                );
                assert_eq!(both, ("refunded 10000".into(), "refunded 10000".into()));
            })
        });
        for race in races.collect::<Vec<_>>() {
            race.await.unwrap();
        }
        assert_eq!(shops[0].effects().await, [times, times, 0, times]);
        shops[1].assert_books_agree().await;
        assert_eq!(
            banyan_durable_testing::published(&shops[0].db).await.len(),
            usize::try_from(times).unwrap() * 3,
            "one event per effect"
        );
        for shop in shops {
            Arc::into_inner(shop).unwrap().crash().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_void_in_one_instance_and_the_authorisation_in_another_leave_nothing_blocked() {
    on_postgres(|home| async move {
        let shops = [Arc::new(home.open().await), Arc::new(home.open().await)];
        let races = (0..20_u64).map(|at| {
            let [one, other] = shops.clone();
            tokio::spawn(async move {
                let order = Order::new();
                let late = async {
                    tokio::time::sleep(Duration::from_millis(at % 5)).await;
                    Order::until_known(|| order.void(&other)).await
                };
                let (authorised, voided) = tokio::join!(Order::until_known(|| order.authorise(&one)), late);
                assert!(["authorised", "undone"].contains(&authorised.as_str()), "{authorised}");
                assert_eq!(voided, "voided");
            })
        });
        for race in races.collect::<Vec<_>>() {
            race.await.unwrap();
        }
        let [authorisations, _, voids, _] = shops[0].effects().await;
        assert_eq!(authorisations, voids);
        shops[0].assert_books_agree().await;
        for shop in shops {
            Arc::into_inner(shop).unwrap().crash().await;
        }
    })
    .await;
}

/// The instance that authorised the payment remembers it as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_another_instance_voided_is_not_captured() {
    on_postgres(|home| async move {
        let (one, other) = (home.open().await, home.open().await);
        let order = Order::new();
        assert_eq!(order.authorise(&one).await, "authorised");
        assert_eq!(order.void(&other).await, "voided");
        assert_eq!(order.capture(&one).await, "payment_voided");
        assert_eq!(one.effects().await, [1, 0, 1, 0]);
        for shop in [one, other] {
            shop.crash().await;
        }
    })
    .await;
}
