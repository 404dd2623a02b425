//! Both sagas, driven by the real runner on real databases.

use std::time::Duration;

use banyan_core::Actor;
use banyan_durable::SagaState;
use banyan_durable_testing::{eventually, on_both_with};
use orders::Settings;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use shared_kernel::Role;
use uuid::Uuid;

use crate::{
    house::{House, STAFF, keyed, quick},
    neighbours::{LIMIT, Meets},
};

const STEPS: [&str; 6] = [
    "reserve_stock",
    "authorise_payment",
    "schedule_shipment",
    "capture_payment",
    "commit_stock",
    "ready_shipment",
];
const BEFORE_PIVOT: [&str; 3] = ["reserve_stock", "authorise_payment", "schedule_shipment"];

/// What the modules hold for a confirmed order.
const HELD: [&str; 3] = ["captured", "committed", "ready"];

#[tokio::test]
async fn a_placed_order_goes_through_every_step_and_is_confirmed() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let house = House::running(db).await;
        let order = house.place().await;
        house.until_status(order, "confirmed").await;
        let what = "the shipment is ready";
        eventually(what, LIMIT, || async { house.town.effects(order) == HELD }).await;
        assert_eq!(house.town.commands(order), STEPS);
        eventually("told", LIMIT, || async {
            house.told(order) == ["OrderPlaced", "OrderConfirmed"]
        })
        .await;
        ended(&house, "checkout", order, SagaState::Completed).await;
        let expected = [
            "placed",
            "payment_authorised",
            "shipment_scheduled",
            "capture_decided",
            "payment_captured",
            "confirmed",
            "shipment_ready",
        ];
        assert_eq!(house.history(order).await, expected);
        let shown = house.show(order).await;
        assert_eq!(
            (&shown["payment"]["status"], &shown["shipment"]["status"]),
            (&json!("captured"), &json!("ready"))
        );
        assert_eq!(shown["version"], 7);
        house.close().await;
    })
    .await;
}

#[tokio::test]
async fn an_answer_or_a_command_that_is_lost_at_any_step_does_nothing_twice() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let house = House::running(db).await;
        for step in STEPS {
            house
                .town
                .let_meet(step, [Meets::LostAnswer, Meets::LostCommand, Meets::LostAnswer]);
            let order = house.place().await;
            ended(&house, "checkout", order, SagaState::Completed).await;
            assert_eq!(house.town.effects(order), HELD, "{step}");
            assert_eq!(house.show(order).await["status"], "confirmed");
            assert_eq!(
                house
                    .town
                    .commands(order)
                    .iter()
                    .filter(|command| **command == step)
                    .count(),
                4,
                "{step}"
            );
        }
        house.close().await;
    })
    .await;
}

#[tokio::test]
async fn what_is_still_at_work_is_asked_again() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let house = House::running(db).await;
        for step in ["authorise_payment", "capture_payment"] {
            house.town.let_meet(step, [Meets::InProgress, Meets::InProgress]);
            let order = house.place().await;
            house.until_status(order, "confirmed").await;
        }
        house.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_refusal_cancels_the_order_and_undoes_what_came_before_it() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let house = House::running(db).await;
        for (step, reason, undone) in [
            ("reserve_stock", "out_of_stock", &[][..]),
            ("authorise_payment", "payment_declined", &["release_stock"]),
            (
                "capture_payment",
                "payment_declined",
                &["cancel_shipment", "void_payment", "release_stock"],
            ),
        ] {
            house.town.let_meet(step, [Meets::Refusal]);
            let order = house.place().await;
            let shown = house.until_status(order, "cancelled").await;
            assert_eq!(shown["cancel_reason"], reason, "{step}");
            assert!(
                house.town.effects(order).is_empty(),
                "{step}: {:?}",
                house.town.effects(order)
            );
            let commands = house.town.commands(order);
            assert!(commands.ends_with(undone), "{step}: {commands:?}");
            eventually("told", LIMIT, || async {
                house.told(order) == ["OrderPlaced", "OrderCancelled"]
            })
            .await;
            assert_eq!(house.told_data(order, "OrderCancelled")["refunded"], json!(null));
            assert_eq!(
                house.saga("checkout", order).await.unwrap().state,
                SagaState::Compensated
            );
        }
        house.close().await;
    })
    .await;
}

