//! Shipping through its contract, on both databases.

use std::sync::Arc;

use banyan_core::{Actor, Call, FaultKind, OPERATOR, RandomIds, SystemClock};
use banyan_durable::Db;
use banyan_durable_testing::{audited, on_both, published};
use banyan_http_testing::{Site, post};
use shared_kernel::Role;
use shipping::{Needs, Offers, start};
use shipping_contract::{
    Address, CancelShipment, FindShipment, ReadyShipment, ScheduleShipment, ShipmentLine, Shipping, schedule,
    shipment_cancellation,
};
use uuid::Uuid;

async fn open(db: Db) -> Offers {
    start(Needs {
        db,
        clock: Arc::new(SystemClock),
        ids: Arc::new(RandomIds),
    })
    .await
    .expect("shipping starts")
}

fn saga() -> Call {
    Call::by_module("orders")
}

fn id() -> String {
    Uuid::new_v4().to_string()
}

fn schedule(order: &str) -> ScheduleShipment {
    ScheduleShipment {
        command_id: id(),
        order_id: order.to_owned(),
        user_id: id(),
        address: Some(Address {
            name: "Ada".into(),
            line1: "Fig Lane 1".into(),
            line2: None,
            city: "Berlin".into(),
            postal_code: "10115".into(),
            region: None,
            phone: None,
            country: "DE".into(),
        }),
        lines: vec![ShipmentLine {
            sku: "fig".into(),
            quantity: 2,
        }],
    }
}

fn undo_of(scheduled: &ScheduleShipment) -> CancelShipment {
    CancelShipment {
        command_id: id(),
        undoes: scheduled.command_id.clone(),
        order_id: scheduled.order_id.clone(),
        ..CancelShipment::default()
    }
}

fn cancel(order: &str) -> CancelShipment {
    CancelShipment {
        command_id: id(),
        order_id: order.to_owned(),
        ..CancelShipment::default()
    }
}

fn ready(order: &str) -> ReadyShipment {
    ReadyShipment {
        command_id: id(),
        order_id: order.to_owned(),
    }
}

async fn status(shipping: &dyn Shipping, order: &str) -> Option<String> {
    let found = shipping
        .find_shipment(
            &saga(),
            FindShipment {
                order_id: order.to_owned(),
            },
        )
        .await
        .unwrap();
    found.shipment.map(|shipment| shipment.status)
}

async fn events(db: &Db) -> Vec<String> {
    published(db)
        .await
        .iter()
        .map(|envelope| envelope.kind.rsplit('.').next().unwrap().to_owned())
        .collect()
}

fn was_cancelled(cancellation: &shipping_contract::ShipmentCancellation) -> bool {
    matches!(cancellation.outcome, Some(shipment_cancellation::Outcome::Cancelled(_)))
}

/// As staff does it.
async fn dispatch(offers: &Offers, order: &str) {
    let found = offers
        .contract
        .find_shipment(
            &saga(),
            FindShipment {
                order_id: order.to_owned(),
            },
        )
        .await
        .unwrap();
    let path = format!("/api/v1/shipments/{}/dispatch", found.shipment.unwrap().id);
    let reply = Site::of(offers.routes.clone())
        .send_as(Uuid::new_v4(), &[Role::Staff], post(&path))
        .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
}

#[tokio::test]
async fn a_repeated_schedule_is_one_shipment() {
    on_both(shipping::SCHEMA, |db| async move {
        let shipping = open(db.clone()).await.contract;
        let request = schedule(&id());
        let first = shipping.schedule_shipment(&saga(), request.clone()).await.unwrap();
        let again = shipping.schedule_shipment(&saga(), request.clone()).await.unwrap();
        assert!(matches!(first.outcome, Some(schedule::Outcome::Scheduled(_))));
        assert_eq!(first, again);
        assert_eq!(events(&db).await, ["ShipmentScheduled"]);
        let other = ScheduleShipment {
            lines: vec![ShipmentLine {
                sku: "fig".into(),
                quantity: 3,
            }],
            ..request
        };
        assert_eq!(
            shipping.schedule_shipment(&saga(), other).await.unwrap_err().code,
            "command_reused"
        );
    })
    .await;
}

