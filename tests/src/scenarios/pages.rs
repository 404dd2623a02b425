//! Pages composed of several modules.

use serde_json::json;

use super::{new_product, scenarios};
use crate::harness::Client;

scenarios![
    order_details_combine_the_data_of_all_modules,
    a_dashboard_shows_the_callers_own_data
];

async fn order_details_combine_the_data_of_all_modules(client: Client) {
    let sku = new_product(&client, 100, 5).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 1, "pm_card_visa").await;
    let path = format!("/api/v1/order-details/{}", order["id"].as_str().expect("an id"));
    let page = customer.get(&path).await.expect(200).json();
    assert_eq!(page["unavailable"], json!([]), "{page}");
    assert_eq!(page["order"]["id"], order["id"]);
    assert_eq!(page["user"]["id"], order["user_id"]);
    assert_eq!(page["products"][0]["sku"], sku.as_str());
    assert_eq!(page["payment"]["id"], order["payment"]["id"]);
    assert_eq!(page["shipment"]["id"], order["shipment"]["id"]);
    client
        .new_customer()
        .await
        .get(&path)
        .await
        .expect_problem(404, "not_found");
    client.staff().await.get(&path).await.expect(200);
    client.get(&path).await.expect(401);
}

async fn a_dashboard_shows_the_callers_own_data(client: Client) {
    let sku = new_product(&client, 100, 5).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 1, "pm_card_visa").await;
    let page = customer.get("/api/v1/dashboard").await.expect(200).json();
    assert_eq!(page["profile"]["id"], order["user_id"], "{page}");
    assert_eq!(page["latest_orders"].as_array().map(Vec::len), Some(1));
    assert_eq!(page["latest_orders"][0]["id"], order["id"]);
    client.get("/api/v1/dashboard").await.expect(401);
}
