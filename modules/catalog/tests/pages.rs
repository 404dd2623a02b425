//! Pages from memory: never older than the database, whichever instance changed it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use banyan_core::{RandomIds, SystemClock};
use banyan_durable::{Connection, Storage};
use banyan_durable_testing::{PostgresHome, SqliteHome, StatementLog, open, settings};
use banyan_http_testing::{Reply, Site, TestRequest, get, post};
use catalog::{Needs, SCHEMA, start};
use futures::future::join_all;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use shared_kernel::Role;
use uuid::Uuid;

/// One instance of the module.
struct Instance(Site);

impl Instance {
    async fn on(storage: &Storage) -> Self {
        let mut settings = settings();
        // The tests' readers leave it little of the machine.
        settings.limits.job_timeout *= 20;
        let db = open(SCHEMA, storage, settings).await;
        let needs = Needs {
            db,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
        };
        Instance(Site::of(start(needs).await.expect("catalog starts").routes))
    }

    async fn change(&self, request: TestRequest) -> Reply {
        let reply = self.0.send_as(Uuid::from_u128(9), &[Role::Staff], request).await;
        assert!(reply.status < 300, "{}", reply.body);
        reply
    }

    async fn add(&self, sku: &str) {
        let price = json!({ "amount": 0, "currency": "EUR" });
        let body = json!({ "sku": sku, "name": "Fig", "category": "plants", "price": price });
        self.change(post("/api/v1/products").set_json(body)).await;
    }

    async fn price(&self, sku: &str, amount: i64) {
        let body = json!({ "price": { "amount": amount, "currency": "EUR" } });
        let request = TestRequest::patch().uri(&format!("/api/v1/products/{sku}"));
        self.change(request.set_json(body)).await;
    }

    async fn product(&self, sku: &str) -> Value {
        self.0.send(get(&format!("/api/v1/products/{sku}"))).await.json()
    }

    /// The skus of a list with their prices.
    async fn list(&self, query: &str) -> Vec<(String, i64)> {
        let list = self.0.send(get(&format!("/api/v1/products{query}"))).await.json();
        let items = list["items"].as_array().expect("items").iter();
        items
            .map(|item| (item["sku"].as_str().unwrap_or_default().to_owned(), amount(item)))
            .collect()
    }
}

fn amount(product: &Value) -> i64 {
    product["price"]["amount"].as_i64().expect("a price")
}

async fn every_instance_shows(instances: &[Instance], expected: &[(&str, i64, bool)]) {
    for (number, instance) in instances.iter().enumerate() {
        for (sku, price, active) in expected {
            let shown = instance.product(sku).await;
            assert_eq!(
                (amount(&shown), &shown["active"]),
                (*price, &json!(active)),
                "{sku} of instance {number}"
            );
        }
        let mut listed: Vec<(String, i64)> = expected
            .iter()
            .filter(|(_, _, active)| *active)
            .map(|(sku, price, _)| ((*sku).to_owned(), *price))
            .collect();
        for query in ["", "?category=plants&limit=50"] {
            let mut shown = instance.list(query).await;
            shown.sort();
            listed.sort();
            assert_eq!(shown, listed, "{query} of instance {number}");
        }
    }
}

/// All that changes what customers read, each time by the next instance, and every instance read before and after it.
async fn changes_are_seen(instances: &[Instance]) {
    let mut next = instances.iter().cycle();
    let mut writer = || next.next().expect("an instance");
    for round in 0..4 {
        let new = format!("new-{round}");
        writer().add(&new).await;
        every_instance_shows(instances, &[(&new, 0, true)]).await;
        writer().price(&new, 100 + round).await;
        every_instance_shows(instances, &[(&new, 100 + round, true)]).await;
        writer()
            .change(TestRequest::delete().uri(&format!("/api/v1/products/{new}")))
            .await;
        every_instance_shows(instances, &[(&new, 100 + round, false)]).await;
    }
    let body = json!({ "active": true });
    writer()
        .change(TestRequest::patch().uri("/api/v1/products/new-0").set_json(body))
        .await;
    every_instance_shows(instances, &[("new-0", 100, true)]).await;
}

#[tokio::test]
async fn a_change_is_seen_by_the_next_read_of_every_instance() {
    let sqlite = SqliteHome::new();
    changes_are_seen(&[Instance::on(&sqlite.storage("catalog")).await]).await;
    let postgres = PostgresHome::new().await;
    let storage = postgres.storage("catalog").await;
    changes_are_seen(&[
        Instance::on(&storage).await,
        Instance::on(&storage).await,
        Instance::on(&storage).await,
    ])
    .await;
    postgres.remove().await;
}

