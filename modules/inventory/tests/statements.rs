//! What a command costs PostgreSQL: its statements are counted, and their number does not depend on the number of lines.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use banyan_core::{Call, RandomIds, SystemClock};
use banyan_durable::Db;
use banyan_durable_testing::{PostgresHome, StatementLog, open, published, settings};
use inventory::{Needs, Offers, start};
use inventory_contract::{
    CommitStock, Inventory, ReleaseStock, ReserveStock, RestockOrder, StockLine, reservation::Outcome,
};
use sea_orm::{ConnectionTrait, Statement};
use uuid::Uuid;

/// An inventory with the demo stock, whose statements pass through the log.
async fn stocked(
    home: &PostgresHome,
    delay: Duration,
    publishes_levels: bool,
) -> (StatementLog, Db, Arc<dyn Inventory>) {
    let storage = home.storage("inventory").await;
    let offers = |db: &Db| {
        start(Needs {
            db: db.clone(),
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            publishes_levels,
        })
    };
    let db = open(inventory::SCHEMA, &storage, settings()).await;
    let Offers { seed, .. } = offers(&db).await.expect("inventory starts");
    seed().await.expect("the demo stock is added");
    db.close().await;
    let (log, storage) = StatementLog::before(&storage, delay).await;
    let db = open(inventory::SCHEMA, &storage, settings()).await;
    let contract = offers(&db).await.expect("inventory starts").contract;
    (log, db, contract)
}

fn id() -> String {
    Uuid::new_v4().to_string()
}

/// The first `lines` demo products, one of each.
fn order(lines: usize) -> ReserveStock {
    let words = ["plant", "seed", "pot", "tool", "tea", "book", "kitchen"];
    let skus = words
        .iter()
        .flat_map(|word| (1..=17).map(move |number| format!("{word}-{number:02}")));
    ReserveStock {
        command_id: id(),
        order_id: id(),
        lines: skus.take(lines).map(|sku| StockLine { sku, quantity: 1 }).collect(),
    }
}

/// The statements of reserving, committing and restocking one order, and of releasing another.
async fn statements(log: &StatementLog, inventory: &dyn Inventory, lines: usize) -> [Vec<String>; 4] {
    let (call, request, given_up) = (Call::by_module("orders"), order(lines), order(lines));
    let (order_id, command_id) = (request.order_id.clone(), id());
    let release = ReleaseStock {
        command_id: id(),
        undoes: given_up.command_id.clone(),
        order_id: given_up.order_id.clone(),
        ..ReleaseStock::default()
    };
    inventory.reserve_stock(&call, given_up).await.expect("reserved");
    log.take();
    let reservation = inventory.reserve_stock(&call, request).await.expect("reserved");
    assert!(
        matches!(reservation.outcome, Some(Outcome::Reserved(_))),
        "{reservation:?}"
    );
    let reserved = log.take();
    let commit = CommitStock {
        command_id,
        order_id: order_id.clone(),
    };
    inventory.commit_stock(&call, commit).await.expect("committed");
    let committed = log.take();
    let restock = RestockOrder {
        command_id: id(),
        order_id,
        ..RestockOrder::default()
    };
    inventory.restock_order(&call, restock).await.expect("restocked");
    let restocked = log.take();
    assert!(
        inventory
            .release_stock(&call, release)
            .await
            .expect("released")
            .released
    );
    let released = log.take();
    [reserved, committed, restocked, released]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_has_the_same_few_statements_for_one_line_and_for_a_hundred() {
    for (publishes_levels, expected) in [(false, [5, 4, 5, 7]), (true, [7, 7, 7, 9])] {
        let home = PostgresHome::new().await;
        let (log, db, inventory) = stocked(&home, Duration::ZERO, publishes_levels).await;
        for lines in [1, 2, 100] {
            let statements = statements(&log, &*inventory, lines).await;
            let counts = statements.each_ref().map(Vec::len);
            assert_eq!(counts, expected, "{lines} lines: {statements:#?}");
        }
        let levels = published(&db).await.len();
        assert_eq!(levels, if publishes_levels { 120 + 5 * 103 } else { 0 });
        db.close().await;
        home.remove().await;
    }
}

/// PostgreSQL updates the rows of one statement in whatever order it finds them; without an order, two orders for the same products deadlock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_orders_for_the_same_products_do_not_deadlock() {
    let home = PostgresHome::new().await;
    let (_log, db, inventory) = stocked(&home, Duration::ZERO, true).await;
    for round in 0..4 {
        let orders = (0..16).map(|number| {
            let (inventory, mut request) = (inventory.clone(), order(100));
            // Plans differ with the number of lines, and so does the order in which they find the rows.
            request.lines.rotate_left(number * 6);
            request.lines.truncate(20 + 80 * ((number + round) % 2));
            tokio::spawn(async move {
                let call = Call::by_module("orders");
                let order_id = request.order_id.clone();
                inventory.reserve_stock(&call, request).await.expect("reserved");
                let commit = CommitStock {
                    command_id: id(),
                    order_id,
                };
                inventory.commit_stock(&call, commit).await.expect("committed");
            })
        });
        for order in orders.collect::<Vec<_>>() {
            order.await.expect("the order is done");
        }
    }
    let sql = "select deadlocks from pg_stat_database where datname = current_database()";
    let row = db.read().query_one_raw(Statement::from_string(db.backend(), sql)).await;
    let deadlocks: i64 = row.unwrap().expect("a row").try_get("", "deadlocks").unwrap();
    assert_eq!(deadlocks, 0);
    db.close().await;
    home.remove().await;
}

/// A write may take one second; with a statement for each line it took longer and was repeated for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_of_a_hundred_lines_is_quick_although_the_database_is_far() {
    let home = PostgresHome::new().await;
    let (log, db, inventory) = stocked(&home, Duration::from_millis(4), true).await;
    let began = Instant::now();
    statements(&log, &*inventory, 100).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    db.close().await;
    home.remove().await;
}
