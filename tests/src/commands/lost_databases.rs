//! Databases that are missing, empty, damaged, full, or another installation's: what is refused, what the message says, and what goes on working.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use reqwest::Method;
use serde_json::Value;
use tokio::process::Command;

use super::{
    checks,
    installation::{Installation, Process},
};
use crate::{
    data,
    harness::{Stage, binary, new_key, order_body},
    scenarios::eventually,
};

checks![
    a_file_that_is_lost_is_not_made_anew,
    a_schema_that_is_lost_is_not_made_anew,
    a_file_of_another_installation_is_refused,
    a_file_that_was_damaged_in_a_crash_is_refused,
    damage_that_a_statement_meets_ends_readiness,
    a_file_that_is_replaced_or_removed_under_a_running_shop_is_not_written_to,
    a_full_disk_ends_readiness_and_nothing_accepted_is_lost;
    on both: a_new_module_is_made_and_databases_of_an_earlier_version_join
];

fn file(installation: &Installation, name: &str) -> PathBuf {
    installation.data_directory().join(name)
}

async fn sql(installation: &Installation, owner: &str, sql: &str) {
    let (directory, url) = (installation.data_directory(), installation.database_url());
    let connection = data::connect(&directory, url.as_deref(), owner).await;
    data::execute(&connection, sql).await.expect("it runs");
    connection.close().await;
}

async fn installation_ids(installation: &Installation) -> Vec<String> {
    let (directory, url) = (installation.data_directory(), installation.database_url());
    let mut ids = Vec::new();
    for owner in data::owners() {
        let connection = data::connect(&directory, url.as_deref(), owner).await;
        let text = match url {
            Some(_) => "id::text",
            None => "lower(hex(id))",
        };
        let members = format!("select distinct replace({text}, '-', '') as name from installation");
        ids.extend(data::names(&connection, &members).await);
        connection.close().await;
    }
    ids
}

/// The file of a module, and that of further storage beside it; missing, and empty.
async fn a_file_that_is_lost_is_not_made_anew() {
    let installation = Installation::new(Stage::Sqlite).await;
    installation.serve().await.stop().await;
    for (file_name, name) in [("orders.db", "orders"), ("sandbox-provider.db", "sandbox_provider")] {
        let (path, kept) = (file(&installation, file_name), file(&installation, "kept"));
        fs::rename(&path, &kept).expect("it was closed");
        let option = format!("--new-module {name}");
        for state in ["missing", "empty"] {
            if state == "empty" {
                fs::write(&path, "").expect("an empty file");
            }
            for arguments in [&["serve"][..], &["migrate"], &["seed"]] {
                let words = [file_name, state, "users.db", "Restore it", &option, "seed --reset"];
                installation.run(arguments).await.expect(1).stderr_contains(&words);
            }
            assert_eq!(path.exists(), state == "empty", "nothing was created");
        }
        fs::remove_file(&path).expect("the empty file");
        if name == "orders" {
            let status = installation.run(&["migrate", "status"]).await.expect(0).out;
            assert!(status.contains("orders         0 applied"), "{status}");
            assert!(!path.exists(), "status creates nothing");
        }
        fs::rename(&kept, &path).expect("restored");
        installation.serve().await.stop().await;
    }
    installation
        .run(&["migrate", "--new-module", "orders"])
        .await
        .expect(1)
        .stderr_contains(&["orders.db", "is there"]);
    for name in ["orders.db", "sandbox-provider.db"] {
        fs::remove_file(file(&installation, name)).expect("it was closed");
    }
    let on_purpose = ["migrate", "--new-module", "orders", "--new-module", "sandbox_provider"];
    installation.run(&on_purpose).await.expect(0);
    installation.serve().await.stop().await;
    let ids = installation_ids(&installation).await;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    // Everything gone at once is a new installation.
    installation.run(&["seed", "--reset"]).await.expect(0);
}