#[tokio::test]
async fn the_log_of_a_saga_says_what_was_answered_as_json() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let house = House::running(db).await;
        house.town.let_meet("authorise_payment", [Meets::InProgress]);
        house.town.let_meet("capture_payment", [Meets::Refusal]);
        let order = house.place().await;
        house.until_status(order, "cancelled").await;
        let id = house.saga("checkout", order).await.unwrap().id;
        let reply = house.offers.machinery.ops().sagas().show(id).await.unwrap();
        assert_eq!(
            (&reply.payload["order_id"], &reply.payload["reason"]),
            (&json!(order), &json!("payment_declined"))
        );
        let all = serde_json::to_string(&reply).unwrap();
        for personal in ["Ada", "London", "pm_card", "fig"] {
            assert!(!all.contains(personal), "{personal} is shown to operators: {all}");
        }
        let news = reply.log.iter().filter(|entry| entry.entry == "news");
        let news: Vec<(&str, Value)> = news
            .map(|entry| (entry.step.as_str(), serde_json::from_str(&entry.detail).unwrap()))
            .collect();
        let outcomes: Vec<_> = news
            .iter()
            .map(|(step, news)| (*step, news["outcome"].as_str().unwrap_or_default()))
            .collect();
        let undone = [
            ("schedule_shipment", "done"),
            ("authorise_payment", "done"),
            ("reserve_stock", "done"),
        ];
        assert_eq!(
            outcomes[..2],
            [("reserve_stock", "done"), ("authorise_payment", "in_progress")]
        );
        assert_eq!(
            outcomes[outcomes.len() - 4..],
            [&[("capture_payment", "refused")][..], &undone].concat()
        );
        let of = |outcome: &str| &news.iter().find(|(_, news)| news["outcome"] == outcome).unwrap().1["detail"];
        assert_eq!(
            (of("refused"), of("in_progress")["retry_after_ms"].is_u64()),
            (&json!("payment_declined"), true)
        );
        let scheduled = news.iter().find(|(step, _)| *step == "schedule_shipment").unwrap();
        assert_eq!(scheduled.1["means"]["type"], "shipment_scheduled");
        house.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_cancel_before_the_pivot_undoes_everything_also_the_step_under_way() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let house = House::running(db).await;
        for step in BEFORE_PIVOT {
            let gate = house.town.gate(step);
            let order = house.place().await;
            eventually(step, LIMIT, || async { house.town.was_asked(order, step) }).await;
            let reply = house.cancel(order).await;
            assert_eq!(
                (reply.status, &reply.json()["status"]),
                (200, &json!("pending")),
                "{}",
                reply.body
            );
            gate.add_permits(1);
            let shown = house.until_status(order, "cancelled").await;
            assert_eq!(shown["cancel_reason"], "customer", "{step}");
            assert!(
                house.town.effects(order).is_empty(),
                "{step}: {:?}",
                house.town.effects(order)
            );
            assert!(!house.town.was_asked(order, "capture_payment"), "{step}");
        }
        house.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_cancel_wins_over_a_step_that_never_answers_and_its_late_copy_does_nothing() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let house = House::running(db).await;
        for step in BEFORE_PIVOT {
            house.town.let_always_meet(step, Meets::LostCommand);
            let order = house.place().await;
            eventually(step, LIMIT, || async { house.town.was_asked(order, step) }).await;
            house.cancel(order).await;
            house.until_status(order, "cancelled").await;
            house.town.calm();
            assert!(house.town.effects(order).is_empty(), "{step}");
        }
        house.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_cancel_after_the_pivot_is_kept_and_carried_out_when_the_checkout_has_ended() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let house = House::running(db).await;
        for step in ["capture_payment", "commit_stock", "ready_shipment"] {
            let gate = house.town.gate(step);
            let order = house.place().await;
            eventually(step, LIMIT, || async { house.town.was_asked(order, step) }).await;
            assert_eq!(house.cancel(order).await.status, 200);
            assert!(
                house.saga("cancellation", order).await.is_none(),
                "{step}: the checkout goes first"
            );
            gate.add_permits(1);
            let shown = house.until_status(order, "cancelled").await;
            assert_eq!(
                (&shown["cancel_reason"], &shown["payment"]["status"]),
                (&json!("customer"), &json!("refunded")),
                "{step}"
            );
            assert!(
                house.town.effects(order).is_empty(),
                "{step}: {:?}",
                house.town.effects(order)
            );
            let commands = house.town.commands(order);
            assert!(
                commands.ends_with(&["ready_shipment", "cancel_shipment", "refund_remaining", "restock_order"]),
                "{step}: {commands:?}"
            );
            eventually("told", LIMIT, || async {
                house.told(order) == ["OrderPlaced", "OrderConfirmed", "OrderCancelled"]
            })
            .await;
            assert_eq!(house.told_data(order, "OrderCancelled")["refunded"]["amount"], 398);
        }
        house.close().await;
    })
    .await;
}

