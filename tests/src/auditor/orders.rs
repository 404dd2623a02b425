//! D: every order reaches a final state, and a compensated checkout is undone in every module.

use std::collections::{HashMap, HashSet};

use sea_orm::FromQueryResult;
use uuid::Uuid;

use super::databases::Databases;

/// A saga by the order it belongs to.
#[derive(FromQueryResult)]
struct Saga {
    business_key: String,
    state: String,
}

#[derive(FromQueryResult)]
struct Order {
    id: Uuid,
    status: String,
}

/// The state of what a module keeps for an order.
#[derive(FromQueryResult)]
struct Kept {
    order_id: Uuid,
    state: String,
}

pub async fn audit_quiet(databases: &Databases) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut checkouts: HashMap<String, Vec<String>> = HashMap::new();
    let sagas = "select business_key, state from saga where kind = 'checkout'";
    for Saga { business_key, state } in databases.rows("orders", sagas).await {
        checkouts.entry(business_key).or_default().push(state);
    }
    for Order { id, status } in databases.rows("orders", "select id, status from order_view").await {
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
    let states = async |module: &str, sql: &str| -> HashMap<Uuid, String> {
        let rows: Vec<Kept> = databases.rows(module, sql).await;
        rows.into_iter().map(|row| (row.order_id, row.state)).collect()
    };
    let reservations = states("inventory", "select order_id, state from reservation").await;
    let payments = states("payments", "select order_id, status as state from payment").await;
    let shipments = states("shipping", "select order_id, status as state from shipment").await;
    let undone: HashSet<&str> = ["released", "restocked", "voided", "declined", "refunded", "cancelled"].into();
    let compensated = "select business_key, state from saga where kind = 'checkout' and state = 'compensated'";
    for Saga { business_key, .. } in databases.rows("orders", compensated).await {
        let id = Uuid::parse_str(&business_key).expect("a checkout's key is an order's id");
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
