//! F: every event had its effect, exactly once. The lanes say that a subscriber has handled an event; these look at what it was to do about it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sea_orm::FromQueryResult;
use serde_json::Value;
use uuid::Uuid;

use super::databases::Databases;

/// Each subscription of the shop with the invariant that shows its effect: subscriber, topic, invariant.
pub const SUBSCRIPTIONS: [(&str, &str, &str); 6] = [
    ("catalog", "orders.order", "F1"),
    ("orders", "payments.payment", "F2"),
    ("orders", "shipping.shipment", "F3"),
    ("notifications", "orders.order", "F4"),
    ("notifications", "payments.payment", "F5"),
    ("notifications", "users.user", "F6"),
];

/// What of an order's events its customer gets a mail about: the event, and the kind of the mail.
const MAILS: [(&str, &str); 5] = [
    ("placed", "order_placed"),
    ("confirmed", "order_confirmed"),
    ("shipped", "order_shipped"),
    ("delivered", "order_delivered"),
    ("cancelled", "order_cancelled"),
];

#[derive(FromQueryResult)]
struct Happened {
    order_id: Uuid,
    kind: String,
}

#[derive(FromQueryResult)]
struct Order {
    id: Uuid,
    user_id: Uuid,
    status: String,
    items: String,
    payment: Option<String>,
    shipment: Option<String>,
}

#[derive(FromQueryResult)]
struct Mail {
    user_id: Uuid,
    kind: String,
    body: String,
}

#[derive(FromQueryResult)]
struct Sales {
    sku: String,
    units: i64,
}

#[derive(FromQueryResult)]
struct Of {
    id: Uuid,
}

/// The payment or the shipment of an order, in the module that has it.
#[derive(FromQueryResult)]
struct Part {
    id: Uuid,
    order_id: Uuid,
    status: String,
    tracking_number: Option<String>,
}

/// How often each mail was to be written or was written: by user, order and kind.
type Counted = BTreeMap<(Uuid, Option<Uuid>, String), u64>;

pub async fn audit_quiet(databases: &Databases) -> Vec<String> {
    let orders: Vec<Order> = databases
        .rows(
            "orders",
            "select id, user_id, status, items, payment, shipment from order_view",
        )
        .await;
    let events: Vec<Happened> = databases.rows("orders", "select order_id, kind from order_event").await;
    let mut wrong = sales(databases, &orders, &events).await;
    wrong.extend(payments(databases, &orders).await);
    wrong.extend(shipments(databases, &orders).await);
    wrong.extend(mails(databases, &orders, &events).await);
    wrong
}

/// F1: a product's sales are the units of the orders that were ever confirmed.
async fn sales(databases: &Databases, orders: &[Order], events: &[Happened]) -> Vec<String> {
    let confirmed: BTreeSet<Uuid> = events
        .iter()
        .filter(|event| event.kind == "confirmed")
        .map(|event| event.order_id)
        .collect();
    let mut sold: BTreeMap<String, i64> = BTreeMap::new();
    for order in orders.iter().filter(|order| confirmed.contains(&order.id)) {
        for item in json(&order.items).as_array().expect("the items of an order") {
            let sku = item["sku"].as_str().expect("a SKU").to_owned();
            *sold.entry(sku).or_default() += item["quantity"].as_i64().expect("a quantity");
        }
    }
    let counted: Vec<Sales> = databases
        .rows("catalog", "select sku, units from product_sales where units <> 0")
        .await;
    let counted: BTreeMap<String, i64> = counted.into_iter().map(|row| (row.sku, row.units)).collect();
    let skus: BTreeSet<&String> = sold.keys().chain(counted.keys()).collect();
    let units = |of: &BTreeMap<String, i64>, sku: &String| of.get(sku).copied().unwrap_or_default();
    skus.into_iter()
        .filter(|sku| units(&sold, sku) != units(&counted, sku))
        .map(|sku| {
            format!(
                "F1: {} units of {sku} were sold, the catalog counted {}",
                units(&sold, sku),
                units(&counted, sku)
            )
        })
        .collect()
}