#[tokio::test]
async fn the_deadline_ends_a_checkout_that_has_not_decided_to_take_the_money() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let settings = Settings {
            checkout_deadline_s: 1,
            ..Settings::default()
        };
        let mut house = House::open_with(db, settings).await;
        house.run();
        for (step, meets) in [
            ("reserve_stock", Meets::LostCommand),
            ("authorise_payment", Meets::InProgress),
            ("schedule_shipment", Meets::LostAnswer),
        ] {
            house.town.let_always_meet(step, meets);
            let order = house.place().await;
            let shown = house.until_status(order, "cancelled").await;
            assert_eq!(shown["cancel_reason"], "expired", "{step}");
            house.town.calm();
            assert!(
                house.town.effects(order).is_empty(),
                "{step}: {:?}",
                house.town.effects(order)
            );
        }
        // From the pivot on time does not matter.
        house.town.let_always_meet("capture_payment", Meets::LostAnswer);
        let order = house.place().await;
        eventually("the capture", LIMIT, || async {
            house.town.was_asked(order, "capture_payment")
        })
        .await;
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        house.town.calm();
        house.until_status(order, "confirmed").await;
        house.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_fault_for_good_is_undone_before_the_pivot_and_parked_after_it() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let house = House::running(db).await;
        house.town.let_meet("schedule_shipment", [Meets::FaultForGood]);
        let order = house.place().await;
        let shown = house.until_status(order, "cancelled").await;
        assert_eq!(shown["cancel_reason"], "operator");
        assert!(house.town.effects(order).is_empty());

        house.town.let_meet("capture_payment", [Meets::FaultForGood]);
        let order = house.place().await;
        let parked = || async {
            house
                .saga("checkout", order)
                .await
                .is_some_and(|saga| saga.state == SagaState::Parked)
        };
        eventually("it is parked", LIMIT, parked).await;
        assert_eq!(house.show(order).await["status"], "pending");
        let saga = house.saga("checkout", order).await.unwrap();
        let ops = Actor::user(STAFF, [Role::Ops]);
        house
            .offers
            .machinery
            .ops()
            .sagas()
            .retry(&ops, saga.id, "looked at it", None)
            .await
            .unwrap();
        house.until_status(order, "confirmed").await;
        house.close().await;
    })
    .await;
}

