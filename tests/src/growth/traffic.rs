//! What a shop is asked: a little of everything, and every list in every way.

use std::{fs, time::Duration};

use banyan::MODULES;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    architecture::root,
    harness::{Client, new_key},
    openapi::operations,
    scenarios::{eventually, new_product, order_path},
};

pub struct Customer {
    pub id: Uuid,
    pub client: Client,
}

/// Two customers: most of what the shop stores belongs to the heavy one or to others, and little to the light one.
pub struct Customers {
    pub heavy: Customer,
    pub light: Customer,
    order: String,
    payment: String,
    shipment: String,
    sku: String,
}

async fn customer(client: &Client) -> Customer {
    let client = client.new_customer().await;
    let me = client.get("/api/v1/users/me").await.expect(200).json();
    let id = me["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    Customer { id, client }
}

/// Orders of every fate.
pub async fn sell(client: &Client) -> Customers {
    let sku = new_product(client, 100, 500).await;
    let staff = client.staff().await;
    let (heavy, light) = (customer(client).await, customer(client).await);
    let mut ids = [const { String::new() }; 3];
    for customer in [&light, &heavy] {
        for method in ["pm_card_visa", "pm_card_declined", "pm_card_visa"] {
            let order = customer.client.order(&sku, 2, method).await;
            if order["status"] != "confirmed" {
                continue;
            }
            let shipment = order["shipment"]["id"].as_str().expect("a shipment").to_owned();
            let payment = order["payment"]["id"].as_str().expect("a payment").to_owned();
            let path = format!("/api/v1/shipments/{shipment}");
            eventually(&staff, &path, "the shipment is ready", |shipment| {
                shipment["status"] == "ready"
            })
            .await;
            ids = [order["id"].as_str().expect("an id").to_owned(), payment, shipment];
        }
        let cancelled = customer.client.order(&sku, 1, "pm_card_visa").await;
        let cancel = format!("{}/cancel", order_path(&cancelled));
        customer.client.post_keyed(&cancel, &json!({})).await;
        let cart = customer.client.post_keyed("/api/v1/carts", &json!({})).await.json();
        let cart = format!("/api/v1/carts/{}", cart["id"].as_str().unwrap_or_default());
        let item = format!("{cart}/items/{sku}");
        customer
            .client
            .send(reqwest::Method::PUT, &item, &[], Some(&json!({"quantity": 1})))
            .await;
    }
    let [order, payment, shipment] = ids;
    for step in ["dispatch", "deliver"] {
        staff
            .post_keyed(&format!("/api/v1/shipments/{shipment}/{step}"), &json!({}))
            .await
            .expect(200);
    }
    let refund = json!({"amount": {"amount": 1, "currency": "EUR"}, "reason": "growth"});
    staff
        .post_keyed(&format!("/api/v1/payments/{payment}/refunds"), &refund)
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    Customers {
        heavy,
        light,
        order,
        payment,
        shipment,
        sku,
    }
}

/// Every GET of the document: lists with every combination of filters, their first page and the one after it; everything else once.
pub async fn lists(client: &Client, customers: &Customers) {
    // An order in a shop that has stored something.
    customers.light.client.order(&customers.sku, 1, "pm_card_visa").await;
    let document = fs::read_to_string(root().join("app/openapi.json")).expect("the document is committed");
    let document: Value = serde_json::from_str(&document).expect("JSON");
    let callers = [
        customers.heavy.client.clone(),
        customers.light.client.clone(),
        client.staff().await,
        client.ops().await,
    ];
    for (path, method, operation) in operations(&document) {
        if method != "get" || path.ends_with("/events") {
            continue;
        }
        let parameters: Vec<Value> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|parameter| resolved(&document, parameter))
            .collect();
        let in_query = |parameter: &&Value| {
            parameter["in"] == "query" && parameter["name"] != "limit" && parameter["name"] != "cursor"
        };
        let is_list = parameters.iter().any(|parameter| parameter["name"] == "cursor");
        let is_paged = parameters.iter().any(|parameter| parameter["name"] == "limit");
        let mut queries = vec![String::new()];
        for parameter in parameters.iter().filter(in_query) {
            let name = parameter["name"].as_str().unwrap_or_default();
            let with: Vec<String> = queries
                .iter()
                .flat_map(|query| {
                    customers
                        .samples(name, &parameter["schema"])
                        .into_iter()
                        .map(move |sample| format!("{query}&{name}={sample}"))
                })
                .collect();
            queries.extend(with);
        }
        let mut answered = 0;
        for path in customers.paths(&path) {
            for (query, caller) in queries
                .iter()
                .flat_map(|query| callers.iter().map(move |caller| (query, caller)))
            {
                let limits: &[&str] = if is_paged { &["limit=20", "limit=1"] } else { &[""] };
                for limit in limits {
                    let first = caller.get(&format!("{path}?{limit}{query}")).await;
                    assert!(first.status < 500, "{path}?{limit}{query}: {}", first.status);
                    answered += u32::from(first.status == 200);
                    let cursor = (first.status == 200 && is_list)
                        .then(|| first.json()["next_cursor"].as_str().map(str::to_owned))
                        .flatten();
                    if let Some(cursor) = cursor {
                        caller.get(&format!("{path}?{limit}{query}&cursor={cursor}")).await;
                    }
                }
            }
        }
        assert!(
            answered > 0 || !is_list,
            "nobody gets {path}: it needs a value for what is in its path"
        );
    }
}

impl Customers {
    /// Values of a filter: all of a closed set, otherwise some that fit its name or type.
    fn samples(&self, name: &str, schema: &Value) -> Vec<String> {
        if let Some(values) = schema["enum"].as_array() {
            return values.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        }
        match (name, schema["type"].as_str()) {
            ("user_id", _) => [&self.heavy, &self.light]
                .map(|customer| customer.id.to_string())
                .to_vec(),
            ("order_id" | "business_key", _) => vec![self.order.clone()],
            ("kind", _) => ["checkout", "cancellation"].map(str::to_owned).to_vec(),
            (_, Some("boolean")) => vec!["true".to_owned()],
            (_, Some("integer")) => vec!["99999999".to_owned()],
            _ => vec!["nothing-is-called-so".to_owned()],
        }
    }

    fn paths(&self, template: &str) -> Vec<String> {
        let user = self.heavy.id.to_string();
        let id = match template {
            payments if payments.contains("/payments/") => &self.payment,
            shipments if shipments.contains("/shipments/") => &self.shipment,
            users if users.contains("/users/") => &user,
            _ => &self.order,
        };
        let path = template
            .replace("{id}", id)
            .replace("{sku}", &self.sku)
            .replace("{key}", &new_key());
        if path.contains("{module}") {
            MODULES.map(|module| path.replace("{module}", module)).to_vec()
        } else {
            vec![path]
        }
    }
}

fn resolved(document: &Value, value: &Value) -> Value {
    match value["$ref"].as_str() {
        Some(reference) => document
            .pointer(reference.trim_start_matches('#'))
            .cloned()
            .unwrap_or_default(),
        None => value.clone(),
    }
}
