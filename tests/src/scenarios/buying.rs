//! Placing orders, and their outcomes.

use reqwest::Method;
use serde_json::{Value, json};

use super::{eventually, new_product, order_path, scenarios, stock_of};
use crate::harness::{Client, new_key, order_body};

scenarios![
    an_order_is_confirmed_and_its_history_shows_the_steps,
    placing_without_waiting_returns_pending_at_once,
    the_same_key_gives_the_same_response_and_one_order,
    the_same_key_with_another_body_is_refused,
    an_idempotency_key_is_required,
    a_declined_card_cancels_the_order_and_frees_the_stock,
    insufficient_funds_cancel_the_order,
    too_little_stock_cancels_the_order_before_any_payment,
    a_payment_whose_response_is_lost_is_captured_once,
    a_capture_that_fails_once_is_retried,
    a_declined_capture_undoes_everything,
    placing_waits_for_a_slow_payment,
    an_unknown_product_refuses_the_order,
    an_archived_product_refuses_the_order,
    a_product_named_twice_is_one_line,
    lines_in_different_currencies_are_refused,
    the_price_comes_from_the_catalog_and_not_from_the_client,
    another_customers_order_looks_like_a_missing_one,
    the_last_units_are_sold_once,
    orders_are_listed_newest_first_and_by_status,
];

async fn placed(client: &Client, key: &str, prefer: Option<&str>, body: &Value) -> crate::harness::Response {
    let mut headers = vec![("Idempotency-Key", key)];
    headers.extend(prefer.map(|prefer| ("Prefer", prefer)));
    client.send(Method::POST, "/api/v1/orders", &headers, Some(body)).await
}

async fn an_order_is_confirmed_and_its_history_shows_the_steps(client: Client) {
    let sku = new_product(&client, 1999, 10).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 2, "pm_card_visa").await;
    assert_eq!(order["status"], "confirmed", "{order}");
    assert_eq!(order["total"], json!({"amount": 3998, "currency": "EUR"}));
    assert_eq!(order["items"][0]["unit_price"]["amount"], 1999);
    assert_eq!(order["items"][0]["name"], "A Test Fig");
    let history = customer
        .get(&format!("{}/history", order_path(&order)))
        .await
        .expect(200)
        .json();
    let versions: Vec<i64> = history["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|event| event["version"].as_i64().expect("a version"))
        .collect();
    assert_eq!(
        versions,
        (1..=versions.len() as i64).collect::<Vec<_>>(),
        "versions are gapless from 1"
    );
    let types: Vec<&str> = history["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|event| event["type"].as_str().expect("a type"))
        .collect();
    for expected in ["placed", "capture_decided", "confirmed"] {
        assert!(types.contains(&expected), "{expected} is missing in {types:?}");
    }
    let payment = customer
        .get(&format!(
            "/api/v1/payments/{}",
            order["payment"]["id"].as_str().expect("a payment")
        ))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (payment["status"].as_str(), &payment["captured"]["amount"]),
        (Some("captured"), &json!(3998)),
        "{payment}"
    );
    assert_eq!(
        stock_of(&client, &sku).await,
        (8, 0),
        "two units were shipped and nothing is reserved"
    );
}

async fn placing_without_waiting_returns_pending_at_once(client: Client) {
    let sku = new_product(&client, 500, 5).await;
    let customer = client.new_customer().await;
    let response = placed(&customer, &new_key(), None, &order_body(&sku, 1, "pm_card_slow"))
        .await
        .expect(201);
    let order = response.json();
    assert_eq!(order["status"], "pending");
    assert_eq!(response.header("location"), Some(order_path(&order).as_str()));
    eventually(&customer, &order_path(&order), "the order is confirmed", |order| {
        order["status"] == "confirmed"
    })
    .await;
}

async fn the_same_key_gives_the_same_response_and_one_order(client: Client) {
    let sku = new_product(&client, 700, 10).await;
    let customer = client.new_customer().await;
    let (key, body) = (new_key(), order_body(&sku, 1, "pm_card_visa"));
    let first = placed(&customer, &key, None, &body).await.expect(201);
    let again = placed(&customer, &key, None, &body).await.expect(201);
    assert_eq!(first.bytes, again.bytes, "a replay is byte-equal");
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.header("idempotency-replayed"), None);
    let waited = placed(&customer, &key, Some("wait=20"), &body).await.expect(201).json();
    assert_eq!(
        (&waited["id"], waited["status"].as_str()),
        (&first.json()["id"], Some("confirmed"))
    );
    let orders = customer.get("/api/v1/orders").await.expect(200).json();
    assert_eq!(orders["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(stock_of(&client, &sku).await, (9, 0));
}

async fn the_same_key_with_another_body_is_refused(client: Client) {
    let sku = new_product(&client, 700, 10).await;
    let customer = client.new_customer().await;
    let key = new_key();
    placed(&customer, &key, None, &order_body(&sku, 1, "pm_card_visa"))
        .await
        .expect(201);
    placed(&customer, &key, None, &order_body(&sku, 2, "pm_card_visa"))
        .await
        .expect_problem(422, "idempotency_key_reused");
    // Another caller's key is another key.
    let other = client.new_customer().await;
    placed(&other, &key, None, &order_body(&sku, 2, "pm_card_visa"))
        .await
        .expect(201);
}

async fn an_idempotency_key_is_required(client: Client) {
    let customer = client.new_customer().await;
    customer
        .post("/api/v1/orders", &order_body("rare-fig", 1, "pm_card_visa"))
        .await
        .expect_problem(400, "idempotency_key_required");
}

async fn a_declined_card_cancels_the_order_and_frees_the_stock(client: Client) {
    let sku = new_product(&client, 900, 4).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 3, "pm_card_declined").await;
    assert_eq!(
        (order["status"].as_str(), order["cancel_reason"].as_str()),
        (Some("cancelled"), Some("payment_declined")),
        "{order}"
    );
    assert_eq!(stock_of(&client, &sku).await, (4, 0));
}

