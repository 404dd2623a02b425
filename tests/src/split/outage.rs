//! A module is down: what needs it waits, everything else works, and all recovers by itself.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use super::Case;
use crate::{
    harness::{Client, Plan, Shop, Stage, order_body},
    scenarios::{eventually, new_product, order_path},
};

pub fn all() -> Vec<Case> {
    vec![
        ("without_payments_orders_stay_pending_and_everything_else_works", || {
            Box::pin(without_payments())
        }),
        ("a_page_is_served_without_the_unavailable_module", || {
            Box::pin(pages_without_payments())
        }),
        ("without_the_catalog_placing_is_refused_and_nothing_is_stored", || {
            Box::pin(without_catalog())
        }),
    ]
}

/// The time within which the breaker must open.
const OPENS_WITHIN: Duration = Duration::from_secs(5);

async fn without_payments() {
    let mut shop = Shop::start(Stage::Split).await;
    let client = shop.client();
    let sku = new_product(&client, 1_000, 10).await;
    let customer = client.new_customer().await;
    let breaker_at = async |process: &Client| {
        let metrics = String::from_utf8(process.get("/metrics").await.expect(200).bytes).expect("text");
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("banyan_rpc_breaker_state{module=\"payments\"} "));
        line.unwrap_or_default().to_owned()
    };
    let orders = shop.process("orders").client();
    let closed = || async { breaker_at(&orders).await == "0" };
    banyan_durable_testing::eventually(
        "the breaker is measured before the first call",
        Duration::from_secs(20),
        closed,
    )
    .await;
    shop.process("payments").kill().await;

    let placed = customer
        .post_keyed("/api/v1/orders", &order_body(&sku, 1, "pm_card_visa"))
        .await
        .expect(201)
        .json();
    client.get(&format!("/api/v1/products/{sku}")).await.expect(200);
    client.get(&format!("/api/v1/stock/{sku}")).await.expect(200);
    let cart = customer.post("/api/v1/carts", &json!({})).await.expect(201).json();
    let item = format!("/api/v1/carts/{}/items/{sku}", cart["id"].as_str().expect("an id"));
    customer
        .send(Method::PUT, &item, &[], Some(&json!({"quantity": 2})))
        .await
        .expect(200);
    let unavailable = customer
        .get(&format!(
            "/api/v1/payments?order_id={}",
            placed["id"].as_str().expect("an id")
        ))
        .await;
    let unavailable = unavailable.expect_problem(503, "module_unavailable");
    assert!(unavailable.header("retry-after").is_some());

    // Orders keeps calling payments, so its breaker opens by itself.
    let opened = Instant::now();
    while !state_of(&orders, "payments").await.contains("breaker open") {
        assert!(
            opened.elapsed() < OPENS_WITHIN,
            "the breaker of orders to payments is not open after {OPENS_WITHIN:?}"
        );
        customer
            .post_keyed("/api/v1/orders", &order_body(&sku, 1, "pm_card_visa"))
            .await
            .expect(201);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let order = customer.get(&order_path(&placed)).await.expect(200).json();
    assert_eq!(order["status"], "pending", "{order}");

    shop.boot().await;
    eventually(
        &customer,
        &order_path(&placed),
        "the order continues by itself",
        |order| order["status"] == "confirmed",
    )
    .await;
    banyan_durable_testing::eventually("the breaker closes", Duration::from_secs(20), || async {
        state_of(&orders, "payments").await == "ok"
    })
    .await;
    banyan_durable_testing::eventually(
        "the metric shows that it is not open",
        Duration::from_secs(20),
        || async { breaker_at(&orders).await != "2" },
    )
    .await;
    shop.remove().await;
}

/// The state that a process reports for a remote module.
async fn state_of(process: &Client, module: &str) -> String {
    let health = process.get("/health/ready").await.json();
    health["checks"][format!("module:{module}")]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

async fn pages_without_payments() {
    let mut shop = Plan::on(Stage::Extracted).start().await;
    let client = shop.client();
    let sku = new_product(&client, 1_000, 10).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 1, "pm_card_visa").await;
    assert_eq!(order["status"], "confirmed", "{order}");
    let page = format!("/api/v1/order-details/{}", order["id"].as_str().expect("an id"));
    let complete = customer.get(&page).await.expect(200).json();
    assert_eq!(complete["unavailable"], json!([]), "{complete}");

    shop.process("stock-and-money").kill().await;
    let without = customer.get(&page).await.expect(200).json();
    assert_eq!(without["unavailable"], json!(["payments"]), "{without}");
    assert!(
        without["payment"].is_null() && without["products"].is_array() && without["shipment"].is_object(),
        "{without}"
    );
    customer.get("/api/v1/dashboard").await.expect(200);
    shop.remove().await;
}

async fn without_catalog() {
    let mut shop = Shop::start(Stage::Split).await;
    let client = shop.client();
    let sku = new_product(&client, 1_000, 10).await;
    let customer = client.new_customer().await;
    shop.process("catalog").kill().await;
    let refused = customer
        .post_keyed("/api/v1/orders", &order_body(&sku, 1, "pm_card_visa"))
        .await
        .expect(503);
    assert!(refused.header("retry-after").is_some());
    let orders = customer.get("/api/v1/orders").await.expect(200).json();
    assert_eq!(orders["items"], json!([]), "{orders}");
    shop.remove().await;
}