async fn a_schema_that_is_lost_is_not_made_anew() {
    let installation = Installation::new(Stage::Postgres).await;
    installation.run(&["seed"]).await.expect(0);
    // As in docs/how-to/split.md: the module was moved, and not moved back.
    sql(&installation, "orders", "alter schema orders rename to orders_moved").await;
    for arguments in [&["serve"][..], &["migrate"], &["migrate", "--provision"]] {
        let words = [
            "the schema orders at",
            "missing or has no tables",
            "--new-module orders",
        ];
        installation.run(arguments).await.expect(1).stderr_contains(&words);
    }
    sql(&installation, "orders_moved", "drop schema orders").await;
    sql(
        &installation,
        "orders_moved",
        "alter schema orders_moved rename to orders",
    )
    .await;
    installation.serve().await.stop().await;
    installation.remove().await;
}

async fn a_file_of_another_installation_is_refused() {
    let (one, other) = (
        Installation::new(Stage::Sqlite).await,
        Installation::new(Stage::Sqlite).await,
    );
    one.run(&["seed"]).await.expect(0);
    other.run(&["seed"]).await.expect(0);
    fs::copy(file(&other, "orders.db"), file(&one, "orders.db")).expect("copied");
    for arguments in [&["serve"][..], &["migrate"]] {
        let words = [
            "orders.db belongs to another installation",
            "users.db",
            "--adopt orders",
        ];
        one.run(arguments).await.expect(1).stderr_contains(&words);
    }
    one.run(&["migrate", "--adopt", "orders"]).await.expect(0);
    one.serve().await.stop().await;
}

async fn a_new_module_is_made_and_databases_of_an_earlier_version_join(stage: Stage) {
    let installation = Installation::new(stage).await;
    installation.run(&["seed"]).await.expect(0);
    // As an upgrade finds it: databases without an installation, and none for a module that is new.
    for owner in data::owners() {
        sql(&installation, owner, "delete from installation").await;
    }
    match stage {
        Stage::Sqlite => fs::remove_file(file(&installation, "shipping.db")).expect("it was closed"),
        _ => sql(&installation, "shipping", "drop schema shipping cascade").await,
    }
    installation.serve().await.stop().await;
    let ids = installation_ids(&installation).await;
    assert_eq!(ids.len(), data::owners().count());
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    installation.remove().await;
}

async fn a_file_that_was_damaged_in_a_crash_is_refused() {
    let installation = Installation::new(Stage::Sqlite).await;
    installation.run(&["seed"]).await.expect(0);
    installation.serve().await.kill().await;
    let path = file(&installation, "catalog.db");
    // A start alone does not meet it.
    damage_table(&path, "product");
    // Twice: a start that is refused does not count as an end in order.
    for arguments in [&["serve"][..], &["migrate"], &["serve"]] {
        installation.run(arguments).await.expect(1).stderr_contains(&[
            "catalog.db is damaged",
            "restore it from a backup",
            ".recover",
        ]);
    }
    // Restored: another file, checked because the last end was not in order.
    let other = Installation::new(Stage::Sqlite).await;
    other.run(&["seed"]).await.expect(0);
    fs::copy(file(&other, "catalog.db"), &path).expect("restored");
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(file(&installation, &format!("catalog.db{suffix}")));
    }
    installation.run(&["migrate", "--adopt", "catalog"]).await.expect(0);
    installation.serve().await.stop().await;
}

async fn damage_that_a_statement_meets_ends_readiness() {
    let installation = Installation::new(Stage::Sqlite).await;
    installation.run(&["seed"]).await.expect(0);
    // The last end was in order, so nothing is checked at the start.
    let path = file(&installation, "catalog.db");
    damage_table(&path, "product");
    let shop = installation.serve().await;
    shop.client.get("/api/v1/products").await.expect(503);
    let health = shop.client.get("/health/ready").await.expect(503).json();
    let check = health["checks"]["database:catalog"].to_string();
    assert!(check.contains("catalog.db is damaged"), "{health}");
    assert_eq!(health["checks"]["database:orders"], "ok", "{health}");
    shop.stop().await;
    // It was seen, so the next start checks, although this end was in order.
    let refused = installation.run(&["serve"]).await.expect(1);
    refused.stderr_contains(&["catalog.db is damaged"]);
}

