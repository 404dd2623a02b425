//! What a finished order leaves in the databases: the bytes of each table with its indexes, soon after it, and when what ends has ended.
//!
//! Counted on SQLite, whose pages tell what is used of them. `cargo test -p tests --test banyan -- growth::an_order --nocapture` prints the table.

use std::{collections::BTreeMap, fmt::Write, path::Path, time::Duration};

use banyan_core::{Clock, SystemClock};
use libtest_mimic::Failed;
use sea_orm::FromQueryResult;

use crate::{
    budget::place,
    data::{connect, execute, owners, rows},
    harness::{Shop, Stage, runtime},
    scenarios::new_product,
};

const CUSTOMERS: usize = 4;
const ORDERS: usize = 16;

/// A tenth above what is counted: bytes of an order of two lines, with its two mails, for ever.
const BUDGET: f64 = 8_500.0;

/// By owner and table.
type Bytes = BTreeMap<(String, String), f64>;

pub fn an_order_leaves_no_more_bytes_than_its_budget() -> Result<(), Failed> {
    runtime().block_on(async {
        let mut shop = Shop::start(Stage::Sqlite).await;
        let client = shop.client();
        let skus = [
            new_product(&client, 1_000, 1_000).await,
            new_product(&client, 2_000, 1_000).await,
        ];
        let mut customers = Vec::new();
        for _ in 0..CUSTOMERS {
            customers.push(client.new_customer().await);
        }
        let directory = shop.directory();
        until_quiet(&directory).await;
        let before = bytes(&directory).await;
        place(&customers, &skus, ORDERS).await;
        until_quiet(&directory).await;
        let soon = bytes(&directory).await;
        shop.kill().await;
        age(&directory).await;
        shop.boot().await;
        until_ended(&directory).await;
        let later = bytes(&directory).await;
        shop.remove().await;
        let (table, kept) = table(&before, &soon, &later);
        if std::env::args().any(|argument| argument == "--nocapture") {
            eprintln!("{table}");
        }
        if kept <= BUDGET {
            return Ok(());
        }
        Err(format!("an order leaves more than {BUDGET} bytes for ever:\n{table}").into())
    })
}

/// The bytes used in each table and its indexes.
async fn bytes(directory: &Path) -> Bytes {
    #[derive(FromQueryResult)]
    struct Row {
        name: String,
        bytes: i64,
    }
    let sql = "select schema.tbl_name as name, sum(pages.pgsize - pages.unused) as bytes
               from dbstat pages join sqlite_schema schema on schema.name = pages.name group by schema.tbl_name";
    let mut all = Bytes::new();
    for owner in owners() {
        let database = connect(directory, None, owner).await;
        let tables: Vec<Row> = rows(&database, sql).await;
        all.extend(
            tables
                .into_iter()
                .map(|row| ((owner.to_owned(), row.name), row.bytes as f64)),
        );
        database.close().await;
    }
    all
}

/// All that has a time happened a hundred days earlier: longer ago than anything is kept that ends.
async fn age(directory: &Path) {
    let earlier = [
        ("inbox", "created_at"),
        ("inbox", "expires_at"),
        ("outbox", "created_at"),
        ("outbox", "sent_at"),
        ("saga", "updated_at"),
        ("notification", "created_at"),
    ];
    for owner in owners() {
        let database = connect(directory, None, owner).await;
        for (table, column) in earlier {
            // Not every owner has every table.
            let update = format!("update {table} set {column} = {column} - 8640000000");
            let _ = execute(&database, &update).await;
        }
        // Subscribers have handled everything.
        for (_, confirm) in load::copies::confirmed(SystemClock.now().as_ms().unsigned_abs()) {
            let _ = execute(&database, &confirm).await;
        }
        database.close().await;
    }
}

async fn until_quiet(directory: &Path) {
    until(
        directory,
        "the shop is quiet",
        &[
            "select count(*) as rows from outbox where state = 'pending'",
            "select count(*) as rows from saga where state in ('running', 'compensating')",
            "select count(*) as rows from notification where status = 'queued'",
            "select count(*) as rows from retry",
        ],
    )
    .await;
}

async fn until_ended(directory: &Path) {
    until(
        directory,
        "what ends has ended",
        &[
            "select count(*) as rows from outbox where state = 'sent'",
            "select count(*) as rows from inbox where expires_at < unixepoch('now', '-1 day') * 1000",
            "select count(*) as rows from saga where payload <> ''",
        ],
    )
    .await;
}

/// Waits until each of the counts is 0 in every database that has the table.
async fn until(directory: &Path, what: &str, counts: &[&str]) {
    #[derive(FromQueryResult)]
    struct Count {
        rows: i64,
    }
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let mut left = Vec::new();
        for owner in owners() {
            let database = connect(directory, None, owner).await;
            let tables = crate::data::names(&database, "select name from sqlite_schema where type = 'table'").await;
            for count in counts {
                let table = count.split_whitespace().skip_while(|word| *word != "from").nth(1);
                if !tables.iter().any(|name| Some(name.as_str()) == table) {
                    continue;
                }
                let found: Vec<Count> = rows(&database, count).await;
                let found = found.first().map_or(0, |count| count.rows);
                if found > 0 {
                    left.push(format!("{owner}: {found} of {count}"));
                }
            }
            database.close().await;
        }
        if left.is_empty() {
            return;
        }
        assert!(
            tokio::time::Instant::now() < end,
            "{what}, not within a minute: {left:#?}"
        );
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// The bytes of an order by table, and what of them stays for ever.
fn table(before: &Bytes, soon: &Bytes, later: &Bytes) -> (String, f64) {
    let orders = (CUSTOMERS * ORDERS) as f64;
    let mut table = format!("{:<40} {:>8} {:>8}\n", "bytes of an order", "soon", "for ever");
    let mut sums = [0.0; 2];
    for (key, soon) in soon {
        let before = before.get(key).copied().unwrap_or_default();
        // What was there before may have ended as well.
        let later = later.get(key).copied().unwrap_or_default();
        let of_an_order = [*soon, later].map(|bytes| (bytes - before).max(0.0) / orders);
        sums = [sums[0] + of_an_order[0], sums[1] + of_an_order[1]];
        if of_an_order.iter().any(|bytes| bytes.abs() >= 8.0) {
            let name = format!("{} {}", key.0, key.1);
            let _ = writeln!(table, "{name:<40} {:>8.0} {:>8.0}", of_an_order[0], of_an_order[1]);
        }
    }
    let _ = writeln!(table, "{:<40} {:>8.0} {:>8.0}", "all", sums[0], sums[1]);
    (table, sums[1])
}
