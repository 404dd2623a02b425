//! Dispatch and delivery, and the customer's notifications of them.

use serde_json::json;

use super::{eventually, new_product, order_path, scenarios};
use crate::harness::Client;

scenarios![
    an_order_is_shipped_and_delivered_and_the_customer_is_notified,
    a_shipment_that_is_not_ready_cannot_be_dispatched,
    customers_cannot_dispatch_shipments
];

async fn an_order_is_shipped_and_delivered_and_the_customer_is_notified(client: Client) {
    let sku = new_product(&client, 100, 5).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 1, "pm_card_visa").await;
    let staff = client.staff().await;
    let shipment = format!(
        "/api/v1/shipments/{}",
        order["shipment"]["id"].as_str().expect("a shipment")
    );
    eventually(&staff, &shipment, "the shipment is ready", |shipment| {
        shipment["status"] == "ready"
    })
    .await;
    staff
        .post_keyed(&format!("{shipment}/deliver"), &json!({}))
        .await
        .expect(409);
    let dispatched = staff
        .post_keyed(&format!("{shipment}/dispatch"), &json!({}))
        .await
        .expect(200)
        .json();
    assert!(dispatched["tracking_number"].is_string(), "{dispatched}");
    let shipped = eventually(&customer, &order_path(&order), "the order is shipped", |order| {
        order["status"] == "shipped"
    })
    .await;
    assert_eq!(shipped["shipment"]["tracking_number"], dispatched["tracking_number"]);
    staff
        .post_keyed(&format!("{shipment}/deliver"), &json!({}))
        .await
        .expect(200);
    eventually(&customer, &order_path(&order), "the order is delivered", |order| {
        order["status"] == "delivered"
    })
    .await;
    let notified = |list: &serde_json::Value| {
        let kinds: Vec<&str> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|mail| mail["kind"].as_str())
            .collect();
        ["order_placed", "order_confirmed", "order_shipped", "order_delivered"]
            .iter()
            .all(|kind| kinds.iter().filter(|k| k == &kind).count() == 1)
    };
    eventually(
        &customer,
        "/api/v1/notifications?limit=100",
        "the customer is notified of every step once",
        notified,
    )
    .await;
}

async fn a_shipment_that_is_not_ready_cannot_be_dispatched(client: Client) {
    let sku = new_product(&client, 100, 5).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 1, "pm_card_visa").await;
    let staff = client.staff().await;
    let shipment = format!(
        "/api/v1/shipments/{}",
        order["shipment"]["id"].as_str().expect("a shipment")
    );
    customer
        .post_keyed(&format!("{}/cancel", order_path(&order)), &json!({}))
        .await
        .expect(200);
    eventually(&customer, &order_path(&order), "the order is cancelled", |order| {
        order["status"] == "cancelled"
    })
    .await;
    staff
        .post_keyed(&format!("{shipment}/dispatch"), &json!({}))
        .await
        .expect(409);
}

async fn customers_cannot_dispatch_shipments(client: Client) {
    let sku = new_product(&client, 100, 5).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 1, "pm_card_visa").await;
    let shipment = format!(
        "/api/v1/shipments/{}",
        order["shipment"]["id"].as_str().expect("a shipment")
    );
    customer.get(&shipment).await.expect(200);
    customer
        .post_keyed(&format!("{shipment}/dispatch"), &json!({}))
        .await
        .expect_problem(403, "insufficient_role");
}
