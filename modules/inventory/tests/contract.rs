//! Inventory through its contract, on both databases.

use std::sync::Arc;

use banyan_core::{Actor, Call, FaultKind, OPERATOR, RandomIds, SystemClock};
use banyan_durable::Db;
use banyan_durable_testing::{audited, on_both, published};
use banyan_http_testing::{Site, post};
use inventory::{Needs, Offers, start};
use inventory_contract::{
    CommitStock, FindReservation, FindStock, Inventory, ReleaseStock, Reservation, ReserveStock, RestockOrder,
    StockLevel, StockLevelChanged, StockLine, reservation::Outcome,
};
use serde_json::json;
use shared_kernel::Role;
use uuid::Uuid;

async fn open(db: Db) -> Offers {
    start(Needs {
        db,
        clock: Arc::new(SystemClock),
        ids: Arc::new(RandomIds),
        publishes_levels: true,
    })
    .await
    .expect("inventory starts")
}

/// An inventory with 10 of `tea-01` and 5 of `tea-02`, received by staff.
async fn stocked(db: Db) -> Arc<dyn Inventory> {
    stocked_module(db).await.contract
}

async fn stocked_module(db: Db) -> Offers {
    let offers = open(db).await;
    let site = Site::of(offers.routes.clone());
    for (sku, quantity) in [("tea-01", 10), ("tea-02", 5)] {
        let request = post(&format!("/api/v1/stock/{sku}/receipts")).insert_header(("Idempotency-Key", id()));
        let reply = site
            .send_as(
                Uuid::new_v4(),
                &[Role::Staff],
                request.set_json(json!({ "quantity": quantity })),
            )
            .await;
        assert_eq!(reply.status, 201, "{}", reply.body);
    }
    offers
}

fn saga() -> Call {
    Call::by_module("orders")
}

fn id() -> String {
    Uuid::new_v4().to_string()
}

fn reserve(order: &str, lines: &[(&str, u32)]) -> ReserveStock {
    let lines = lines.iter().map(|(sku, quantity)| StockLine {
        sku: (*sku).to_owned(),
        quantity: *quantity,
    });
    ReserveStock {
        command_id: id(),
        order_id: order.to_owned(),
        lines: lines.collect(),
    }
}

fn release(reserved: &ReserveStock) -> ReleaseStock {
    ReleaseStock {
        command_id: id(),
        undoes: reserved.command_id.clone(),
        order_id: reserved.order_id.clone(),
        ..ReleaseStock::default()
    }
}

fn commit(order: &str) -> CommitStock {
    CommitStock {
        command_id: id(),
        order_id: order.to_owned(),
    }
}

fn restock(order: &str) -> RestockOrder {
    RestockOrder {
        command_id: id(),
        order_id: order.to_owned(),
        ..RestockOrder::default()
    }
}

async fn level(inventory: &dyn Inventory, sku: &str) -> Option<StockLevel> {
    inventory
        .find_stock(&saga(), FindStock { sku: sku.to_owned() })
        .await
        .unwrap()
        .level
}

/// On hand and reserved of `tea-01`.
async fn tea(inventory: &dyn Inventory) -> (i64, i64) {
    let level = level(inventory, "tea-01").await.unwrap();
    assert_eq!(level.available, level.on_hand - level.reserved);
    (level.on_hand, level.reserved)
}

fn is_reserved(reservation: &Reservation) -> bool {
    matches!(reservation.outcome, Some(Outcome::Reserved(_)))
}

#[tokio::test]
async fn a_repeated_reservation_reserves_once() {
    on_both(inventory::SCHEMA, |db| async move {
        let inventory = stocked(db).await;
        let request = reserve(&id(), &[("tea-02", 1), ("tea-01", 4)]);
        for _ in 0..2 {
            assert!(is_reserved(
                &inventory.reserve_stock(&saga(), request.clone()).await.unwrap()
            ));
        }
        assert_eq!(tea(&*inventory).await, (10, 4));
        let other = ReserveStock {
            lines: vec![StockLine {
                sku: "tea-01".into(),
                quantity: 5,
            }],
            ..request
        };
        assert_eq!(
            inventory.reserve_stock(&saga(), other).await.unwrap_err().code,
            "command_reused"
        );
    })
    .await;
}

