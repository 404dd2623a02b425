//! What an order costs the databases: the statements and transactions of each module, counted by the shop and compared with a budget.
//!
//! Counts do not depend on the machine, so this is a test. A change that makes an order dearer fails it; one that makes it cheaper lowers the budget.
//! `cargo test -p tests --test banyan -- budget --nocapture` prints the counts.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use libtest_mimic::{Failed, Trial};
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    harness::{Client, Shop, Stage, new_key, order_body, runtime},
    scenarios::new_product,
};

/// The customers who order at the same time, and the orders of each.
const CUSTOMERS: usize = 32;
const ORDERS: usize = 4;

/// A third above what is counted (78 statements and 3 commits on SQLite, 70 and 20 on PostgreSQL), because a busy machine shares fewer and polls more for
/// each order. For an order of two lines, placed with `Prefer: wait`, until its mails are captured and its events consumed.
struct Budget {
    stage: Stage,
    statements: f64,
    transactions: f64,
}

const BUDGETS: [Budget; 2] = [
    Budget {
        stage: Stage::Sqlite,
        statements: 104.0,
        transactions: 12.0,
    },
    Budget {
        stage: Stage::Postgres,
        statements: 95.0,
        transactions: 26.0,
    },
];

pub fn trials() -> Vec<Trial> {
    BUDGETS
        .into_iter()
        .map(|budget| {
            let name = format!(
                "budget[{}]::an_order_costs_no_more_than_its_budget",
                budget.stage.name()
            );
            Trial::test(name, move || runtime().block_on(compare(budget)))
        })
        .collect()
}

/// The counters of each module: statements, transactions.
type Counts = BTreeMap<String, [f64; 2]>;

async fn compare(budget: Budget) -> Result<(), Failed> {
    let shop = Shop::start_with(budget.stage, &[("BANYAN__LOG__FILTER", "warn")]).await;
    let client = shop.client();
    let skus = [
        new_product(&client, 1_000, 100_000).await,
        new_product(&client, 2_000, 100_000).await,
    ];
    let mut customers = Vec::new();
    for _ in 0..CUSTOMERS {
        customers.push(client.new_customer().await);
    }
    place(&customers, &skus, 1).await;
    let before = settled(&client).await;
    place(&customers, &skus, ORDERS).await;
    let after = settled(&client).await;
    shop.remove().await;
    let (table, [statements, transactions]) = per_order(&before, &after);
    if std::env::args().any(|argument| argument == "--nocapture") {
        eprintln!("{}: one order\n{table}", budget.stage.name());
    }
    if statements > budget.statements || transactions > budget.transactions {
        let allowed = format!(
            "{} statements and {} transactions",
            budget.statements, budget.transactions
        );
        return Err(format!("an order costs more than {allowed}:\n{table}").into());
    }
    Ok(())
}

/// Each customer orders this number of times, one order after the other, all customers at the same time.
pub async fn place(customers: &[Client], skus: &[String; 2], orders: usize) {
    let mut placing = JoinSet::new();
    for customer in customers {
        let (customer, skus) = (customer.clone(), skus.clone());
        placing.spawn(async move {
            for _ in 0..orders {
                let mut body = order_body(&skus[0], 1, "pm_card_visa");
                body["items"] = json!([{"sku": skus[0], "quantity": 1}, {"sku": skus[1], "quantity": 2}]);
                let key = new_key();
                let headers = [("Idempotency-Key", key.as_str()), ("Prefer", "wait=20")];
                let placed = customer
                    .send(Method::POST, "/api/v1/orders", &headers, Some(&body))
                    .await;
                assert_eq!(placed.expect(201).json()["status"], "confirmed");
            }
        });
    }
    while let Some(placed) = placing.join_next().await {
        placed.expect("the orders are placed");
    }
}

/// The counts when the work behind the orders is done: when they grow no faster than those of an idle shop.
async fn settled(client: &Client) -> Counts {
    let mut last = counts(client).await;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = counts(client).await;
        let grown: f64 = now
            .iter()
            .map(|(module, [_, transactions])| transactions - last.get(module).map_or(0.0, |last| last[1]))
            .sum();
        last = now;
        if grown < 8.0 {
            break;
        }
    }
    last
}

async fn counts(client: &Client) -> Counts {
    let metrics = String::from_utf8(client.get("/metrics").await.expect(200).bytes).expect("text");
    let mut counts = Counts::new();
    for line in metrics.lines() {
        let names = ["banyan_database_statements_total", "banyan_database_transactions_total"];
        for (index, name) in names.into_iter().enumerate() {
            let Some((labels, value)) = line.strip_prefix(name).and_then(|rest| rest.rsplit_once(' ')) else {
                continue;
            };
            let module = labels.split('"').nth(1).unwrap_or_default().to_owned();
            counts.entry(module).or_default()[index] = value.parse().expect("a number");
        }
    }
    assert!(!counts.is_empty(), "the shop counts its statements");
    counts
}

/// The table of the modules, and the sums.
fn per_order(before: &Counts, after: &Counts) -> (String, [f64; 2]) {
    let orders = (CUSTOMERS * ORDERS) as f64;
    let mut table = format!("{:<20} {:>10} {:>12}\n", "module", "statements", "transactions");
    let mut sums = [0.0; 2];
    for (module, counts) in after {
        let earlier = before.get(module).copied().unwrap_or_default();
        let [statements, transactions] = [0, 1].map(|index| (counts[index] - earlier[index]) / orders);
        sums = [sums[0] + statements, sums[1] + transactions];
        let _ = writeln!(table, "{module:<20} {statements:>10.2} {transactions:>12.2}");
    }
    let _ = writeln!(table, "{:<20} {:>10.2} {:>12.2}", "all", sums[0], sums[1]);
    (table, sums)
}