/// What is written to a file without a name is lost when the process ends.
async fn a_file_that_is_replaced_or_removed_under_a_running_shop_is_not_written_to() {
    let installation = Installation::new(Stage::Sqlite).await;
    installation.run(&["seed"]).await.expect(0);
    let (path, backup) = (file(&installation, "catalog.db"), file(&installation, "catalog.backup"));
    fs::copy(&path, &backup).expect("a backup");
    let shop = installation.serve().await;
    let staff = shop.client.staff().await;
    let product = serde_json::json!({"sku": "late-fig", "name": "Late fig", "category": "fruit", "price": {"amount": 100, "currency": "EUR"}});
    let is_noticed = async || {
        staff.post("/api/v1/products", &product).await.expect(503);
        let health = shop.client.get("/health/ready").await.expect(503).json();
        let check = health["checks"]["database:catalog"].to_string();
        assert!(check.contains("catalog.db was removed or replaced"), "{health}");
        assert_eq!(health["checks"]["database:orders"], "ok", "{health}");
    };
    fs::rename(&backup, &path).expect("replaced");
    is_noticed().await;
    fs::remove_file(&path).expect("removed");
    is_noticed().await;
    shop.stop().await;
}

/// Damages the pages of one table, and of nothing that a start reads.
fn damage_table(path: &PathBuf, table: &str) {
    let connection = rusqlite::Connection::open(path).expect("the file");
    // A start looks in this index for products that an earlier version stored.
    let names = "select rootpage from sqlite_master where tbl_name = ?1 and name <> 'product_not_indexed'";
    let mut statement = connection.prepare(names).expect("a query");
    let pages = statement.query_map([table], |row| row.get::<_, u32>(0));
    let pages: Vec<u32> = pages.expect("its pages").map(|page| page.expect("a page")).collect();
    drop(statement);
    connection.close().expect("it closes");
    let mut bytes = fs::read(path).expect("the file");
    for page in pages {
        bytes[(page as usize - 1) * 4_096..][..8].fill(0xff);
    }
    fs::write(path, bytes).expect("the file");
}

/// Limits the size of every file that the process writes, or ends the limit.
async fn limit_files(shop: &Process, limit: &str) {
    let arguments = [format!("--pid={}", shop.id()), format!("--fsize={limit}:")];
    let limited = Command::new("prlimit").args(arguments).status().await;
    assert!(limited.expect("prlimit(1)").success());
}

/// The disk is full for this process: no file can grow beyond a limit.
async fn a_full_disk_ends_readiness_and_nothing_accepted_is_lost() {
    if Command::new("prlimit").arg("--version").output().await.is_err() {
        eprintln!("skipped: prlimit (util-linux) is not installed");
        return;
    }
    let installation = Installation::new(Stage::Sqlite).await;
    // A process that does not ignore this signal is ended by it.
    let script = format!("#!/bin/sh\ntrap '' XFSZ\nexec '{}' \"$@\"\n", binary().display());
    let script = installation.file("banyan-limited", &script);
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a script");
    let shop = installation.serve_by(script.as_ref()).await;
    let customer = shop.client.new_customer().await;
    let place = async || {
        let body = order_body("tea-01", 1, "pm_card_visa");
        let key = new_key();
        let key = [("Idempotency-Key", key.as_str())];
        customer.send(Method::POST, "/api/v1/orders", &key, Some(&body)).await
    };
    let mut accepted = vec![place().await.expect(201).json()];
    limit_files(&shop, "65536").await;
    let refused = loop {
        let response = place().await;
        if response.status != 201 {
            break response;
        }
        accepted.push(response.json());
        assert!(accepted.len() < 200, "the limit has no effect");
    };
    refused.expect_problem(503, "unavailable");
    let ready = async |status: u16| {
        let end = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let health = shop.client.get("/health/ready").await;
            if health.status == status {
                return health.json();
            }
            assert!(tokio::time::Instant::now() < end, "not {status}: {}", health.json());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    ready(503).await;
    shop.logged("(the file data/orders.db; is the disk full").await;
    limit_files(&shop, "unlimited").await;
    ready(200).await;
    accepted.push(place().await.expect(201).json());
    for order in &accepted {
        let path = format!("/api/v1/orders/{}", order["id"].as_str().expect("an id"));
        let is_confirmed = |order: &Value| order["status"] == "confirmed";
        eventually(&customer, &path, "every accepted order is confirmed", is_confirmed).await;
    }
    shop.stop().await;
}
