//! D: every order reaches a final state, and a compensated checkout is undone in every module.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::databases::{Databases, get};

pub async fn audit_quiet(databases: &Databases) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut checkouts: HashMap<String, Vec<String>> = HashMap::new();
    for row in databases
        .rows("orders", "select business_key, state from saga where kind = 'checkout'")
        .await
    {
        checkouts
            .entry(get(&row, "business_key"))
            .or_default()
            .push(get(&row, "state"));
    }
    for row in databases.rows("orders", "select id, status from order_view").await {
        let (id, status): (Uuid, String) = (get(&row, "id"), get(&row, "status"));
        let sagas = checkouts.remove(&id.to_string()).unwrap_or_default();
        if sagas.len() != 1 {
            wrong.push(format!("D1: order {id} has {} checkout sagas", sagas.len()));
        }
        if status == "pending" && sagas.iter().all(|state| state != "parked") {
            wrong.push(format!("D2: order {id} is still pending and its saga is not parked"));
        }
    }
    for order in checkouts.into_keys() {
        wrong.push(format!(
            "D1: there is a checkout saga for {order}, which is not an order"
        ));
    }
    let states = |rows: Vec<sea_orm::QueryResult>, column: &'static str| -> HashMap<Uuid, String> {
        rows.iter()
            .map(|row| (get(row, "order_id"), get(row, column)))
            .collect()
    };
    let reservations = states(
        databases
            .rows("inventory", "select order_id, state from reservation")
            .await,
        "state",
    );
    let payments = states(
        databases.rows("payments", "select order_id, status from payment").await,
        "status",
    );
    let shipments = states(
        databases
            .rows("shipping", "select order_id, status from shipment")
            .await,
        "status",
    );
    let undone: HashSet<&str> = ["released", "restocked", "voided", "declined", "refunded", "cancelled"].into();
    for row in databases
        .rows(
            "orders",
            "select business_key from saga where kind = 'checkout' and state = 'compensated'",
        )
        .await
    {
        let order: String = get(&row, "business_key");
        let id = Uuid::parse_str(&order).expect("a checkout's key is an order's id");
        for (what, found) in [
            ("reservation", &reservations),
            ("payment", &payments),
            ("shipment", &shipments),
        ] {
            if let Some(state) = found.get(&id).filter(|state| !undone.contains(state.as_str())) {
                wrong.push(format!(
                    "D4: the checkout of {id} is compensated, its {what} is {state}"
                ));
            }
        }
    }
    wrong
}
