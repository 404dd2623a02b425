//! The ledger balances under concurrent movements (RELIABILITY.md, C1 to C3), on both databases.

use std::sync::Arc;

use banyan_core::{Call, Fault, RandomIds, SystemClock};
use banyan_durable::Db;
use banyan_durable_testing::on_both;
use inventory_contract::{
    CommitStock, Inventory, ReleaseStock, Reservation, ReserveStock, RestockOrder, StockLine, reservation,
};
use shared_kernel::Sku;
use uuid::Uuid;

use super::Service;
use crate::{seed, stock::StockItem, store};

fn open(db: Db) -> Arc<Service> {
    Arc::new(Service::new(db, Arc::new(SystemClock), Arc::new(RandomIds), true))
}

fn call() -> Call {
    Call::by_module("orders")
}

fn id() -> String {
    Uuid::new_v4().to_string()
}

fn sku(text: &str) -> Sku {
    Sku::parse(text).unwrap()
}

async fn receive(service: &Arc<Service>, text: &'static str, units: i64) -> StockItem {
    let received = service.db().write(service.clone(), move |tx, service| async move {
        service.receive(&tx, &call(), &sku(text), units, None).await
    });
    received.await.unwrap()
}

async fn adjust(service: &Arc<Service>, text: &'static str, difference: i64) -> Result<StockItem, Fault> {
    let adjusted = service.db().write(service.clone(), move |tx, service| async move {
        service.adjust(&tx, &call(), &sku(text), difference, None).await
    });
    adjusted.await
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

fn is_reserved(reservation: &Reservation) -> bool {
    matches!(reservation.outcome, Some(reservation::Outcome::Reserved(_)))
}

/// C1 and C2 for one item.
async fn assert_balanced(service: &Service, text: &str) -> StockItem {
    let conn = service.db().read();
    let item = service.find_item(&sku(text)).await.unwrap().unwrap();
    let sums = store::sum_ledger(conn, &item.sku).await;
    let sum = |kind: &str| sums.get(kind).copied().unwrap_or(0);
    assert!(0 <= item.reserved && item.reserved <= item.on_hand, "{item:?}");
    assert_eq!(
        sum("received") + sum("restocked"),
        item.on_hand + sum("committed") + sum("written_off"),
        "{item:?} {sums:?}"
    );
    assert_eq!(
        item.reserved,
        sum("reserved") - sum("released") - sum("committed"),
        "{item:?} {sums:?}"
    );
    assert_eq!(item.reserved, store::sum_held(conn, &item.sku).await, "{item:?}");
    item
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_concurrent_orders_for_ten_units_ten_are_reserved() {
    on_both(crate::SCHEMA, |db| async move {
        let service = open(db);
        receive(&service, "tea-01", 10).await;
        let orders: Vec<_> = (0..50)
            .map(|_| {
                let service = service.clone();
                tokio::spawn(async move {
                    service
                        .reserve_stock(&call(), reserve(&id(), &[("tea-01", 1)]))
                        .await
                        .unwrap()
                })
            })
            .collect();
        let mut reserved = 0;
        for order in orders {
            reserved += usize::from(is_reserved(&order.await.unwrap()));
        }
        let item = assert_balanced(&service, "tea-01").await;
        assert_eq!((reserved, item.on_hand, item.reserved), (10, 10, 10));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_with_the_same_products_in_opposite_order_do_not_deadlock() {
    on_both(crate::SCHEMA, |db| async move {
        let service = open(db);
        for text in ["tea-01", "tea-02", "tea-03"] {
            receive(&service, text, 1_000).await;
        }
        let orders: Vec<_> = (0..60)
            .map(|number| {
                let service = service.clone();
                let mut lines = [("tea-01", 1), ("tea-02", 2), ("tea-03", 3)];
                if number % 2 == 0 {
                    lines.reverse();
                }
                tokio::spawn(async move {
                    let order = id();
                    let request = reserve(&order, &lines);
                    let undo = ReleaseStock {
                        command_id: id(),
                        undoes: request.command_id.clone(),
                        order_id: order.clone(),
                        ..ReleaseStock::default()
                    };
                    assert!(is_reserved(&service.reserve_stock(&call(), request).await.unwrap()));
                    match number % 3 {
                        0 => assert!(service.release_stock(&call(), undo).await.unwrap().released),
                        1 => drop(
                            service
                                .commit_stock(
                                    &call(),
                                    CommitStock {
                                        command_id: id(),
                                        order_id: order,
                                    },
                                )
                                .await
                                .unwrap(),
                        ),
                        _ => {}
                    }
                })
            })
            .collect();
        for order in orders {
            order.await.unwrap();
        }
        for (text, each) in [("tea-01", 1), ("tea-02", 2), ("tea-03", 3)] {
            let item = assert_balanced(&service, text).await;
            assert_eq!((item.on_hand, item.reserved), (1_000 - 20 * each, 20 * each));
        }
    })
    .await;
}

#[tokio::test]
async fn a_refused_order_leaves_nothing_behind() {
    on_both(crate::SCHEMA, |db| async move {
        let service = open(db.clone());
        receive(&service, "tea-01", 5).await;
        receive(&service, "tea-02", 1).await;
        let before = banyan_durable_testing::published(&db).await.len();
        let reservation = service
            .reserve_stock(&call(), reserve(&id(), &[("tea-01", 5), ("tea-02", 2)]))
            .await
            .unwrap();
        let Some(reservation::Outcome::Insufficient(short)) = reservation.outcome else {
            panic!("{reservation:?}")
        };
        assert_eq!((short.sku.as_str(), short.wanted, short.available), ("tea-02", 2, 1));
        assert_eq!(assert_balanced(&service, "tea-01").await.reserved, 0);
        assert_eq!(store::sum_ledger(db.read(), &sku("tea-01")).await.get("reserved"), None);
        assert_eq!(banyan_durable_testing::published(&db).await.len(), before);
    })
    .await;
}

#[tokio::test]
async fn the_books_balance_over_a_whole_life() {
    on_both(crate::SCHEMA, |db| async move {
        let service = open(db);
        receive(&service, "tea-01", 10).await;
        let order = id();
        service
            .reserve_stock(&call(), reserve(&order, &[("tea-01", 4)]))
            .await
            .unwrap();
        assert_eq!(adjust(&service, "tea-01", -7).await.unwrap_err().code, "below_reserved");
        assert_eq!(adjust(&service, "tea-01", -6).await.unwrap().available(), 0);
        assert_eq!(adjust(&service, "tea-01", 2).await.unwrap().on_hand, 6);
        service
            .commit_stock(
                &call(),
                CommitStock {
                    command_id: id(),
                    order_id: order.clone(),
                },
            )
            .await
            .unwrap();
        assert_eq!(assert_balanced(&service, "tea-01").await.on_hand, 2);
        service
            .restock_order(
                &call(),
                RestockOrder {
                    command_id: id(),
                    order_id: order,
                    ..RestockOrder::default()
                },
            )
            .await
            .unwrap();
        let item = assert_balanced(&service, "tea-01").await;
        assert_eq!((item.on_hand, item.reserved, item.version), (6, 0, 6));
        let sums = store::sum_ledger(service.db().read(), &item.sku).await;
        assert_eq!(
            (
                sums["received"],
                sums["written_off"],
                sums["committed"],
                sums["restocked"]
            ),
            (12, 6, 4, 4)
        );
    })
    .await;
}

#[tokio::test]
async fn an_item_that_was_never_received_cannot_be_adjusted() {
    on_both(crate::SCHEMA, |db| async move {
        let service = open(db);
        for difference in [-1, 1] {
            assert_eq!(
                adjust(&service, "tea-01", difference).await.unwrap_err().code,
                "not_found"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn the_demo_stock_is_added_once() {
    on_both(crate::SCHEMA, |db| async move {
        let service = open(db.clone());
        let began = std::time::Instant::now();
        seed::add_demo_stock(&service).await.unwrap();
        println!("{:?}: the demo stock was added in {:?}", db.backend(), began.elapsed());
        adjust(&service, "rare-fig", -1).await.unwrap();
        seed::add_demo_stock(&service).await.unwrap();
        assert_eq!(assert_balanced(&service, "rare-fig").await.on_hand, 2);
        assert_eq!(assert_balanced(&service, "kitchen-17").await.on_hand, 100_000);
        assert_eq!(banyan_durable_testing::published(&db).await.len(), 121);
    })
    .await;
}

/// After 30 days the inbox forgets a command that took effect. A saga that was parked for longer may still repeat it.
#[tokio::test]
async fn a_command_that_is_repeated_after_it_was_forgotten_does_nothing_again() {
    on_both(crate::SCHEMA, |db| async move {
        let service = open(db.clone());
        receive(&service, "tea-01", 10).await;
        let forget = async || {
            let forgotten = db.write((), |tx, ()| async move {
                let sql = "delete from inbox where expires_at is not null";
                sea_orm::ConnectionTrait::execute_unprepared(tx.conn(), sql)
                    .await
                    .map_err(banyan_durable::fault)
            });
            assert!(forgotten.await.unwrap().rows_affected() > 0);
        };
        let levels = async || {
            let item = assert_balanced(&service, "tea-01").await;
            (item.on_hand, item.reserved)
        };
        let request = reserve(&id(), &[("tea-01", 4)]);
        let order_id = request.order_id.clone();
        let commit = CommitStock {
            command_id: id(),
            order_id: order_id.clone(),
        };
        let restock = RestockOrder {
            command_id: id(),
            order_id: order_id.clone(),
            ..RestockOrder::default()
        };
        for _ in 0..2 {
            assert!(is_reserved(
                &service.reserve_stock(&call(), request.clone()).await.unwrap()
            ));
            assert_eq!(levels().await, (10, 4));
            forget().await;
        }
        for _ in 0..2 {
            service.commit_stock(&call(), commit.clone()).await.unwrap();
            assert_eq!(levels().await, (6, 0));
            forget().await;
        }
        for _ in 0..2 {
            service.restock_order(&call(), restock.clone()).await.unwrap();
            assert_eq!(levels().await, (10, 0));
            forget().await;
        }
        assert!(is_reserved(
            &service.reserve_stock(&call(), request.clone()).await.unwrap()
        ));
        service.commit_stock(&call(), commit).await.unwrap();
        assert_eq!(levels().await, (10, 0), "late copies of what was restocked do nothing");

        // A reservation whose command is forgotten is undone, and only once.
        let request = reserve(&id(), &[("tea-01", 4)]);
        let undo = ReleaseStock {
            command_id: id(),
            undoes: request.command_id.clone(),
            order_id: request.order_id.clone(),
            ..ReleaseStock::default()
        };
        assert!(is_reserved(
            &service.reserve_stock(&call(), request.clone()).await.unwrap()
        ));
        forget().await;
        for _ in 0..2 {
            service.release_stock(&call(), undo.clone()).await.unwrap();
            assert_eq!(levels().await, (10, 0));
            forget().await;
        }
        let late = service.reserve_stock(&call(), request).await.unwrap();
        assert!(
            matches!(late.outcome, Some(reservation::Outcome::Undone(_))),
            "{late:?}"
        );
        assert_eq!(levels().await, (10, 0));
    })
    .await;
}
