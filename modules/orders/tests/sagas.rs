//! Both sagas, driven by the real runner on real databases.

mod support;

use std::time::Duration;

use banyan_core::Actor;
use banyan_durable::SagaState;
use banyan_durable_testing::{eventually, on_both_with};
use orders::{Limits, Settings};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use shared_kernel::Role;
use uuid::Uuid;

use support::{
    Harness, STAFF,
    fakes::{Scripted, TIMEOUT},
    keyed, quick, settings,
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
        let harness = Harness::running(db).await;
        let order = harness.place().await;
        harness.until_status(order, "confirmed").await;
        let what = "the shipment is ready";
        eventually(what, TIMEOUT, || async { harness.modules.effects(order) == HELD }).await;
        assert_eq!(harness.modules.commands(order), STEPS);
        eventually("published", TIMEOUT, || async {
            harness.published(order) == ["OrderPlaced", "OrderConfirmed"]
        })
        .await;
        ended(&harness, "checkout", order, SagaState::Completed).await;
        let expected = [
            "placed",
            "payment_authorised",
            "shipment_scheduled",
            "capture_decided",
            "payment_captured",
            "confirmed",
            "shipment_ready",
        ];
        assert_eq!(harness.history(order).await, expected);
        let shown = harness.show(order).await;
        assert_eq!(
            (&shown["payment"]["status"], &shown["shipment"]["status"]),
            (&json!("captured"), &json!("ready"))
        );
        assert_eq!(shown["version"], 7);
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_lost_command_or_response_at_any_step_does_nothing_twice() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        for step in STEPS {
            harness.modules.script(
                step,
                [Scripted::ResponseLost, Scripted::CommandLost, Scripted::ResponseLost],
            );
            let order = harness.place().await;
            ended(&harness, "checkout", order, SagaState::Completed).await;
            assert_eq!(harness.modules.effects(order), HELD, "{step}");
            assert_eq!(harness.show(order).await["status"], "confirmed");
            assert_eq!(
                harness
                    .modules
                    .commands(order)
                    .iter()
                    .filter(|command| **command == step)
                    .count(),
                4,
                "{step}"
            );
        }
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_command_in_progress_is_repeated() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        for step in ["authorise_payment", "capture_payment"] {
            harness
                .modules
                .script(step, [Scripted::InProgress, Scripted::InProgress]);
            let order = harness.place().await;
            harness.until_status(order, "confirmed").await;
        }
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_refusal_cancels_the_order_and_undoes_what_came_before_it() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        for (step, reason, undone) in [
            ("reserve_stock", "out_of_stock", &[][..]),
            ("authorise_payment", "payment_declined", &["release_stock"]),
            (
                "capture_payment",
                "payment_declined",
                &["cancel_shipment", "void_payment", "release_stock"],
            ),
        ] {
            harness.modules.script(step, [Scripted::Refused]);
            let order = harness.place().await;
            let shown = harness.until_status(order, "cancelled").await;
            assert_eq!(shown["cancel_reason"], reason, "{step}");
            assert!(
                harness.modules.effects(order).is_empty(),
                "{step}: {:?}",
                harness.modules.effects(order)
            );
            let commands = harness.modules.commands(order);
            assert!(commands.ends_with(undone), "{step}: {commands:?}");
            eventually("published", TIMEOUT, || async {
                harness.published(order) == ["OrderPlaced", "OrderCancelled"]
            })
            .await;
            assert_eq!(harness.published_data(order, "OrderCancelled")["refunded"], json!(null));
            assert_eq!(
                harness.saga("checkout", order).await.unwrap().state,
                SagaState::Compensated
            );
        }
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn the_log_of_a_saga_contains_the_outcomes_as_json() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        harness.modules.script("authorise_payment", [Scripted::InProgress]);
        harness.modules.script("capture_payment", [Scripted::Refused]);
        let order = harness.place().await;
        harness.until_status(order, "cancelled").await;
        let id = harness.saga("checkout", order).await.unwrap().id;
        let reply = harness.offers.machinery.ops().sagas().show(id).await.unwrap();
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
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_cancel_before_the_pivot_undoes_everything_including_the_step_under_way() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        for step in BEFORE_PIVOT {
            let gate = harness.modules.gate(step);
            let order = harness.place().await;
            eventually(step, TIMEOUT, || async { harness.modules.was_called(order, step) }).await;
            let reply = harness.cancel(order).await;
            assert_eq!(
                (reply.status, &reply.json()["status"]),
                (200, &json!("pending")),
                "{}",
                reply.body
            );
            gate.add_permits(1);
            let shown = harness.until_status(order, "cancelled").await;
            assert_eq!(shown["cancel_reason"], "customer", "{step}");
            assert!(
                harness.modules.effects(order).is_empty(),
                "{step}: {:?}",
                harness.modules.effects(order)
            );
            assert!(!harness.modules.was_called(order, "capture_payment"), "{step}");
        }
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_cancel_wins_over_a_step_that_never_responds_and_its_late_copy_does_nothing() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        for step in BEFORE_PIVOT {
            harness.modules.script_always(step, Scripted::CommandLost);
            let order = harness.place().await;
            eventually(step, TIMEOUT, || async { harness.modules.was_called(order, step) }).await;
            harness.cancel(order).await;
            harness.until_status(order, "cancelled").await;
            harness.modules.clear_script();
            assert!(harness.modules.effects(order).is_empty(), "{step}");
        }
        harness.close().await;
    })
    .await;
}