#[tokio::test]
async fn an_operator_turns_a_checkout_back_before_the_pivot_and_not_after_it() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let house = House::running(db).await;
        let ops = Actor::user(STAFF, [Role::Ops]);
        let sagas = house.offers.machinery.ops().sagas();
        house.town.let_always_meet("authorise_payment", Meets::InProgress);
        let order = house.place().await;
        eventually("asked", LIMIT, || async {
            house.town.was_asked(order, "authorise_payment")
        })
        .await;
        let saga = house.saga("checkout", order).await.unwrap();
        sagas.compensate(&ops, saga.id, "stuck", None).await.unwrap();
        let shown = house.until_status(order, "cancelled").await;
        assert_eq!(shown["cancel_reason"], "operator");
        house.town.calm();
        assert!(house.town.effects(order).is_empty());

        house.town.let_always_meet("commit_stock", Meets::LostCommand);
        let order = house.place().await;
        eventually("asked", LIMIT, || async { house.town.was_asked(order, "commit_stock") }).await;
        let saga = house.saga("checkout", order).await.unwrap();
        sagas.compensate(&ops, saga.id, "stuck", None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        house.town.calm();
        house.until_status(order, "confirmed").await;
        house.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_confirmed_order_can_be_cancelled_until_it_leaves() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let house = House::running(db).await;
        let order = confirmed(&house).await;
        house
            .town
            .let_meet("refund_remaining", [Meets::InProgress, Meets::LostAnswer]);
        house.town.let_meet("restock_order", [Meets::LostAnswer]);
        let path = format!("/api/v1/orders/{order}/cancel");
        let reply = house
            .as_staff(
                keyed(&path)
                    .set_json(json!({ "reason": "fraud" }))
                    .insert_header(("Prefer", "wait=20")),
            )
            .await;
        assert_eq!(
            (reply.status, &reply.json()["status"]),
            (200, &json!("cancelled")),
            "{}",
            reply.body
        );
        assert_eq!(reply.json()["cancel_reason"], "operator");
        assert!(house.town.effects(order).is_empty());
        let audit = house
            .offers
            .machinery
            .ops()
            .list_audit(&Default::default())
            .await
            .unwrap();
        assert_eq!(
            (audit.items[0].action.as_str(), audit.items[0].reason.as_str()),
            ("cancel_order", "fraud")
        );
        let again = house.cancel(order).await;
        assert_eq!((again.status, again.code().as_str()), (409, "already_cancelled"));
        house.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_parcel_that_has_left_is_not_cancelled() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let house = House::running(db).await;
        // Shipping knows, although orders has not heard of it yet: no promise is made.
        let order = confirmed(&house).await;
        house.town.dispatch(order);
        let reply = house.cancel(order).await;
        assert_eq!((reply.status, reply.code().as_str()), (409, "already_shipped"));
        assert!(!house.history(order).await.contains(&"cancel_requested".to_owned()));

        // Shipping does not say: the saga meets it, and nothing is undone.
        house.town.shipping_does_not_say();
        let order = confirmed(&house).await;
        house.town.dispatch(order);
        assert_eq!(house.cancel(order).await.status, 200);
        let refused = || async { house.history(order).await.contains(&"cancel_refused".to_owned()) };
        eventually("it is refused", LIMIT, refused).await;
        assert_eq!(house.show(order).await["status"], "confirmed");
        assert!(!house.town.was_asked(order, "refund_remaining"));
        let again = house.cancel(order).await;
        assert_eq!((again.status, again.code().as_str()), (409, "already_shipped"));
        house.close().await;
    })
    .await;
}

#[tokio::test]
async fn an_undo_that_was_declined_is_asked_anew_when_an_operator_retries_it() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let house = House::running(db).await;
        let ops = Actor::user(STAFF, [Role::Ops]);
        let sagas = house.offers.machinery.ops().sagas();
        // Declined twice, with an answer that is lost in between: unknown is asked under the same id, a decline is remembered under it.
        let meets = || [Meets::Refusal, Meets::LostCommand, Meets::Refusal];
        house.town.let_meet("capture_payment", [Meets::Refusal]);
        house.town.let_meet("void_payment", meets());
        house.town.let_meet("refund_remaining", meets());
        let voided = house.place().await;
        // The refusals are for this order alone, and whoever comes first meets them.
        ended(&house, "checkout", voided, SagaState::Parked).await;
        let refunded = confirmed(&house).await;
        house.cancel(refunded).await;
        for (kind, order, end) in [
            ("checkout", voided, SagaState::Compensated),
            ("cancellation", refunded, SagaState::Completed),
        ] {
            for _ in 0..2 {
                ended(&house, kind, order, SagaState::Parked).await;
                let saga = house.saga(kind, order).await.unwrap();
                assert!(saga.parked_reason.unwrap().contains("The provider declined."));
                sagas
                    .retry(&ops, saga.id, "the provider was told to grant it", None)
                    .await
                    .unwrap();
            }
            ended(&house, kind, order, end).await;
            assert_eq!(house.show(order).await["status"], "cancelled", "{kind}");
            assert!(
                house.town.effects(order).is_empty(),
                "{kind}: {:?}",
                house.town.effects(order)
            );
        }
        house.close().await;
    })
    .await;
}