#[tokio::test]
async fn twenty_concurrent_repeats_are_one_shipment() {
    on_both(shipping::SCHEMA, |db| async move {
        let shipping = open(db.clone()).await.contract;
        let request = schedule(&id());
        let calls = (0..20).map(|_| {
            let (shipping, request) = (shipping.clone(), request.clone());
            tokio::spawn(async move { shipping.schedule_shipment(&saga(), request).await.unwrap() })
        });
        let mut results = Vec::new();
        for call in calls.collect::<Vec<_>>() {
            results.push(call.await.unwrap());
        }
        assert!(results.iter().all(|result| *result == results[0]));
        assert_eq!(events(&db).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn different_commands_for_one_order_make_one_shipment() {
    on_both(shipping::SCHEMA, |db| async move {
        let shipping = open(db.clone()).await.contract;
        let order = id();
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let (shipping, request) = (shipping.clone(), schedule(&order));
                tokio::spawn(async move { shipping.schedule_shipment(&saga(), request).await })
            })
            .collect();
        let mut scheduled = 0;
        for call in calls {
            match call.await.unwrap() {
                Ok(_) => scheduled += 1,
                Err(fault) => assert_eq!(fault.code, "shipment_exists"),
            }
        }
        assert_eq!((scheduled, events(&db).await.len()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn an_undo_cancels_what_was_scheduled_once() {
    on_both(shipping::SCHEMA, |db| async move {
        let shipping = open(db.clone()).await.contract;
        let request = schedule(&id());
        shipping.schedule_shipment(&saga(), request.clone()).await.unwrap();
        let undo = undo_of(&request);
        for _ in 0..2 {
            assert!(was_cancelled(
                &shipping.cancel_shipment(&saga(), undo.clone()).await.unwrap()
            ));
        }
        assert_eq!(
            status(&*shipping, &request.order_id).await.as_deref(),
            Some("cancelled")
        );
        assert_eq!(events(&db).await, ["ShipmentScheduled", "ShipmentCancelled"]);
        // A repeat of the schedule returns its first result: it did take effect.
        let again = shipping.schedule_shipment(&saga(), request).await.unwrap();
        assert!(matches!(again.outcome, Some(schedule::Outcome::Scheduled(_))));
    })
    .await;
}

#[tokio::test]
async fn a_schedule_that_comes_after_its_undo_does_nothing() {
    on_both(shipping::SCHEMA, |db| async move {
        let shipping = open(db.clone()).await.contract;
        let request = schedule(&id());
        assert!(was_cancelled(
            &shipping.cancel_shipment(&saga(), undo_of(&request)).await.unwrap()
        ));
        let late = shipping.schedule_shipment(&saga(), request.clone()).await.unwrap();
        assert!(matches!(late.outcome, Some(schedule::Outcome::Undone(_))));
        assert_eq!(status(&*shipping, &request.order_id).await, None);
        assert!(events(&db).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn cancelling_a_dispatched_shipment_is_refused_and_changes_nothing() {
    on_both(shipping::SCHEMA, |db| async move {
        let offers = open(db.clone()).await;
        let shipping = offers.contract.clone();
        let request = schedule(&id());
        shipping.schedule_shipment(&saga(), request.clone()).await.unwrap();
        shipping
            .ready_shipment(&saga(), ready(&request.order_id))
            .await
            .unwrap();
        dispatch(&offers, &request.order_id).await;
        let before = published(&db).await.len();
        for request in [cancel(&request.order_id), undo_of(&request)] {
            for _ in 0..2 {
                let cancellation = shipping.cancel_shipment(&saga(), request.clone()).await.unwrap();
                assert!(matches!(
                    cancellation.outcome,
                    Some(shipment_cancellation::Outcome::AlreadyDispatched(_))
                ));
            }
        }
        assert_eq!(
            status(&*shipping, &request.order_id).await.as_deref(),
            Some("dispatched")
        );
        assert_eq!(published(&db).await.len(), before);
    })
    .await;
}

#[tokio::test]
async fn a_cancellation_without_a_shipment_succeeds() {
    on_both(shipping::SCHEMA, |db| async move {
        let shipping = open(db).await.contract;
        assert!(was_cancelled(
            &shipping.cancel_shipment(&saga(), cancel(&id())).await.unwrap()
        ));
    })
    .await;
}

#[tokio::test]
async fn a_shipment_is_made_ready_once_and_never_after_its_cancellation() {
    on_both(shipping::SCHEMA, |db| async move {
        let shipping = open(db.clone()).await.contract;
        let (kept, dropped) = (schedule(&id()), schedule(&id()));
        for request in [&kept, &dropped] {
            shipping.schedule_shipment(&saga(), request.clone()).await.unwrap();
        }
        let command = ready(&kept.order_id);
        shipping.ready_shipment(&saga(), command.clone()).await.unwrap();
        shipping.ready_shipment(&saga(), command).await.unwrap();
        shipping.ready_shipment(&saga(), ready(&kept.order_id)).await.unwrap();
        assert_eq!(status(&*shipping, &kept.order_id).await.as_deref(), Some("ready"));
        assert_eq!(
            events(&db)
                .await
                .iter()
                .filter(|kind| *kind == "ShipmentMadeReady")
                .count(),
            1
        );

        shipping
            .cancel_shipment(&saga(), cancel(&dropped.order_id))
            .await
            .unwrap();
        let refused = shipping
            .ready_shipment(&saga(), ready(&dropped.order_id))
            .await
            .unwrap_err();
        assert_eq!(
            (refused.kind, refused.code.as_str()),
            (FaultKind::Conflict, "shipment_cancelled")
        );
        assert_eq!(
            shipping.ready_shipment(&saga(), ready(&id())).await.unwrap_err().kind,
            FaultKind::NotFound
        );
    })
    .await;
}

#[tokio::test]
async fn of_a_concurrent_cancel_and_dispatch_exactly_one_wins() {
    on_both(shipping::SCHEMA, |db| async move {
        let offers = open(db.clone()).await;
        let site = Site::of(offers.routes.clone());
        for _ in 0..10 {
            let request = schedule(&id());
            let order = request.order_id.clone();
            offers.contract.schedule_shipment(&saga(), request).await.unwrap();
            offers.contract.ready_shipment(&saga(), ready(&order)).await.unwrap();
            let found = offers
                .contract
                .find_shipment(
                    &saga(),
                    FindShipment {
                        order_id: order.clone(),
                    },
                )
                .await
                .unwrap();
            let path = format!("/api/v1/shipments/{}/dispatch", found.shipment.unwrap().id);
            let (shipping, call) = (offers.contract.clone(), saga());
            let cancelling =
                tokio::spawn(async move { shipping.cancel_shipment(&call, cancel(&order)).await.unwrap() });
            let reply = site.send_as(Uuid::new_v4(), &[Role::Staff], post(&path)).await;
            let cancelled = was_cancelled(&cancelling.await.unwrap());
            assert!([200, 409].contains(&reply.status), "{}", reply.body);
            assert_ne!(reply.status == 200, cancelled);
        }
    })
    .await;
}

#[tokio::test]
async fn a_shipment_is_visible_to_its_owner_to_staff_and_to_modules_only() {
    on_both(shipping::SCHEMA, |db| async move {
        let shipping = open(db).await.contract;
        let request = schedule(&id());
        shipping.schedule_shipment(&saga(), request.clone()).await.unwrap();
        let user = |id: Uuid, role| Call::by(Actor::user(id, [role]));
        let owner: Uuid = request.user_id.parse().unwrap();
        for (call, sees) in [
            (user(owner, Role::Customer), true),
            (user(Uuid::new_v4(), Role::Staff), true),
            (saga(), true),
            (user(Uuid::new_v4(), Role::Customer), false),
            (user(Uuid::new_v4(), Role::Ops), false),
            (Call::default(), false),
        ] {
            let found = shipping
                .find_shipment(
                    &call,
                    FindShipment {
                        order_id: request.order_id.clone(),
                    },
                )
                .await
                .unwrap();
            assert_eq!(found.shipment.is_some(), sees, "{:?}", call.actor);
        }
    })
    .await;
}

#[tokio::test]
async fn an_invalid_schedule_is_refused_and_not_stored() {
    on_both(shipping::SCHEMA, |db| async move {
        let shipping = open(db.clone()).await.contract;
        let good = schedule(&id());
        for bad in [
            ScheduleShipment {
                command_id: "7".into(),
                ..good.clone()
            },
            ScheduleShipment {
                order_id: String::new(),
                ..good.clone()
            },
            ScheduleShipment {
                address: None,
                ..good.clone()
            },
            ScheduleShipment {
                lines: vec![],
                ..good.clone()
            },
            ScheduleShipment {
                lines: vec![ShipmentLine {
                    sku: "fig".into(),
                    quantity: 0,
                }],
                ..good.clone()
            },
        ] {
            assert_eq!(
                shipping.schedule_shipment(&saga(), bad).await.unwrap_err().kind,
                FaultKind::Invalid
            );
        }
        assert!(shipping.schedule_shipment(&saga(), good).await.is_ok());
        assert_eq!(published(&db).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn events_of_a_shipment_are_one_gapless_sequence_in_the_trace_of_their_cause() {
    on_both(shipping::SCHEMA, |db| async move {
        let shipping = open(db.clone()).await.contract;
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let call = saga().traced(banyan_core::TraceParent::parse(trace));
        let request = schedule(&id());
        shipping.schedule_shipment(&call, request.clone()).await.unwrap();
        shipping.ready_shipment(&call, ready(&request.order_id)).await.unwrap();
        shipping
            .cancel_shipment(&call, cancel(&request.order_id))
            .await
            .unwrap();
        let published = published(&db).await;
        assert_eq!(
            published.iter().map(|envelope| envelope.version).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        assert!(
            published
                .iter()
                .all(|envelope| envelope.topic() == "shipping.shipment" && envelope.subject == published[0].subject)
        );
        assert!(
            published
                .iter()
                .all(|envelope| envelope.traceparent.as_deref() == Some(trace))
        );
        let event = published[2]
            .find::<shipping_contract::ShipmentCancelled>()
            .unwrap()
            .unwrap();
        assert_eq!((event.order_id, event.user_id), (request.order_id, request.user_id));
    })
    .await;
}

#[tokio::test]
async fn an_operator_cancels_what_has_not_left_as_a_saga_does_and_leaves_an_audit_row() {
    on_both(shipping::SCHEMA, |db| async move {
        let offers = open(db.clone()).await;
        let shipping = offers.contract.clone();
        let operator = Call::by(Actor::user(Uuid::from_u128(7), [OPERATOR]));
        let given_up = |scheduled: &ScheduleShipment| CancelShipment {
            reason: Some("given up".to_owned()),
            comment: Some("see ticket 7".to_owned()),
            ..undo_of(scheduled)
        };
        let mut expected = Vec::new();
        let mut expect = |scheduled: &ScheduleShipment| {
            let (target, comment) = (format!("order/{}", scheduled.order_id), Some("see ticket 7".to_owned()));
            expected.push(("cancel_shipment".to_owned(), target, "given up".to_owned(), comment));
            expected.clone()
        };

        // Scheduled, or ready: cancelled, once.
        let (scheduled, is_ready) = (schedule(&id()), schedule(&id()));
        for request in [&scheduled, &is_ready] {
            shipping.schedule_shipment(&saga(), request.clone()).await.unwrap();
        }
        shipping
            .ready_shipment(&saga(), ready(&is_ready.order_id))
            .await
            .unwrap();
        for request in [&scheduled, &is_ready] {
            let cancel = given_up(request);
            for _ in 0..2 {
                assert!(was_cancelled(
                    &shipping.cancel_shipment(&operator, cancel.clone()).await.unwrap()
                ));
            }
            assert_eq!(
                status(&*shipping, &request.order_id).await.as_deref(),
                Some("cancelled")
            );
            assert_eq!(expect(request), audited(&offers.machinery).await);
        }
        let cancelled = events(&db)
            .await
            .iter()
            .filter(|kind| *kind == "ShipmentCancelled")
            .count();
        assert_eq!(cancelled, 2);

        // Still on its way: it does nothing when it arrives.
        let late = schedule(&id());
        assert!(was_cancelled(
            &shipping.cancel_shipment(&operator, given_up(&late)).await.unwrap()
        ));
        let undone = shipping.schedule_shipment(&saga(), late.clone()).await.unwrap();
        assert!(matches!(undone.outcome, Some(schedule::Outcome::Undone(_))));
        let all = expect(&late);

        // Dispatched: it stays as it is. And a saga is no operator.
        let (left, own) = (schedule(&id()), schedule(&id()));
        for request in [&left, &own] {
            shipping.schedule_shipment(&saga(), request.clone()).await.unwrap();
        }
        shipping.ready_shipment(&saga(), ready(&left.order_id)).await.unwrap();
        dispatch(&offers, &left.order_id).await;
        assert!(!was_cancelled(
            &shipping.cancel_shipment(&operator, given_up(&left)).await.unwrap()
        ));
        assert!(was_cancelled(
            &shipping.cancel_shipment(&saga(), undo_of(&own)).await.unwrap()
        ));
        assert_eq!(audited(&offers.machinery).await, all);
    })
    .await;
}

/// After 30 days the inbox forgets a command that took effect. A saga that was parked for longer may still repeat it, or undo it.
#[tokio::test]
async fn a_command_that_is_repeated_or_undone_after_it_was_forgotten_finds_its_shipment() {
    on_both(shipping::SCHEMA, |db| async move {
        let offers = open(db.clone()).await;
        let shipping = &*offers.contract;
        let forget = async || {
            let forgotten = db.write((), |tx, ()| async move {
                let sql = "delete from inbox where expires_at is not null";
                sea_orm::ConnectionTrait::execute_unprepared(tx.conn(), sql)
                    .await
                    .map_err(banyan_durable::fault)
            });
            assert!(forgotten.await.unwrap().rows_affected() > 0);
        };
        let order = id();
        let request = schedule(&order);
        let first = shipping.schedule_shipment(&saga(), request.clone()).await.unwrap();
        forget().await;
        assert_eq!(shipping.schedule_shipment(&saga(), request.clone()).await, Ok(first));
        let make_ready = ready(&order);
        for _ in 0..2 {
            shipping.ready_shipment(&saga(), make_ready.clone()).await.unwrap();
            forget().await;
        }
        let of_another = schedule(&order);
        let refused = shipping
            .schedule_shipment(&saga(), of_another.clone())
            .await
            .unwrap_err();
        assert_eq!(refused.code, "shipment_exists");
        shipping.cancel_shipment(&saga(), undo_of(&of_another)).await.unwrap();
        assert_eq!(
            status(shipping, &order).await.as_deref(),
            Some("ready"),
            "the undo of another command"
        );
        for _ in 0..2 {
            let undone = shipping.cancel_shipment(&saga(), undo_of(&request)).await.unwrap();
            assert!(was_cancelled(&undone));
            assert_eq!(status(shipping, &order).await.as_deref(), Some("cancelled"));
            forget().await;
        }
        let late = shipping.schedule_shipment(&saga(), request).await.unwrap();
        assert!(matches!(late.outcome, Some(schedule::Outcome::Undone(_))), "{late:?}");
        assert_eq!(
            events(&db).await,
            ["ShipmentScheduled", "ShipmentMadeReady", "ShipmentCancelled"],
            "each took effect once"
        );
    })
    .await;
}

/// The instance that scheduled the shipment remembers it as it was.
#[tokio::test]
async fn a_shipment_that_another_instance_cancelled_is_not_made_ready() {
    on_both(shipping::SCHEMA, |db| async move {
        let (one, other) = (open(db.clone()).await.contract, open(db).await.contract);
        let order = id();
        one.schedule_shipment(&saga(), schedule(&order)).await.unwrap();
        assert!(was_cancelled(
            &other.cancel_shipment(&saga(), cancel(&order)).await.unwrap()
        ));
        let refused = one.ready_shipment(&saga(), ready(&order)).await.unwrap_err();
        assert_eq!(refused.code, "shipment_cancelled");
        assert_eq!(status(&*other, &order).await.as_deref(), Some("cancelled"));
    })
    .await;
}
