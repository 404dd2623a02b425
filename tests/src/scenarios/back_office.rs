//! What the back office does: products, stock, refunds.

use reqwest::Method;
use serde_json::json;

use super::{eventually, new_product, order_path, scenarios, stock_of};
use crate::harness::{Client, new_key};

scenarios![
    a_new_shop_has_its_demo_products,
    products_are_found_by_word_category_and_price,
    a_product_is_added_changed_and_archived,
    a_receipt_is_counted_once,
    an_adjustment_cannot_take_more_than_is_available,
    a_partial_refund_leaves_the_rest,
    customers_cannot_change_products_or_stock,
];

async fn a_new_shop_has_its_demo_products(client: Client) {
    assert_eq!(
        client.get("/api/v1/stock/rare-fig").await.expect(200).json()["sku"],
        "rare-fig"
    );
    let mut skus = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = client
            .get(&format!("/api/v1/products?limit=100{cursor}"))
            .await
            .expect(200)
            .json();
        skus.extend(
            page["items"]
                .as_array()
                .expect("items")
                .iter()
                .map(|product| product["sku"].as_str().expect("a sku").to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let demo: Vec<&String> = skus.iter().filter(|sku| !sku.starts_with("test-")).collect();
    assert_eq!(demo.len(), 120);
    assert_eq!(
        demo.last().map(|sku| sku.as_str()),
        Some("rare-fig"),
        "the oldest comes last"
    );
    let mut unique = skus.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), skus.len(), "no page repeats another's product");
}

async fn products_are_found_by_word_category_and_price(client: Client) {
    let one = client.get("/api/v1/products/rare-fig").await.expect(200).json();
    let category = one["category"].as_str().expect("a category");
    let price = one["price"]["amount"].as_i64().expect("an amount");
    let found = client
        .get(&format!(
            "/api/v1/products?category={category}&min_price={price}&max_price={price}&q=fig&limit=100"
        ))
        .await
        .expect(200)
        .json();
    let items = found["items"].as_array().expect("items");
    assert!(items.iter().any(|product| product["sku"] == "rare-fig"), "{found}");
    assert!(
        items
            .iter()
            .all(|product| product["category"] == category && product["price"]["amount"] == price),
        "{found}"
    );
    assert_eq!(
        client
            .get("/api/v1/products?q=nosuchwordanywhere")
            .await
            .expect(200)
            .json()["items"],
        json!([])
    );
}

async fn a_product_is_added_changed_and_archived(client: Client) {
    let sku = new_product(&client, 100, 0).await;
    let staff = client.staff().await;
    let path = format!("/api/v1/products/{sku}");
    let again = json!({"sku": sku, "name": "Twice", "description": "x", "category": "figs", "price": {"amount": 1, "currency": "EUR"}});
    staff
        .post("/api/v1/products", &again)
        .await
        .expect_problem(409, "sku_taken");
    let changed = staff
        .send(Method::PATCH, &path, &[], Some(&json!({"name": "A Better Fig"})))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&changed["name"], &changed["price"]["amount"]),
        (&json!("A Better Fig"), &json!(100))
    );
    staff.send(Method::DELETE, &path, &[], None).await.expect(204);
    let archived = client.get(&path).await;
    assert!(
        archived.status == 404 || archived.json()["active"] == false,
        "{}",
        archived.status
    );
    let listed = client
        .get("/api/v1/products?q=Better&limit=100")
        .await
        .expect(200)
        .json();
    assert!(
        listed["items"]
            .as_array()
            .expect("items")
            .iter()
            .all(|product| product["sku"] != sku.as_str())
    );
}

async fn a_receipt_is_counted_once(client: Client) {
    let sku = new_product(&client, 100, 0).await;
    let staff = client.staff().await;
    let (path, key) = (format!("/api/v1/stock/{sku}/receipts"), new_key());
    for _ in 0..3 {
        let level = staff
            .send(
                Method::POST,
                &path,
                &[("Idempotency-Key", &key)],
                Some(&json!({"quantity": 7})),
            )
            .await
            .expect(201)
            .json();
        assert_eq!(level["on_hand"], 7);
    }
    assert_eq!(stock_of(&client, &sku).await, (7, 0));
    staff
        .post(&path, &json!({"quantity": 7}))
        .await
        .expect_problem(400, "idempotency_key_required");
}

async fn an_adjustment_cannot_take_more_than_is_available(client: Client) {
    let sku = new_product(&client, 100, 5).await;
    let staff = client.staff().await;
    let path = format!("/api/v1/stock/{sku}/adjustments");
    staff
        .post_keyed(&path, &json!({"quantity": -2, "reason": "broken"}))
        .await
        .expect(201);
    assert_eq!(stock_of(&client, &sku).await, (3, 0));
    staff
        .post_keyed(&path, &json!({"quantity": -4, "reason": "broken"}))
        .await
        .expect(409);
    staff.post_keyed(&path, &json!({"quantity": 0})).await.expect(422);
    assert_eq!(stock_of(&client, &sku).await, (3, 0));
}

async fn a_partial_refund_leaves_the_rest(client: Client) {
    let sku = new_product(&client, 1000, 5).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 2, "pm_card_visa").await;
    let staff = client.staff().await;
    let payment = format!(
        "/api/v1/payments/{}",
        order["payment"]["id"].as_str().expect("a payment")
    );
    let refunds = format!("{payment}/refunds");
    let part = json!({"amount": {"amount": 500, "currency": "EUR"}, "reason": "a bruise"});
    let key = new_key();
    for _ in 0..2 {
        staff
            .send(Method::POST, &refunds, &[("Idempotency-Key", &key)], Some(&part))
            .await
            .expect(201);
    }
    let after = eventually(&customer, &payment, "a part is refunded", |payment| {
        payment["status"] == "partially_refunded"
    })
    .await;
    assert_eq!(after["refunded"]["amount"], 500);
    let too_much = json!({"amount": {"amount": 1501, "currency": "EUR"}, "reason": "greed"});
    staff.post_keyed(&refunds, &too_much).await.expect(409);
    staff
        .post_keyed(
            &refunds,
            &json!({"amount": {"amount": 1, "currency": "USD"}, "reason": "abroad"}),
        )
        .await
        .expect(422);
    staff
        .post_keyed(&refunds, &json!({"reason": "the rest"}))
        .await
        .expect(201);
    eventually(&customer, &payment, "all is refunded", |payment| {
        payment["status"] == "refunded" && payment["refunded"]["amount"] == 2000
    })
    .await;
    let notified = |list: &serde_json::Value| {
        list["items"]
            .as_array()
            .is_some_and(|items| items.iter().filter(|mail| mail["kind"] == "payment_refunded").count() == 2)
    };
    eventually(
        &customer,
        "/api/v1/notifications?limit=100",
        "the customer is notified of both refunds",
        notified,
    )
    .await;
    eventually(&customer, &order_path(&order), "the order is unchanged", |order| {
        order["status"] == "confirmed"
    })
    .await;
}

async fn customers_cannot_change_products_or_stock(client: Client) {
    let customer = client.customer().await;
    let product = json!({"sku": "mine", "name": "x", "description": "x", "category": "figs", "price": {"amount": 1, "currency": "EUR"}});
    customer
        .post("/api/v1/products", &product)
        .await
        .expect_problem(403, "insufficient_role");
    customer
        .post_keyed("/api/v1/stock/rare-fig/receipts", &json!({"quantity": 1}))
        .await
        .expect_problem(403, "insufficient_role");
    client
        .post_keyed("/api/v1/stock/rare-fig/receipts", &json!({"quantity": 1}))
        .await
        .expect(401);
}