/// F2: an order knows its payment as it is in payments.
async fn payments(databases: &Databases, orders: &[Order]) -> Vec<String> {
    let sql = "select id, order_id, status, null as tracking_number from payment where status <> 'created'";
    let found = parts(databases, "payments", sql).await;
    let differs = |order: &Order| {
        let known = order.payment.as_deref().map(json).unwrap_or_default();
        let is = found.get(&order.id);
        let same = is.map_or(known.is_null(), |payment| {
            known["id"] == payment.id.to_string() && known["status"] == payment.status
        });
        let status = is.map(|payment| &payment.status);
        (!same).then(|| format!("F2: order {} knows its payment as {known}, it is {status:?}", order.id))
    };
    orders.iter().filter_map(differs).collect()
}

/// F3: an order knows its shipment as it is in shipping, and follows it to the customer.
async fn shipments(databases: &Databases, orders: &[Order]) -> Vec<String> {
    let found = parts(
        databases,
        "shipping",
        "select id, order_id, status, tracking_number from shipment",
    )
    .await;
    let differs = |order: &Order| {
        let known = order.shipment.as_deref().map(json).unwrap_or_default();
        let Some(shipment) = found.get(&order.id) else {
            return (!known.is_null())
                .then(|| format!("F3: the shipment that order {} knows does not exist", order.id));
        };
        let same = known["id"] == shipment.id.to_string()
            && known["status"] == shipment.status
            && known["tracking_number"].as_str() == shipment.tracking_number.as_deref();
        let follows = match shipment.status.as_str() {
            "dispatched" => order.status == "shipped",
            "delivered" => order.status == "delivered",
            _ => !["shipped", "delivered"].contains(&order.status.as_str()),
        };
        (!same || !follows).then(|| {
            format!(
                "F3: order {} is {} and knows its shipment as {known}, it is {}",
                order.id, order.status, shipment.status
            )
        })
    };
    orders.iter().filter_map(differs).collect()
}

/// F4, F5, F6: exactly one mail about each of an order's events, each refund and each registration.
async fn mails(databases: &Databases, orders: &[Order], events: &[Happened]) -> Vec<String> {
    let users_of: HashMap<Uuid, Uuid> = orders.iter().map(|order| (order.id, order.user_id)).collect();
    let mut expected = Counted::new();
    for event in events {
        let kind = MAILS.iter().find(|(happened, _)| *happened == event.kind);
        if let (Some((_, kind)), Some(user)) = (kind, users_of.get(&event.order_id)) {
            *expected
                .entry((*user, Some(event.order_id), (*kind).to_owned()))
                .or_default() += 1;
        }
    }
    let refunds = "select p.order_id as id from ledger_transaction t join payment p on p.id = t.payment_id where t.kind = 'refund'";
    for Of { id } in databases.rows("payments", refunds).await {
        // A payment without an order is found by B3.
        if let Some(user) = users_of.get(&id) {
            *expected
                .entry((*user, Some(id), "payment_refunded".to_owned()))
                .or_default() += 1;
        }
    }
    for Of { id } in databases.rows("users", "select id from users").await {
        expected.insert((id, None, "welcome".to_owned()), 1);
    }
    let mut written = Counted::new();
    let rows: Vec<Mail> = databases
        .rows(
            "notifications",
            "select user_id, kind, body from notification where account_mail is null",
        )
        .await;
    for Mail { user_id, kind, body } in rows {
        let order = body.lines().find_map(|line| line.strip_prefix("Order: "));
        let order = order.map(|id| id.parse().expect("an order's id"));
        *written.entry((user_id, order, kind)).or_default() += 1;
    }
    let all: BTreeSet<_> = expected.keys().chain(written.keys()).collect();
    let count = |of: &Counted, mail: &(Uuid, Option<Uuid>, String)| of.get(mail).copied().unwrap_or_default();
    all.into_iter()
        .filter(|mail| count(&expected, mail) != count(&written, mail))
        .map(|mail| {
            let (user, order, kind) = mail;
            let id = match kind.as_str() {
                "payment_refunded" => "F5",
                "welcome" => "F6",
                _ => "F4",
            };
            let about = order.map_or_else(String::new, |order| format!(" about order {order}"));
            format!(
                "{id}: user {user} got {} mails {kind}{about}, and should have got {}",
                count(&written, mail),
                count(&expected, mail)
            )
        })
        .collect()
}

/// Payments or shipments, by their orders.
async fn parts(databases: &Databases, module: &str, sql: &str) -> HashMap<Uuid, Part> {
    let rows: Vec<Part> = databases.rows(module, sql).await;
    rows.into_iter().map(|part| (part.order_id, part)).collect()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}