#[tokio::test]
async fn an_order_whose_saga_is_given_up_has_an_end() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let house = House::running(db.clone()).await;
        let ops = Actor::user(STAFF, [Role::Ops]);
        let sagas = house.offers.machinery.ops().sagas();
        for (kind, command) in [
            ("checkout", "void_payment"),
            ("checkout", "commit_stock"),
            ("cancellation", "refund_remaining"),
        ] {
            house.town.let_always_meet(command, Meets::FaultForGood);
            if command == "void_payment" {
                house.town.let_meet("capture_payment", [Meets::Refusal]);
            }
            let order = if kind == "cancellation" {
                confirmed(&house).await
            } else {
                house.place().await
            };
            if kind == "cancellation" {
                house.cancel(order).await;
            }
            ended(&house, kind, order, SagaState::Parked).await;
            let saga = house.saga(kind, order).await.unwrap();
            assert_eq!(sagas.show(saga.id).await.unwrap().payload["order_id"], json!(order));
            sagas.abandon(&ops, saga.id, "settled by hand", None).await.unwrap();
            let shown = house.show(order).await;
            assert_eq!(
                (&shown["status"], &shown["cancel_reason"]),
                (&json!("cancelled"), &json!("operator")),
                "{command}"
            );
            eventually("told", LIMIT, || async {
                house.told(order).ends_with(&["OrderCancelled".to_owned()])
            })
            .await;
            let again = house.cancel(order).await;
            assert_eq!((again.status, again.code().as_str()), (409, "already_cancelled"));
            house.town.calm();
        }

        // One that was given up before it could record an end.
        let gate = house.town.gate("reserve_stock");
        let order = house.place().await;
        eventually("asked", LIMIT, || async {
            house.town.was_asked(order, "reserve_stock")
        })
        .await;
        let sql = format!("update saga set state = 'abandoned' where business_key = '{order}'");
        let given_up = db.write(sql, |tx, sql| async move {
            tx.conn().execute_unprepared(&sql).await.map_err(banyan_durable::fault)
        });
        assert_eq!(given_up.await.unwrap().rows_affected(), 1);
        let reply = house.cancel(order).await;
        assert_eq!((reply.status, reply.code().as_str()), (409, "checkout_abandoned"));
        assert_eq!(
            house.history(order).await,
            ["placed"],
            "no cancel is stored that nobody would carry out"
        );
        gate.add_permits(1);
        house.close().await;
    })
    .await;
}

/// An order of Ada's whose checkout has ended.
async fn confirmed(house: &House) -> Uuid {
    let order = house.place().await;
    house.until_status(order, "confirmed").await;
    ended(house, "checkout", order, SagaState::Completed).await;
    order
}

async fn ended(house: &House, kind: &str, order: Uuid, state: SagaState) {
    let what = format!("the {kind} of {order} is {state:?}");
    eventually(&what, LIMIT, || async {
        house.saga(kind, order).await.is_some_and(|saga| saga.state == state)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancels_that_race_the_checkout_at_any_moment_leave_all_or_nothing() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let house = House::running(db).await;
        let race = async |delay_ms: u64| {
            let order = house.place().await;
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            let reply = house.cancel(order).await;
            assert_eq!(reply.status, 200, "{}", reply.body);
            order
        };
        let orders = futures::future::join_all((0..40).map(|n| race(n * 2))).await;
        for order in orders {
            // Nothing has left the house, so every cancel is carried out, early or late.
            let shown = house.until_status(order, "cancelled").await;
            assert_eq!(shown["cancel_reason"], "customer");
            assert!(house.town.effects(order).is_empty(), "{:?}", house.town.effects(order));
            let captured = house.town.was_asked(order, "capture_payment");
            let told = if captured {
                &["OrderPlaced", "OrderConfirmed", "OrderCancelled"][..]
            } else {
                &["OrderPlaced", "OrderCancelled"]
            };
            eventually("told", LIMIT, || async { house.told(order) == told }).await;
            assert_eq!(
                house.saga("cancellation", order).await.is_some(),
                captured,
                "money that was taken goes back, and no other"
            );
        }
        house.close().await;
    })
    .await;
}