/// The instance that runs the checkout remembers the order from before the cancel.
#[tokio::test]
async fn a_cancel_accepted_by_another_instance_undoes_everything() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let running = Harness::running(db.clone()).await;
        let other = Harness::open(db).await;
        for step in BEFORE_PIVOT {
            let gate = running.modules.gate(step);
            let order = running.place().await;
            eventually(step, TIMEOUT, || async { running.modules.was_called(order, step) }).await;
            assert_eq!(other.cancel(order).await.status, 200, "{step}");
            gate.add_permits(1);
            running.until_status(order, "cancelled").await;
            assert!(running.modules.effects(order).is_empty(), "{step}");
        }
        for step in BEFORE_PIVOT {
            running.modules.script_always(step, Scripted::CommandLost);
            let order = running.place().await;
            eventually(step, TIMEOUT, || async { running.modules.was_called(order, step) }).await;
            assert_eq!(other.cancel(order).await.status, 200, "{step}");
            running.until_status(order, "cancelled").await;
            running.modules.clear_script();
            assert!(running.modules.effects(order).is_empty(), "{step}");
        }
        running.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_cancel_after_the_pivot_is_kept_and_carried_out_when_the_checkout_has_ended() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        for step in ["capture_payment", "commit_stock", "ready_shipment"] {
            let gate = harness.modules.gate(step);
            let order = harness.place().await;
            eventually(step, TIMEOUT, || async { harness.modules.was_called(order, step) }).await;
            assert_eq!(harness.cancel(order).await.status, 200);
            assert!(
                harness.saga("cancellation", order).await.is_none(),
                "{step}: the checkout ends first"
            );
            gate.add_permits(1);
            let shown = harness.until_status(order, "cancelled").await;
            assert_eq!(
                (&shown["cancel_reason"], &shown["payment"]["status"]),
                (&json!("customer"), &json!("refunded")),
                "{step}"
            );
            assert!(
                harness.modules.effects(order).is_empty(),
                "{step}: {:?}",
                harness.modules.effects(order)
            );
            let commands = harness.modules.commands(order);
            assert!(
                commands.ends_with(&["ready_shipment", "cancel_shipment", "refund_remaining", "restock_order"]),
                "{step}: {commands:?}"
            );
            eventually("published", TIMEOUT, || async {
                harness.published(order) == ["OrderPlaced", "OrderConfirmed", "OrderCancelled"]
            })
            .await;
            assert_eq!(
                harness.published_data(order, "OrderCancelled")["refunded"]["amount"],
                398
            );
        }
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn the_deadline_undoes_a_checkout_that_has_not_decided_the_capture() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let short_deadline = Settings {
            checkout_deadline_s: 1,
            ..settings()
        };
        let mut harness = Harness::open_with(db, short_deadline, Limits::default()).await;
        harness.run();
        for (step, scripted) in [
            ("reserve_stock", Scripted::CommandLost),
            ("authorise_payment", Scripted::InProgress),
            ("schedule_shipment", Scripted::ResponseLost),
        ] {
            harness.modules.script_always(step, scripted);
            let order = harness.place().await;
            let shown = harness.until_status(order, "cancelled").await;
            assert_eq!(shown["cancel_reason"], "expired", "{step}");
            harness.modules.clear_script();
            assert!(
                harness.modules.effects(order).is_empty(),
                "{step}: {:?}",
                harness.modules.effects(order)
            );
        }
        // From the pivot on, the deadline does not matter.
        harness.modules.script_always("capture_payment", Scripted::ResponseLost);
        let order = harness.place().await;
        eventually("the capture", TIMEOUT, || async {
            harness.modules.was_called(order, "capture_payment")
        })
        .await;
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        harness.modules.clear_script();
        harness.until_status(order, "confirmed").await;
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_final_fault_is_undone_before_the_pivot_and_parks_the_saga_after_it() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        harness.modules.script("schedule_shipment", [Scripted::FinalFault]);
        let order = harness.place().await;
        let shown = harness.until_status(order, "cancelled").await;
        assert_eq!(shown["cancel_reason"], "operator");
        assert!(harness.modules.effects(order).is_empty());

        harness.modules.script("capture_payment", [Scripted::FinalFault]);
        let order = harness.place().await;
        let parked = || async {
            harness
                .saga("checkout", order)
                .await
                .is_some_and(|saga| saga.state == SagaState::Parked)
        };
        eventually("it is parked", TIMEOUT, parked).await;
        assert_eq!(harness.show(order).await["status"], "pending");
        let saga = harness.saga("checkout", order).await.unwrap();
        let ops = Actor::user(STAFF, [Role::Ops]);
        harness
            .offers
            .machinery
            .ops()
            .sagas()
            .retry(&ops, saga.id, "looked at it", None)
            .await
            .unwrap();
        harness.until_status(order, "confirmed").await;
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn an_operator_compensates_a_checkout_before_the_pivot_and_not_after_it() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        let ops = Actor::user(STAFF, [Role::Ops]);
        let sagas = harness.offers.machinery.ops().sagas();
        harness.modules.script_always("authorise_payment", Scripted::InProgress);
        let order = harness.place().await;
        eventually("the command is sent", TIMEOUT, || async {
            harness.modules.was_called(order, "authorise_payment")
        })
        .await;
        let saga = harness.saga("checkout", order).await.unwrap();
        sagas.compensate(&ops, saga.id, "stuck", None).await.unwrap();
        let shown = harness.until_status(order, "cancelled").await;
        assert_eq!(shown["cancel_reason"], "operator");
        harness.modules.clear_script();
        assert!(harness.modules.effects(order).is_empty());

        harness.modules.script_always("commit_stock", Scripted::CommandLost);
        let order = harness.place().await;
        eventually("the command is sent", TIMEOUT, || async {
            harness.modules.was_called(order, "commit_stock")
        })
        .await;
        let saga = harness.saga("checkout", order).await.unwrap();
        sagas.compensate(&ops, saga.id, "stuck", None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        harness.modules.clear_script();
        harness.until_status(order, "confirmed").await;
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_confirmed_order_can_be_cancelled_until_it_is_dispatched() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        let order = confirmed(&harness).await;
        harness
            .modules
            .script("refund_remaining", [Scripted::InProgress, Scripted::ResponseLost]);
        harness.modules.script("restock_order", [Scripted::ResponseLost]);
        let path = format!("/api/v1/orders/{order}/cancel");
        let reply = harness
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
        assert!(harness.modules.effects(order).is_empty());
        let audit = harness
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
        let again = harness.cancel(order).await;
        assert_eq!((again.status, again.code().as_str()), (409, "already_cancelled"));
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_dispatched_parcel_is_not_cancelled() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        // Shipping knows, although orders has not received the event yet: the cancel is refused.
        let order = confirmed(&harness).await;
        harness.modules.dispatch(order);
        let reply = harness.cancel(order).await;
        assert_eq!((reply.status, reply.code().as_str()), (409, "already_shipped"));
        assert!(!harness.history(order).await.contains(&"cancel_requested".to_owned()));

        // The lookup fails: the saga finds out, and nothing is undone.
        harness.modules.fail_shipment_lookups();
        let order = confirmed(&harness).await;
        harness.modules.dispatch(order);
        assert_eq!(harness.cancel(order).await.status, 200);
        let refused = || async { harness.history(order).await.contains(&"cancel_refused".to_owned()) };
        eventually("it is refused", TIMEOUT, refused).await;
        assert_eq!(harness.show(order).await["status"], "confirmed");
        assert!(!harness.modules.was_called(order, "refund_remaining"));
        let again = harness.cancel(order).await;
        assert_eq!((again.status, again.code().as_str()), (409, "already_shipped"));
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_declined_undo_is_sent_under_a_new_id_when_an_operator_retries_it() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        let ops = Actor::user(STAFF, [Role::Ops]);
        let sagas = harness.offers.machinery.ops().sagas();
        // Declined twice, with a command that is lost in between: an unknown outcome is repeated under the same id, a decline is stored under it.
        let declined_twice = || [Scripted::Refused, Scripted::CommandLost, Scripted::Refused];
        harness.modules.script("capture_payment", [Scripted::Refused]);
        harness.modules.script("void_payment", declined_twice());
        harness.modules.script("refund_remaining", declined_twice());
        let voided = harness.place().await;
        // The first order to send these commands gets the refusals, so the second is placed once the first is parked.
        ended(&harness, "checkout", voided, SagaState::Parked).await;
        let refunded = confirmed(&harness).await;
        harness.cancel(refunded).await;
        for (kind, order, end) in [
            ("checkout", voided, SagaState::Compensated),
            ("cancellation", refunded, SagaState::Completed),
        ] {
            for _ in 0..2 {
                ended(&harness, kind, order, SagaState::Parked).await;
                let saga = harness.saga(kind, order).await.unwrap();
                assert!(saga.parked_reason.unwrap().contains("The provider declined."));
                sagas
                    .retry(&ops, saga.id, "the provider will grant it now", None)
                    .await
                    .unwrap();
            }
            ended(&harness, kind, order, end).await;
            assert_eq!(harness.show(order).await["status"], "cancelled", "{kind}");
            assert!(
                harness.modules.effects(order).is_empty(),
                "{kind}: {:?}",
                harness.modules.effects(order)
            );
        }
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn an_order_whose_saga_is_abandoned_has_an_end() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db.clone()).await;
        let ops = Actor::user(STAFF, [Role::Ops]);
        let sagas = harness.offers.machinery.ops().sagas();
        for (kind, command) in [
            ("checkout", "void_payment"),
            ("checkout", "commit_stock"),
            ("cancellation", "refund_remaining"),
        ] {
            harness.modules.script_always(command, Scripted::FinalFault);
            if command == "void_payment" {
                harness.modules.script("capture_payment", [Scripted::Refused]);
            }
            let order = if kind == "cancellation" {
                confirmed(&harness).await
            } else {
                harness.place().await
            };
            if kind == "cancellation" {
                harness.cancel(order).await;
            }
            ended(&harness, kind, order, SagaState::Parked).await;
            let saga = harness.saga(kind, order).await.unwrap();
            assert_eq!(sagas.show(saga.id).await.unwrap().payload["order_id"], json!(order));
            sagas.abandon(&ops, saga.id, "settled by hand", None).await.unwrap();
            let shown = harness.show(order).await;
            assert_eq!(
                (&shown["status"], &shown["cancel_reason"]),
                (&json!("cancelled"), &json!("operator")),
                "{command}"
            );
            eventually("published", TIMEOUT, || async {
                harness.published(order).ends_with(&["OrderCancelled".to_owned()])
            })
            .await;
            let again = harness.cancel(order).await;
            assert_eq!((again.status, again.code().as_str()), (409, "already_cancelled"));
            harness.modules.clear_script();
        }

        // A saga that was abandoned before it could record an end.
        let gate = harness.modules.gate("reserve_stock");
        let order = harness.place().await;
        eventually("the command is sent", TIMEOUT, || async {
            harness.modules.was_called(order, "reserve_stock")
        })
        .await;
        let sql = format!("update saga set state = 'abandoned' where business_key = '{order}'");
        let abandoned = db.write(sql, |tx, sql| async move {
            tx.conn().execute_unprepared(&sql).await.map_err(banyan_durable::fault)
        });
        assert_eq!(abandoned.await.unwrap().rows_affected(), 1);
        let reply = harness.cancel(order).await;
        assert_eq!((reply.status, reply.code().as_str()), (409, "checkout_abandoned"));
        assert_eq!(
            harness.history(order).await,
            ["placed"],
            "no cancel is stored that no saga would carry out"
        );
        gate.add_permits(1);
        harness.close().await;
    })
    .await;
}

