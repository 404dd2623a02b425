//! Cancelling orders.

use serde_json::json;

use super::{eventually, new_product, order_path, scenarios, stock_of};
use crate::harness::{Client, new_key, order_body};

scenarios![
    a_confirmed_order_is_refunded_and_restocked,
    a_cancel_during_the_authorisation_wins,
    a_cancel_racing_the_checkout_leaves_no_stock_or_money_taken,
    a_dispatched_order_cannot_be_cancelled,
    cancelling_needs_an_idempotency_key,
    a_cancelled_order_cannot_be_cancelled_again,
    staff_may_cancel_for_a_customer,
];

async fn a_confirmed_order_is_refunded_and_restocked(client: Client) {
    let sku = new_product(&client, 2000, 5).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 2, "pm_card_visa").await;
    assert_eq!(order["status"], "confirmed", "{order}");
    customer
        .post_keyed(&format!("{}/cancel", order_path(&order)), &json!({}))
        .await
        .expect(200);
    let order = eventually(&customer, &order_path(&order), "the order is cancelled", |order| {
        order["status"] == "cancelled"
    })
    .await;
    assert_eq!(order["cancel_reason"], "customer");
    assert_eq!(stock_of(&client, &sku).await, (5, 0));
    let payment = customer
        .get(&format!(
            "/api/v1/payments?order_id={}",
            order["id"].as_str().expect("an id")
        ))
        .await
        .expect(200)
        .json()["items"][0]
        .clone();
    assert_eq!(
        (payment["status"].as_str(), &payment["refunded"]["amount"]),
        (Some("refunded"), &json!(4000)),
        "{payment}"
    );
}

async fn a_cancel_during_the_authorisation_wins(client: Client) {
    let sku = new_product(&client, 2100, 5).await;
    let customer = client.new_customer().await;
    let order = customer
        .post_keyed("/api/v1/orders", &order_body(&sku, 1, "pm_card_slow"))
        .await
        .expect(201)
        .json();
    customer
        .post_keyed(&format!("{}/cancel", order_path(&order)), &json!({}))
        .await
        .expect(200);
    let order = eventually(&customer, &order_path(&order), "the order is cancelled", |order| {
        order["status"] == "cancelled"
    })
    .await;
    assert_eq!(order["cancel_reason"], "customer");
    assert_eq!(stock_of(&client, &sku).await, (5, 0));
    let path = format!("/api/v1/payments?order_id={}", order["id"].as_str().expect("an id"));
    let payments = eventually(&customer, &path, "no amount stays authorised on the card", |payments| {
        payments["items"]
            .as_array()
            .is_some_and(|items| items.iter().all(|payment| payment["status"] == "voided"))
    })
    .await;
    assert!(
        payments["items"]
            .as_array()
            .is_some_and(|items| items.iter().all(|payment| payment["captured"]["amount"] == 0)),
        "{payments}"
    );
}

async fn a_cancel_racing_the_checkout_leaves_no_stock_or_money_taken(client: Client) {
    let sku = new_product(&client, 2200, 40).await;
    let customer = client.new_customer().await;
    let race = |wait_ms: u64| {
        let (customer, sku) = (customer.clone(), sku.clone());
        async move {
            let order = customer
                .post_keyed("/api/v1/orders", &order_body(&sku, 1, "pm_card_visa"))
                .await
                .expect(201)
                .json();
            tokio::time::sleep(std::time::Duration::from_millis(wait_ms)).await;
            customer
                .post_keyed(&format!("{}/cancel", order_path(&order)), &json!({}))
                .await
                .expect(200);
            eventually(&customer, &order_path(&order), "the order is cancelled", |order| {
                order["status"] == "cancelled"
            })
            .await
        }
    };
    // At every point of the checkout: before it starts, at each of its steps, after its end.
    futures::future::join_all((0..20).map(|at| race(at * 4))).await;
    assert_eq!(stock_of(&client, &sku).await, (40, 0), "every unit is back");
    let payments = customer.get("/api/v1/payments?limit=100").await.expect(200).json();
    for payment in payments["items"].as_array().expect("items") {
        assert_eq!(payment["captured"], payment["refunded"], "{payment}");
        assert!(
            ["voided", "refunded"].contains(&payment["status"].as_str().expect("a status")),
            "{payment}"
        );
    }
}

async fn a_dispatched_order_cannot_be_cancelled(client: Client) {
    let sku = new_product(&client, 2300, 5).await;
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
        .post_keyed(&format!("{shipment}/dispatch"), &json!({}))
        .await
        .expect(200);
    eventually(&customer, &order_path(&order), "the order is shipped", |order| {
        order["status"] == "shipped"
    })
    .await;
    customer
        .post_keyed(&format!("{}/cancel", order_path(&order)), &json!({}))
        .await
        .expect(409);
    assert_eq!(stock_of(&client, &sku).await, (4, 0));
}

async fn cancelling_needs_an_idempotency_key(client: Client) {
    let sku = new_product(&client, 100, 5).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 1, "pm_card_visa").await;
    customer
        .post(&format!("{}/cancel", order_path(&order)), &json!({}))
        .await
        .expect_problem(400, "idempotency_key_required");
}

async fn a_cancelled_order_cannot_be_cancelled_again(client: Client) {
    let sku = new_product(&client, 100, 5).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 1, "pm_card_declined").await;
    let path = format!("{}/cancel", order_path(&order));
    let key = new_key();
    let first = customer
        .send(
            reqwest::Method::POST,
            &path,
            &[("Idempotency-Key", &key)],
            Some(&json!({})),
        )
        .await
        .expect(409);
    let again = customer
        .send(
            reqwest::Method::POST,
            &path,
            &[("Idempotency-Key", &key)],
            Some(&json!({})),
        )
        .await
        .expect(409);
    assert_eq!(
        first.json()["code"],
        again.json()["code"],
        "a refusal is remembered too"
    );
}

async fn staff_may_cancel_for_a_customer(client: Client) {
    let sku = new_product(&client, 100, 5).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 1, "pm_card_visa").await;
    client
        .staff()
        .await
        .post_keyed(&format!("{}/cancel", order_path(&order)), &json!({}))
        .await
        .expect(200);
    eventually(&customer, &order_path(&order), "the order is cancelled", |order| {
        order["status"] == "cancelled"
    })
    .await;
}