#[tokio::test]
async fn insufficient_stock_is_a_result_and_stays_the_result() {
    on_both(inventory::SCHEMA, |db| async move {
        let inventory = stocked(db).await;
        let hog = reserve(&id(), &[("tea-01", 8)]);
        inventory.reserve_stock(&saga(), hog.clone()).await.unwrap();
        let request = reserve(&id(), &[("tea-01", 1), ("tea-01", 2)]);
        let first = inventory.reserve_stock(&saga(), request.clone()).await.unwrap();
        let Some(Outcome::Insufficient(short)) = &first.outcome else {
            panic!("{first:?}")
        };
        assert_eq!((short.sku.as_str(), short.wanted, short.available), ("tea-01", 3, 2));
        // Units that are released later do not change the result of the command.
        inventory.release_stock(&saga(), release(&hog)).await.unwrap();
        assert_eq!(inventory.reserve_stock(&saga(), request.clone()).await.unwrap(), first);
        assert_eq!(tea(&*inventory).await, (10, 0));
        // There is nothing to undo.
        assert!(
            !inventory
                .release_stock(&saga(), release(&request))
                .await
                .unwrap()
                .released
        );
    })
    .await;
}

#[tokio::test]
async fn an_item_that_was_never_received_is_not_available() {
    on_both(inventory::SCHEMA, |db| async move {
        let inventory = stocked(db).await;
        let reservation = inventory
            .reserve_stock(&saga(), reserve(&id(), &[("tea-01", 1), ("unheard-of", 1)]))
            .await
            .unwrap();
        let Some(Outcome::Insufficient(short)) = reservation.outcome else {
            panic!("{reservation:?}")
        };
        assert_eq!((short.sku.as_str(), short.available), ("unheard-of", 0));
        assert_eq!(tea(&*inventory).await, (10, 0));
        assert_eq!(level(&*inventory, "unheard-of").await, None);
        assert_eq!(level(&*inventory, "No Sku").await, None);
    })
    .await;
}

#[tokio::test]
async fn a_repeated_release_releases_once() {
    on_both(inventory::SCHEMA, |db| async move {
        let inventory = stocked(db).await;
        let reserved = reserve(&id(), &[("tea-01", 4)]);
        inventory.reserve_stock(&saga(), reserved.clone()).await.unwrap();
        let undo = release(&reserved);
        for _ in 0..2 {
            assert!(inventory.release_stock(&saga(), undo.clone()).await.unwrap().released);
        }
        assert!(
            !inventory
                .release_stock(&saga(), release(&reserved))
                .await
                .unwrap()
                .released
        );
        assert_eq!(tea(&*inventory).await, (10, 0));
    })
    .await;
}

#[tokio::test]
async fn a_reservation_that_arrives_after_its_release_does_nothing() {
    on_both(inventory::SCHEMA, |db| async move {
        let inventory = stocked(db).await;
        let late = reserve(&id(), &[("tea-01", 4)]);
        assert!(!inventory.release_stock(&saga(), release(&late)).await.unwrap().released);
        let reservation = inventory.reserve_stock(&saga(), late.clone()).await.unwrap();
        assert!(
            matches!(reservation.outcome, Some(Outcome::Undone(_))),
            "{reservation:?}"
        );
        assert_eq!(tea(&*inventory).await, (10, 0));
        assert_eq!(
            inventory
                .commit_stock(&saga(), commit(&late.order_id))
                .await
                .unwrap_err()
                .code,
            "unknown_reservation"
        );
    })
    .await;
}

#[tokio::test]
async fn an_order_has_one_reservation() {
    on_both(inventory::SCHEMA, |db| async move {
        let inventory = stocked(db).await;
        let first = reserve(&id(), &[("tea-01", 4)]);
        inventory.reserve_stock(&saga(), first.clone()).await.unwrap();
        let second = reserve(&first.order_id, &[("tea-01", 1)]);
        let fault = inventory.reserve_stock(&saga(), second.clone()).await.unwrap_err();
        assert_eq!(
            (fault.kind, fault.code.as_str()),
            (FaultKind::Conflict, "already_reserved")
        );
        // The undo of the second does not touch the first.
        assert!(
            !inventory
                .release_stock(&saga(), release(&second))
                .await
                .unwrap()
                .released
        );
        assert_eq!(tea(&*inventory).await, (10, 4));
    })
    .await;
}

#[tokio::test]
async fn units_are_committed_once_and_restocked_once() {
    on_both(inventory::SCHEMA, |db| async move {
        let inventory = stocked(db).await;
        let reserved = reserve(&id(), &[("tea-01", 4)]);
        let order = reserved.order_id.clone();
        inventory.reserve_stock(&saga(), reserved.clone()).await.unwrap();
        assert_eq!(
            inventory
                .restock_order(&saga(), restock(&order))
                .await
                .unwrap_err()
                .code,
            "reservation_not_committed"
        );
        let command = commit(&order);
        for command in [command.clone(), command, commit(&order)] {
            inventory.commit_stock(&saga(), command).await.unwrap();
        }
        assert_eq!(tea(&*inventory).await, (6, 0));
        assert_eq!(
            inventory
                .release_stock(&saga(), release(&reserved))
                .await
                .unwrap_err()
                .code,
            "reservation_committed"
        );
        let command = restock(&order);
        for command in [command.clone(), command, restock(&order)] {
            inventory.restock_order(&saga(), command).await.unwrap();
        }
        assert_eq!(tea(&*inventory).await, (10, 0));
    })
    .await;
}