/// An order of Ada's whose checkout has ended.
async fn confirmed(harness: &Harness) -> Uuid {
    let order = harness.place().await;
    harness.until_status(order, "confirmed").await;
    ended(harness, "checkout", order, SagaState::Completed).await;
    order
}

async fn ended(harness: &Harness, kind: &str, order: Uuid, state: SagaState) {
    let what = format!("the {kind} of {order} is {state:?}");
    eventually(&what, TIMEOUT, || async {
        harness.saga(kind, order).await.is_some_and(|saga| saga.state == state)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancels_that_race_the_checkout_leave_all_or_nothing() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        let race = async |delay_ms: u64| {
            let order = harness.place().await;
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            let reply = harness.cancel(order).await;
            assert_eq!(reply.status, 200, "{}", reply.body);
            order
        };
        let orders = futures::future::join_all((0..40).map(|n| race(n * 2))).await;
        for order in orders {
            // Nothing was dispatched, so every cancel is carried out, early or late.
            let shown = harness.until_status(order, "cancelled").await;
            assert_eq!(shown["cancel_reason"], "customer");
            assert!(
                harness.modules.effects(order).is_empty(),
                "{:?}",
                harness.modules.effects(order)
            );
            let captured = harness.modules.was_called(order, "capture_payment");
            let expected = if captured {
                &["OrderPlaced", "OrderConfirmed", "OrderCancelled"][..]
            } else {
                &["OrderPlaced", "OrderCancelled"]
            };
            eventually("published", TIMEOUT, || async { harness.published(order) == expected }).await;
            assert_eq!(
                harness.saga("cancellation", order).await.is_some(),
                captured,
                "only a captured payment is refunded"
            );
        }
        harness.close().await;
    })
    .await;
}
