//! A module whose database is restored from a backup, while the others keep what they had.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    checks,
    installation::{Installation, Process},
};
use crate::{
    harness::{Client, Stage},
    scenarios::eventually,
};

checks![what_a_restored_module_lost_is_named_by_its_subscribers];

fn file(installation: &Installation, module: &str) -> PathBuf {
    installation.data_directory().join(format!("{module}.db"))
}

fn backup(installation: &Installation, module: &str) -> PathBuf {
    installation.directory().join(format!("{module}.backup"))
}

/// Copies a closed database.
fn back_up(installation: &Installation, module: &str) {
    fs::copy(file(installation, module), backup(installation, module)).expect("a copy");
}

fn restore(installation: &Installation, module: &str) {
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(installation.data_directory().join(format!("{module}.db{suffix}")));
    }
    fs::copy(backup(installation, module), file(installation, module)).expect("a copy");
}

/// Waits until orders knows that its producers have stored how far it came.
async fn acknowledged(installation: &Installation) {
    let file = file(installation, "orders");
    let sql = "select count(*) from compared where source in ('payments', 'shipping') and acknowledged_ms > 0";
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let connection = rusqlite::Connection::open(&file).expect("the file");
        let count = connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        if count.is_ok_and(|count| count >= 2) {
            return;
        }
        assert!(Instant::now() < end, "nothing was acknowledged");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn confirmed_order(shop: &Process, customer: &Client) -> Value {
    let customer = shop.client.with_token(customer.token());
    let order = customer.order("tea-01", 1, "pm_card_visa").await;
    let path = format!("/api/v1/orders/{}", order["id"].as_str().expect("an id"));
    let has_parcel = |order: &Value| order["status"] == "confirmed" && !order["shipment"].is_null();
    eventually(
        &customer,
        &path,
        "it is confirmed, and its shipment is known",
        has_parcel,
    )
    .await
}

/// The dead letters of orders that say that a producer lost something: source and aggregate.
async fn went_back(shop: &Process) -> Vec<(String, String)> {
    let ops = shop.client.ops().await;
    let page = ops
        .get("/api/v1/ops/orders/dead-letters?limit=100")
        .await
        .expect(200)
        .json();
    let letters = page["items"].as_array().expect("a list").iter();
    letters
        .filter(|letter| letter["type"] == "went_back")
        .map(|letter| {
            let text = |name: &str| letter[name].as_str().expect("a text").to_owned();
            (
                text("source"),
                text("subject").split('/').next().unwrap_or_default().to_owned(),
            )
        })
        .collect()
}

/// The backup is of yesterday, so no comparison as a rule reaches back to it. An order was confirmed since then.
async fn what_a_restored_module_lost_is_named_by_its_subscribers() {
    let installation = Installation::new(Stage::Sqlite)
        .await
        .with(&[("BANYAN__DURABLE__FEED_COMPARE_MS", "200")]);
    let restored = ["payments", "shipping"];
    let shop = installation.serve().await;
    let customer = shop.client.new_customer().await;
    confirmed_order(&shop, &customer).await;
    acknowledged(&installation).await;
    shop.stop().await;
    for module in restored {
        back_up(&installation, module);
        let yesterday = rusqlite::Connection::open(backup(&installation, module)).expect("the copy");
        for sql in [
            "update subject set changed_at = changed_at - 86400000",
            "update subscriber set confirmed_before = max(confirmed_before - 86400000, 1) where confirmed_before > 0",
        ] {
            yesterday.execute(sql, []).expect("the times are those of yesterday");
        }
    }
    let shop = installation.serve().await;
    confirmed_order(&shop, &customer).await;
    shop.stop().await;

    for module in restored {
        restore(&installation, module);
    }
    let shop = installation.serve().await;
    let expected: BTreeSet<(String, String)> = [("payments", "payment"), ("shipping", "shipment")]
        .map(|(source, aggregate)| (source.to_owned(), aggregate.to_owned()))
        .into();
    let end = Instant::now() + Duration::from_secs(30);
    let letters = loop {
        let letters = went_back(&shop).await;
        if letters.iter().cloned().collect::<BTreeSet<_>>() == expected {
            break letters;
        }
        assert!(Instant::now() < end, "{letters:?}\n{}", shop.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(letters.len(), 2, "only what began after the backup: {letters:?}");
    confirmed_order(&shop, &customer).await;
    shop.stop().await;
}