/// Readers of every instance while prices only rise: none sees less than was acknowledged before it asked, or than it saw before.
async fn nobody_reads_the_past(instances: &[Instance]) {
    const CHANGES: i64 = 30;
    instances[0].add("fig").await;
    let acknowledged = AtomicI64::new(0);
    let writer = async {
        for price in 1..=CHANGES {
            let instance = &instances[usize::try_from(price).expect("small") % instances.len()];
            instance.price("fig", price).await;
            acknowledged.store(price, Ordering::SeqCst);
        }
    };
    let seen_by_all = AtomicI64::new(0);
    let reader = |number: usize| {
        let (instance, acknowledged, seen_by_all) = (&instances[number % instances.len()], &acknowledged, &seen_by_all);
        async move {
            let mut reads = 0;
            while acknowledged.load(Ordering::SeqCst) < CHANGES {
                let least = acknowledged
                    .load(Ordering::SeqCst)
                    .max(seen_by_all.load(Ordering::SeqCst));
                let shown = if (number + reads).is_multiple_of(2) {
                    amount(&instance.product("fig").await)
                } else {
                    instance.list("").await[0].1
                };
                assert!(shown >= least, "{shown} was shown after {least}");
                seen_by_all.fetch_max(shown, Ordering::SeqCst);
                reads += 1;
                tokio::task::yield_now().await;
            }
        }
    };
    futures::join!(writer, join_all((0..4).map(reader)));
}

#[tokio::test]
async fn no_reader_sees_an_older_version_after_a_newer_one() {
    let sqlite = SqliteHome::new();
    nobody_reads_the_past(&[Instance::on(&sqlite.storage("catalog")).await]).await;
    let postgres = PostgresHome::new().await;
    let storage = postgres.storage("catalog").await;
    nobody_reads_the_past(&[Instance::on(&storage).await, Instance::on(&storage).await]).await;
    postgres.remove().await;
}

/// Also one by an earlier version of the shop, which knows nothing of revisions.
#[tokio::test]
async fn a_change_by_hand_is_seen_by_the_next_read() {
    let postgres = PostgresHome::new().await;
    let storage = postgres.storage("catalog").await;
    let instance = Instance::on(&storage).await;
    instance.add("fig").await;
    every_instance_shows(std::slice::from_ref(&instance), &[("fig", 0, true)]).await;
    let by_hand = Connection::open(&storage, "catalog").await.expect("a connection");
    for (sql, price) in [
        ("update product set price_amount = 7", 7),
        ("begin; update product set price_amount = 8; rollback", 7),
        (
            "set search_path = pg_catalog; update catalog.product set price_amount = 9",
            9,
        ),
    ] {
        by_hand.execute_unprepared(sql).await.expect("the statement runs");
        every_instance_shows(std::slice::from_ref(&instance), &[("fig", price, true)]).await;
    }
    by_hand.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn pages_in_memory_cost_no_statement_and_one_by_key_on_postgresql() {
    let sqlite = SqliteHome::new();
    let storage = sqlite.storage("catalog");
    let instance = Instance::on(&storage).await;
    instance.add("fig").await;
    instance.product("fig").await;
    instance.list("").await;
    let by_hand = Connection::open(&storage, "catalog").await.expect("a connection");
    by_hand
        .execute_unprepared("update product set price_amount = 7")
        .await
        .expect("the statement runs");
    by_hand.close().await;
    // Nobody else may write to the file, so what is in memory is right, and the file is not read.
    assert_eq!(
        (amount(&instance.product("fig").await), instance.list("").await[0].1),
        (0, 0)
    );

    let postgres = PostgresHome::new().await;
    let (log, storage) = StatementLog::before(&postgres.storage("catalog").await, Duration::ZERO).await;
    let instance = Instance::on(&storage).await;
    instance.add("fig").await;
    instance.product("fig").await;
    instance.list("").await;
    log.take();
    instance.product("fig").await;
    instance.list("").await;
    let statements = log.take();
    assert_eq!(statements.len(), 2, "{statements:#?}");
    assert!(
        statements
            .iter()
            .all(|statement| statement.contains("\"product_revision\"")),
        "{statements:#?}"
    );
    // Requests that wait at the same time share a query.
    join_all((0..20).map(|_| instance.product("fig"))).await;
    let shared = log.take();
    assert!(shared.len() <= 3, "{shared:#?}");
    postgres.remove().await;
}

#[tokio::test]
async fn what_only_staff_may_see_is_not_shown_to_others_from_memory() {
    let sqlite = SqliteHome::new();
    let instance = Instance::on(&sqlite.storage("catalog")).await;
    instance.add("fig").await;
    let all = || get("/api/v1/products?include_archived=true");
    for _ in 0..2 {
        assert_eq!(instance.change(all()).await.status, 200);
        assert_eq!(instance.0.send(all()).await.status, 401);
    }
}