async fn insufficient_funds_cancel_the_order(client: Client) {
    let sku = new_product(&client, 900, 4).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 1, "pm_card_insufficient_funds").await;
    assert_eq!(
        (order["status"].as_str(), order["cancel_reason"].as_str()),
        (Some("cancelled"), Some("payment_declined")),
        "{order}"
    );
}

async fn too_little_stock_cancels_the_order_before_any_payment(client: Client) {
    let sku = new_product(&client, 900, 2).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 3, "pm_card_visa").await;
    assert_eq!(
        (order["status"].as_str(), order["cancel_reason"].as_str()),
        (Some("cancelled"), Some("out_of_stock")),
        "{order}"
    );
    let payments = customer
        .get(&format!(
            "/api/v1/payments?order_id={}",
            order["id"].as_str().expect("an id")
        ))
        .await
        .expect(200)
        .json();
    assert_eq!(payments["items"], json!([]));
    assert_eq!(stock_of(&client, &sku).await, (2, 0));
}

async fn a_payment_whose_response_is_lost_is_captured_once(client: Client) {
    let sku = new_product(&client, 1200, 4).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 1, "pm_card_timeout").await;
    let order = eventually(&customer, &order_path(&order), "the order is confirmed", |order| {
        order["status"] == "confirmed"
    })
    .await;
    let payments = customer
        .get(&format!(
            "/api/v1/payments?order_id={}",
            order["id"].as_str().expect("an id")
        ))
        .await
        .expect(200)
        .json();
    assert_eq!(payments["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(payments["items"][0]["captured"]["amount"], 1200);
}

async fn a_capture_that_fails_once_is_retried(client: Client) {
    let sku = new_product(&client, 1300, 4).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 1, "pm_card_capture_fails_once").await;
    eventually(&customer, &order_path(&order), "the order is confirmed", |order| {
        order["status"] == "confirmed"
    })
    .await;
}

async fn a_declined_capture_undoes_everything(client: Client) {
    let sku = new_product(&client, 1400, 4).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 2, "pm_card_capture_declined").await;
    let order = eventually(&customer, &order_path(&order), "the order is cancelled", |order| {
        order["status"] == "cancelled"
    })
    .await;
    assert_eq!(order["cancel_reason"], "payment_declined");
    assert_eq!(stock_of(&client, &sku).await, (4, 0));
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
        (payment["status"].as_str(), &payment["captured"]["amount"]),
        (Some("voided"), &json!(0)),
        "{payment}"
    );
}

async fn placing_waits_for_a_slow_payment(client: Client) {
    let sku = new_product(&client, 1500, 4).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 1, "pm_card_slow").await;
    assert_eq!(order["status"], "confirmed", "{order}");
}

async fn an_unknown_product_refuses_the_order(client: Client) {
    let customer = client.new_customer().await;
    let response = customer
        .post_keyed("/api/v1/orders", &order_body("no-such-fig", 1, "pm_card_visa"))
        .await
        .expect(422);
    assert!(
        response.json()["errors"][0]["pointer"]
            .as_str()
            .is_some_and(|pointer| pointer.starts_with("/items/0")),
        "{}",
        response.json()
    );
    assert_eq!(
        customer.get("/api/v1/orders").await.expect(200).json()["items"],
        json!([])
    );
}

async fn an_archived_product_refuses_the_order(client: Client) {
    let sku = new_product(&client, 100, 4).await;
    let staff = client.staff().await;
    staff
        .send(Method::DELETE, &format!("/api/v1/products/{sku}"), &[], None)
        .await
        .expect(204);
    let customer = client.new_customer().await;
    customer
        .post_keyed("/api/v1/orders", &order_body(&sku, 1, "pm_card_visa"))
        .await
        .expect(422);
}