#[tokio::test]
async fn a_released_or_unknown_reservation_cannot_be_committed() {
    on_both(inventory::SCHEMA, |db| async move {
        let inventory = stocked(db).await;
        let reserved = reserve(&id(), &[("tea-01", 4)]);
        inventory.reserve_stock(&saga(), reserved.clone()).await.unwrap();
        inventory.release_stock(&saga(), release(&reserved)).await.unwrap();
        for (order, code) in [
            (reserved.order_id, "reservation_released"),
            (id(), "unknown_reservation"),
        ] {
            let fault = inventory.commit_stock(&saga(), commit(&order)).await.unwrap_err();
            assert_eq!(
                (fault.kind, fault.code.as_str(), fault.is_refusal()),
                (FaultKind::Conflict, code, true)
            );
        }
        assert_eq!(
            inventory.restock_order(&saga(), restock(&id())).await.unwrap_err().code,
            "unknown_reservation"
        );
        assert_eq!(tea(&*inventory).await, (10, 0));
    })
    .await;
}

#[tokio::test]
async fn every_change_of_a_level_is_published_in_order() {
    on_both(inventory::SCHEMA, |db| async move {
        let inventory = stocked(db.clone()).await;
        let reserved = reserve(&id(), &[("tea-01", 4)]);
        inventory.reserve_stock(&saga(), reserved.clone()).await.unwrap();
        inventory
            .commit_stock(&saga(), commit(&reserved.order_id))
            .await
            .unwrap();
        inventory
            .restock_order(&saga(), restock(&reserved.order_id))
            .await
            .unwrap();
        let envelopes = published(&db).await;
        let tea: Vec<_> = envelopes
            .iter()
            .filter(|envelope| envelope.subject == "stock/tea-01")
            .collect();
        assert!(tea.iter().map(|envelope| envelope.version).eq(1..=4));
        let levels = tea
            .iter()
            .map(|envelope| envelope.find::<StockLevelChanged>().unwrap().unwrap());
        let levels: Vec<_> = levels
            .map(|event| (event.movement, event.on_hand, event.reserved))
            .collect();
        let expected = [
            ("received", 10, 0),
            ("reserved", 10, 4),
            ("committed", 6, 0),
            ("restocked", 10, 0),
        ];
        assert!(
            levels
                .iter()
                .map(|(movement, on_hand, reserved)| (movement.as_str(), *on_hand, *reserved))
                .eq(expected),
            "{levels:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn an_invalid_command_is_refused() {
    on_both(inventory::SCHEMA, |db| async move {
        let inventory = stocked(db).await;
        let good = reserve(&id(), &[("tea-01", 1)]);
        for (bad, code) in [
            (
                ReserveStock {
                    command_id: "x".into(),
                    ..good.clone()
                },
                "invalid_id",
            ),
            (
                ReserveStock {
                    order_id: "x".into(),
                    ..good.clone()
                },
                "invalid_id",
            ),
            (
                ReserveStock {
                    lines: vec![],
                    ..good.clone()
                },
                "invalid_lines",
            ),
            (reserve(&id(), &[("tea-01", 0)]), "invalid_lines"),
            (reserve(&id(), &[("Tea 1", 1)]), "invalid_sku"),
        ] {
            let fault = inventory.reserve_stock(&saga(), bad).await.unwrap_err();
            assert_eq!((fault.kind, fault.code.as_str()), (FaultKind::Invalid, code));
        }
    })
    .await;
}

/// The state of the order's reservation, as `actor` sees it.
async fn reservation_state(inventory: &dyn Inventory, call: &Call, order: &str) -> Option<String> {
    let request = FindReservation {
        order_id: order.to_owned(),
    };
    let found = inventory.find_reservation(call, request).await.unwrap();
    found.reservation.map(|reservation| reservation.state)
}

#[tokio::test]
async fn an_operator_releases_and_restocks_as_a_saga_does_and_leaves_audit_rows() {
    on_both(inventory::SCHEMA, |db| async move {
        let offers = stocked_module(db.clone()).await;
        let inventory = offers.contract.clone();
        let operator = Call::by(Actor::user(Uuid::from_u128(7), [OPERATOR]));
        let why = |action: &str, order: &str| {
            let (target, comment) = (format!("order/{order}"), Some("see ticket 7".to_owned()));
            (action.to_owned(), target, "given up".to_owned(), comment)
        };
        let released = |reserved: &ReserveStock| ReleaseStock {
            reason: Some("given up".to_owned()),
            comment: Some("see ticket 7".to_owned()),
            ..release(reserved)
        };

        // Held: released, once.
        let held = reserve(&id(), &[("tea-01", 3)]);
        assert!(is_reserved(
            &inventory.reserve_stock(&saga(), held.clone()).await.unwrap()
        ));
        let state = reservation_state(&*inventory, &saga(), &held.order_id).await;
        assert_eq!(state.as_deref(), Some("held"));
        assert_eq!(reservation_state(&*inventory, &operator, &held.order_id).await, None);
        let request = released(&held);
        for _ in 0..2 {
            assert!(
                inventory
                    .release_stock(&operator, request.clone())
                    .await
                    .unwrap()
                    .released
            );
        }
        assert_eq!(tea(&*inventory).await, (10, 0));
        let mut expected = vec![why("release_stock", &held.order_id)];
        assert_eq!(audited(&offers.machinery).await, expected);

        // Committed: not released, but restocked.
        let committed = reserve(&id(), &[("tea-01", 4)]);
        inventory.reserve_stock(&saga(), committed.clone()).await.unwrap();
        inventory
            .commit_stock(&saga(), commit(&committed.order_id))
            .await
            .unwrap();
        let refused = inventory
            .release_stock(&operator, released(&committed))
            .await
            .unwrap_err();
        assert_eq!(refused.code, "reservation_committed");
        assert_eq!(
            audited(&offers.machinery).await,
            expected,
            "what was refused was not done"
        );
        let request = RestockOrder {
            reason: Some("given up".to_owned()),
            comment: Some("see ticket 7".to_owned()),
            ..restock(&committed.order_id)
        };
        inventory.restock_order(&operator, request).await.unwrap();
        assert_eq!(tea(&*inventory).await, (10, 0));
        expected.push(why("restock_order", &committed.order_id));
        assert_eq!(audited(&offers.machinery).await, expected);

        // Still on its way: it does nothing when it arrives.
        let late = reserve(&id(), &[("tea-01", 5)]);
        assert!(
            !inventory
                .release_stock(&operator, released(&late))
                .await
                .unwrap()
                .released
        );
        let undone = inventory.reserve_stock(&saga(), late.clone()).await.unwrap();
        assert!(matches!(undone.outcome, Some(Outcome::Undone(_))));
        assert_eq!(tea(&*inventory).await, (10, 0));
        expected.push(why("release_stock", &late.order_id));

        // A saga is no operator.
        let own = reserve(&id(), &[("tea-01", 1)]);
        inventory.reserve_stock(&saga(), own.clone()).await.unwrap();
        assert!(inventory.release_stock(&saga(), release(&own)).await.unwrap().released);
        assert_eq!(audited(&offers.machinery).await, expected);

        let levels = published(&db).await;
        let moved: Vec<String> = levels
            .iter()
            .filter_map(|envelope| serde_json::from_str::<serde_json::Value>(envelope.data.get()).ok())
            .map(|level| level["movement"].as_str().unwrap_or_default().to_owned())
            .collect();
        let of = |movement: &str| moved.iter().filter(|one| *one == movement).count();
        assert_eq!(
            (of("reserved"), of("released"), of("committed"), of("restocked")),
            (3, 2, 1, 1)
        );
    })
    .await;
}

/// The instance that made the reservation remembers it as it was.
#[tokio::test]
async fn a_reservation_that_another_instance_released_is_not_committed() {
    on_both(inventory::SCHEMA, |db| async move {
        let (one, other) = (stocked(db.clone()).await, open(db).await.contract);
        let (order, lines) = (id(), [("tea-01", 3)]);
        let reserved = reserve(&order, &lines);
        one.reserve_stock(&saga(), reserved.clone()).await.unwrap();
        assert!(other.release_stock(&saga(), release(&reserved)).await.unwrap().released);
        let refused = one.commit_stock(&saga(), commit(&order)).await.unwrap_err();
        assert_eq!(refused.code, "reservation_released");
        let found = other
            .find_stock(
                &saga(),
                FindStock {
                    sku: "tea-01".to_owned(),
                },
            )
            .await
            .unwrap();
        let level = found.level.expect("a level");
        assert_eq!((level.on_hand, level.reserved), (10, 0));
    })
    .await;
}
