//! Carts: draft orders that are filled item by item.

use reqwest::Method;
use serde_json::json;

use super::{eventually, new_product, scenarios};
use crate::harness::{Client, order_body};

scenarios![
    a_cart_is_filled_and_checked_out,
    an_empty_cart_cannot_be_checked_out,
    another_customers_cart_looks_like_a_missing_one,
    drafts_are_not_listed_as_orders
];

async fn new_cart(customer: &Client) -> String {
    let cart = customer
        .post_keyed("/api/v1/carts", &json!({}))
        .await
        .expect(201)
        .json();
    format!("/api/v1/carts/{}", cart["id"].as_str().expect("a cart's id"))
}

fn checkout() -> serde_json::Value {
    let order = order_body("unused", 1, "pm_card_visa");
    json!({"shipping_address": order["shipping_address"], "payment_method": order["payment_method"]})
}

async fn put(customer: &Client, cart: &str, sku: &str, quantity: u32) -> crate::harness::Response {
    customer
        .send(
            Method::PUT,
            &format!("{cart}/items/{sku}"),
            &[],
            Some(&json!({"quantity": quantity})),
        )
        .await
}

async fn a_cart_is_filled_and_checked_out(client: Client) {
    let (fig, date) = (new_product(&client, 300, 10).await, new_product(&client, 50, 10).await);
    let customer = client.new_customer().await;
    let cart = new_cart(&customer).await;
    put(&customer, &cart, &fig, 1).await.expect(200);
    put(&customer, &cart, &fig, 2).await.expect(200);
    put(&customer, &cart, &date, 4).await.expect(200);
    let shown = put(&customer, &cart, &date, 1).await.expect(200).json();
    assert_eq!(shown["items"].as_array().map(Vec::len), Some(2), "{shown}");
    let removed = customer
        .send(Method::DELETE, &format!("{cart}/items/{date}"), &[], None)
        .await;
    assert!([200, 204].contains(&removed.status), "{}", removed.status);
    put(&customer, &cart, &fig, 1000).await.expect(422);
    let order = customer.post_keyed(&format!("{cart}/checkout"), &checkout()).await;
    assert!(
        [200, 201].contains(&order.status),
        "{}",
        String::from_utf8_lossy(&order.bytes)
    );
    let order = order.json();
    assert_eq!(
        cart,
        format!("/api/v1/carts/{}", order["id"].as_str().expect("an id")),
        "the placed order keeps the cart's id"
    );
    let path = cart.replace("carts", "orders");
    let order = eventually(&customer, &path, "the order is confirmed", |order| {
        order["status"] == "confirmed"
    })
    .await;
    assert_eq!(order["total"]["amount"], 600);
    assert!(
        put(&customer, &cart, &fig, 1).await.status >= 400,
        "a placed order is not a cart any more"
    );
}

async fn an_empty_cart_cannot_be_checked_out(client: Client) {
    let customer = client.new_customer().await;
    let cart = new_cart(&customer).await;
    let response = customer.post_keyed(&format!("{cart}/checkout"), &checkout()).await;
    assert!([409, 422].contains(&response.status), "{}", response.status);
}

async fn another_customers_cart_looks_like_a_missing_one(client: Client) {
    let cart = new_cart(&client.new_customer().await).await;
    let stranger = client.new_customer().await;
    stranger.get(&cart).await.expect_problem(404, "not_found");
    put(&stranger, &cart, "rare-fig", 1)
        .await
        .expect_problem(404, "not_found");
    stranger
        .post_keyed(&format!("{cart}/checkout"), &checkout())
        .await
        .expect_problem(404, "not_found");
}

async fn drafts_are_not_listed_as_orders(client: Client) {
    let customer = client.new_customer().await;
    let cart = new_cart(&customer).await;
    put(&customer, &cart, "rare-fig", 1).await.expect(200);
    assert_eq!(
        customer.get("/api/v1/orders").await.expect(200).json()["items"],
        json!([])
    );
}