async fn a_product_named_twice_is_one_line(client: Client) {
    let sku = new_product(&client, 100, 10).await;
    let customer = client.new_customer().await;
    let mut body = order_body(&sku, 1, "pm_card_visa");
    body["items"] = json!([{"sku": sku, "quantity": 2}, {"sku": sku, "quantity": 3}]);
    let order = customer.post_keyed("/api/v1/orders", &body).await.expect(201).json();
    assert_eq!(order["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(order["items"][0]["quantity"], 5);
}

async fn lines_in_different_currencies_are_refused(client: Client) {
    let euros = new_product(&client, 100, 10).await;
    let staff = client.staff().await;
    let dollars = format!("{euros}-usd");
    let product = json!({"sku": dollars, "name": "A Dollar Fig", "description": "Abroad.", "category": "figs", "price": {"amount": 5, "currency": "USD"}});
    staff.post("/api/v1/products", &product).await.expect(201);
    let customer = client.new_customer().await;
    let mut body = order_body(&euros, 1, "pm_card_visa");
    body["items"] = json!([{"sku": euros, "quantity": 1}, {"sku": dollars, "quantity": 1}]);
    customer.post_keyed("/api/v1/orders", &body).await.expect(422);
}

async fn the_price_comes_from_the_catalog_and_not_from_the_client(client: Client) {
    let sku = new_product(&client, 100, 10).await;
    let customer = client.new_customer().await;
    let mut body = order_body(&sku, 1, "pm_card_visa");
    body["items"][0]["unit_price"] = json!({"amount": 1, "currency": "EUR"});
    customer.post_keyed("/api/v1/orders", &body).await.expect(422);
    let staff = client.staff().await;
    staff
        .send(
            Method::PATCH,
            &format!("/api/v1/products/{sku}"),
            &[],
            Some(&json!({"price": {"amount": 250, "currency": "EUR"}})),
        )
        .await
        .expect(200);
    assert_eq!(customer.order(&sku, 1, "pm_card_visa").await["total"]["amount"], 250);
}

async fn another_customers_order_looks_like_a_missing_one(client: Client) {
    let sku = new_product(&client, 100, 10).await;
    let order = client.new_customer().await.order(&sku, 1, "pm_card_visa").await;
    let stranger = client.new_customer().await;
    let missing = "/api/v1/orders/01890000-0000-7000-8000-000000000000";
    let theirs = stranger
        .get(&order_path(&order))
        .await
        .expect_problem(404, "not_found")
        .json();
    let none = stranger.get(missing).await.expect_problem(404, "not_found").json();
    assert_eq!(theirs["detail"], none["detail"]);
    for path in ["history", "events"] {
        stranger
            .get(&format!("{}/{path}", order_path(&order)))
            .await
            .expect_problem(404, "not_found");
    }
    stranger
        .post_keyed(&format!("{}/cancel", order_path(&order)), &json!({}))
        .await
        .expect_problem(404, "not_found");
    stranger
        .get(&format!(
            "/api/v1/payments/{}",
            order["payment"]["id"].as_str().expect("a payment")
        ))
        .await
        .expect_problem(404, "not_found");
    stranger
        .get(&format!(
            "/api/v1/shipments/{}",
            order["shipment"]["id"].as_str().expect("a shipment")
        ))
        .await
        .expect_problem(404, "not_found");
    client.get(&order_path(&order)).await.expect(401);
    client.staff().await.get(&order_path(&order)).await.expect(200);
}

async fn the_last_units_are_sold_once(client: Client) {
    let sku = new_product(&client, 100, 3).await;
    let customer = client.new_customer().await;
    let orders = futures::future::join_all((0..8).map(|_| customer.order(&sku, 1, "pm_card_visa"))).await;
    let confirmed = orders.iter().filter(|order| order["status"] == "confirmed").count();
    let sold_out = orders
        .iter()
        .filter(|order| order["cancel_reason"] == "out_of_stock")
        .count();
    assert_eq!((confirmed, sold_out), (3, 5), "{orders:?}");
    assert_eq!(stock_of(&client, &sku).await, (0, 0));
}

async fn orders_are_listed_newest_first_and_by_status(client: Client) {
    let sku = new_product(&client, 100, 10).await;
    let customer = client.new_customer().await;
    for method in ["pm_card_visa", "pm_card_declined", "pm_card_visa"] {
        customer.order(&sku, 1, method).await;
    }
    let first = customer.get("/api/v1/orders?limit=2").await.expect(200).json();
    assert_eq!(first["items"].as_array().map(Vec::len), Some(2));
    let cursor = first["next_cursor"].as_str().expect("a next page");
    let second = customer
        .get(&format!("/api/v1/orders?limit=2&cursor={cursor}"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (second["items"].as_array().map(Vec::len), &second["next_cursor"]),
        (Some(1), &Value::Null)
    );
    let created = |order: &Value| order["created_at"].as_str().expect("created_at").to_owned();
    assert!(
        created(&first["items"][0]) >= created(&first["items"][1])
            && created(&first["items"][1]) >= created(&second["items"][0])
    );
    let cancelled = customer.get("/api/v1/orders?status=cancelled").await.expect(200).json();
    assert_eq!(cancelled["items"].as_array().map(Vec::len), Some(1));
    customer.get("/api/v1/orders?status=lost").await.expect(400);
}
