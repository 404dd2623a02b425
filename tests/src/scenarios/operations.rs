//! What operators see and do.

use banyan::MODULES;
use serde_json::{Value, json};

use super::{eventually, new_product, scenarios};
use crate::harness::Client;

scenarios![
    operators_see_the_modules,
    a_process_can_list_its_local_modules_only,
    every_order_has_one_checkout_saga_with_its_log,
    only_operators_may_call_the_operations_api,
    a_saga_that_is_not_parked_cannot_be_abandoned,
    sent_events_stay_in_the_outbox,
    there_are_no_dead_letters,
    readiness_and_metrics_are_served,
];

async fn operators_see_the_modules(client: Client) {
    let modules = client.ops().await.get("/api/v1/ops/modules").await.expect(200).json();
    let names: Vec<&str> = modules["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|module| module["name"].as_str())
        .collect();
    assert!(MODULES.iter().all(|module| names.contains(module)), "{modules}");
}

async fn a_process_can_list_its_local_modules_only(client: Client) {
    let ops = client.ops().await;
    let own = ops.get("/api/v1/ops/modules?here=true").await.expect(200).json();
    let all = ops.get("/api/v1/ops/modules").await.expect(200).json();
    let names = |list: &Value, wanted: fn(&Value) -> bool| -> Vec<String> {
        list["items"]
            .as_array()
            .expect("items")
            .iter()
            .filter(|row| wanted(row))
            .map(|row| row["name"].to_string())
            .collect()
    };
    assert_eq!(names(&own, |_| true), names(&all, |row| row["placement"] == "local"));
    ops.get("/api/v1/ops/modules?here=perhaps").await.expect(400);
}

async fn saga_of(ops: &Client, order: &Value) -> Value {
    let id = order["id"].as_str().expect("an id");
    let list = ops
        .get(&format!("/api/v1/ops/orders/sagas?business_key={id}"))
        .await
        .expect(200)
        .json();
    let sagas = list["items"].as_array().expect("items").clone();
    assert_eq!(sagas.len(), 1, "{list}");
    sagas[0].clone()
}

async fn every_order_has_one_checkout_saga_with_its_log(client: Client) {
    let sku = new_product(&client, 100, 5).await;
    let order = client.new_customer().await.order(&sku, 1, "pm_card_visa").await;
    let ops = client.ops().await;
    let saga = saga_of(&ops, &order).await;
    assert_eq!(saga["kind"], "checkout");
    let path = format!("/api/v1/ops/orders/sagas/{}", saga["id"].as_str().expect("an id"));
    let shown = eventually(&ops, &path, "the saga is completed", |saga| {
        saga["state"] == "completed"
    })
    .await;
    assert!(shown["log"].as_array().is_some_and(|log| log.len() > 5), "{shown}");
}

async fn only_operators_may_call_the_operations_api(client: Client) {
    for path in [
        "/api/v1/ops/modules",
        "/api/v1/ops/orders/sagas",
        "/api/v1/ops/orders/outbox",
        "/api/v1/ops/orders/dead-letters",
        "/api/v1/ops/orders/audit",
    ] {
        client.get(path).await.expect(401);
        client
            .customer()
            .await
            .get(path)
            .await
            .expect_problem(403, "insufficient_role");
        client
            .staff()
            .await
            .get(path)
            .await
            .expect_problem(403, "insufficient_role");
        client.ops().await.get(path).await.expect(200);
    }
    client.ops().await.get("/api/v1/ops/nothing/sagas").await.expect(404);
}

async fn a_saga_that_is_not_parked_cannot_be_abandoned(client: Client) {
    let sku = new_product(&client, 100, 5).await;
    let order = client.new_customer().await.order(&sku, 1, "pm_card_visa").await;
    let ops = client.ops().await;
    let saga = saga_of(&ops, &order).await;
    let path = format!(
        "/api/v1/ops/orders/sagas/{}/abandon",
        saga["id"].as_str().expect("an id")
    );
    ops.post(&path, &json!({"reason": "a test"})).await.expect(409);
    ops.post(&path, &json!({})).await.expect(422);
}

async fn sent_events_stay_in_the_outbox(client: Client) {
    let sku = new_product(&client, 100, 5).await;
    client.new_customer().await.order(&sku, 1, "pm_card_visa").await;
    let ops = client.ops().await;
    let sent = |list: &Value| {
        list["items"]
            .as_array()
            .is_some_and(|items| !items.is_empty() && items.iter().all(|event| event["state"] == "sent"))
    };
    eventually(
        &ops,
        "/api/v1/ops/orders/outbox?state=sent",
        "orders' events are sent",
        sent,
    )
    .await;
}

async fn there_are_no_dead_letters(client: Client) {
    let ops = client.ops().await;
    for module in MODULES {
        let letters = ops
            .get(&format!("/api/v1/ops/{module}/dead-letters"))
            .await
            .expect(200)
            .json();
        assert_eq!(letters["items"], json!([]), "{module}");
    }
}

async fn readiness_and_metrics_are_served(client: Client) {
    let ready = client.get("/health/ready").await.expect(200).json();
    assert_eq!(ready["status"], "ready");
    // The checks depend on the placement: databases of local modules, and remote modules.
    let checks = ready["checks"].as_object().expect("checks");
    assert!(
        checks.len() >= 5 && checks.values().all(|state| state == "ok"),
        "{ready}"
    );
    let metrics = String::from_utf8(client.get("/metrics").await.expect(200).bytes).expect("text");
    assert!(metrics.contains("http_requests_total"), "{metrics}");
}
