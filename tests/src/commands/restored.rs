//! A module whose database is restored from a backup, while the others keep what they had.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::Value;

use banyan_durable_testing::PostgresHome;
use tokio::process::Command;

use super::{
    checks,
    installation::{Installation, Process},
};
use crate::{
    harness::{Client, Stage},
    scenarios::eventually,
};

checks![
    what_a_restored_module_lost_is_named_by_its_subscribers,
    a_file_that_is_older_than_the_others_is_refused_until_it_is_accepted,
    a_start_that_is_killed_at_any_moment_is_no_restore,
    a_module_that_was_moved_to_a_database_of_its_own_was_not_restored
];

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
    let accept = ["migrate", "--accept-older", "payments", "--accept-older", "shipping"];
    installation.run(&accept).await.expect(0);
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

/// Nobody subscribes to inventory: units that it sold after the backup would be sold again.
async fn a_file_that_is_older_than_the_others_is_refused_until_it_is_accepted() {
    let installation = Installation::new(Stage::Sqlite).await;
    installation.serve().await.stop().await;
    let all = [
        "users",
        "catalog",
        "inventory",
        "orders",
        "payments",
        "shipping",
        "notifications",
        "sandbox-provider",
    ];
    for module in all {
        back_up(&installation, module);
    }
    installation.serve().await.stop().await;
    // All from one time need no step.
    for module in all {
        restore(&installation, module);
    }
    installation.serve().await.stop().await;

    restore(&installation, "inventory");
    for arguments in [&["serve"][..], &["migrate"], &["seed"]] {
        let words = [
            "inventory.db is of 2",
            "remembers it as of 2",
            "from backups of the same time",
            "`banyan migrate --accept-older inventory`",
        ];
        installation.run(arguments).await.expect(1).stderr_contains(&words);
    }
    let newer = installation
        .run(&["migrate", "--accept-older", "orders"])
        .await
        .expect(1);
    newer.stderr_contains(&["--accept-older orders: no other database remembers a newer one"]);
    let accept = ["migrate", "--accept-older", "inventory"];
    installation.run(&accept).await.expect(0);
    installation.serve().await.stop().await;
    // The acceptance was of that restore, and not of the next.
    restore(&installation, "inventory");
    installation
        .run(&["serve"])
        .await
        .expect(1)
        .stderr_contains(&["--accept-older inventory"]);
    // The one that is newer than all others is as wrong.
    for module in all.into_iter().filter(|module| *module != "orders") {
        restore(&installation, module);
    }
    let newer = installation.run(&["serve"]).await.expect(1);
    newer.stderr_contains(&["orders.db remembers it", "(and 6 more)"]);
}

async fn a_start_that_is_killed_at_any_moment_is_no_restore() {
    let installation = Installation::new(Stage::Sqlite).await;
    installation.run(&["seed"]).await.expect(0);
    for after_ms in [50, 100, 150, 200, 250, 300, 400, 500] {
        installation.kill_after(Duration::from_millis(after_ms)).await;
    }
    installation.serve().await.kill().await;
    let mut shop = installation.serve().await;
    shop.signal("TERM").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    shop.signal("KILL").await;
    shop.ended().await;
    installation.serve().await.stop().await;
}

/// As in docs/how-to/split.md. What stays behind is of the time of the move, and is noticed if it is used by mistake.
async fn a_module_that_was_moved_to_a_database_of_its_own_was_not_restored() {
    let has = async |tool: &str| Command::new(tool).arg("--version").output().await.is_ok();
    if !has("pg_dump").await || !has("psql").await {
        eprintln!("skipped: pg_dump and psql are not in the path");
        return;
    }
    let installation = Installation::new(Stage::Postgres).await;
    let own = PostgresHome::new().await;
    installation.serve().await.stop().await;
    let from = installation.database_url().expect("PostgreSQL");
    let script = format!(
        "pg_dump --schema=payments --schema=sandbox_provider --no-owner --no-acl '{from}' | psql -q '{}'",
        own.url()
    );
    let moved = Command::new("sh").args(["-c", &script]).output().await.expect("sh");
    assert!(moved.status.success(), "{moved:?}");
    let url = own.url();
    let settings = [("BANYAN__MODULES__PAYMENTS__DATABASE_URL", url.as_str())];
    for _ in 0..2 {
        installation.serve_with(&settings).await.stop().await;
    }
    let mistaken = installation.run(&["serve"]).await.expect(1);
    mistaken.stderr_contains(&[
        "the schema payments at",
        "remembers it as of",
        "--accept-older payments",
    ]);
    installation.remove().await;
    own.remove().await;
}
