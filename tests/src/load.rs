//! The load under which tests inject failures: customers who keep ordering, staff who keep working, and checks of every response they got.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use banyan_durable_testing::eventually;
use rand::{Rng, seq::IndexedRandom};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{sync::Mutex, task::JoinSet};

use crate::{
    auditor::{Databases, audit, audit_always, stuck, unfinished},
    harness::{Client, Response, Shop, new_key, order_body},
    scenarios::new_product,
};

const SETTLE_LIMIT: Duration = Duration::from_secs(60);
const METHODS: [&str; 12] = [
    "pm_card_visa",
    "pm_card_visa",
    "pm_card_visa",
    "pm_card_visa",
    "pm_card_visa",
    "pm_card_visa",
    "pm_card_declined",
    "pm_card_insufficient_funds",
    "pm_card_timeout",
    "pm_card_capture_fails_once",
    "pm_card_capture_declined",
    "pm_card_slow",
];

/// Mostly shorter intervals than in production, so that a test sees in seconds what otherwise takes a minute.
pub const SETTINGS: &[(&str, &str)] = &[
    ("BANYAN__DURABLE__LEASE_MS", "2000"),
    ("BANYAN__DURABLE__SAGA_RETRY_CAP_MS", "2000"),
    ("BANYAN__DURABLE__FEED_COMPARE_MS", "3000"),
    ("BANYAN__DURABLE__POOL", "4"),
    // Customers log in once, and the full run takes longer than the default lifetime of a token.
    ("BANYAN__USERS__ACCESS_TOKEN_SECONDS", "7200"),
    ("BANYAN__PAYMENTS__RECONCILE_EVERY_MS", "1000"),
    ("BANYAN__PAYMENTS__RECONCILE_AFTER_MS", "2000"),
    ("BANYAN__LOG__FILTER", "warn"),
];

/// An order as its customer knows it.
struct Placed {
    customer: Client,
    key: String,
    body: Value,
    /// The body of the first 2xx response, if there was one.
    response: Option<Vec<u8>>,
}

/// The load, until [`end`](Load::end).
pub struct Load {
    stop: Arc<AtomicBool>,
    placed: Arc<Mutex<Vec<Placed>>>,
    tasks: JoinSet<()>,
    client: Client,
    staff: Client,
    in_flight: usize,
}

impl Load {
    /// Keeps `in_flight` orders in flight, with every payment method, and with cancellations, refunds and receipts between them.
    pub async fn start(client: &Client, in_flight: usize) -> Load {
        let staff = client.staff().await;
        let mut skus = Vec::new();
        for units in [40, 200, 100_000] {
            skus.push(new_product(client, 1_000 + units, u32::try_from(units).expect("a small number")).await);
        }
        let mut customers = Vec::new();
        for _ in 0..10 {
            customers.push(client.new_customer().await);
        }
        let (stop, placed) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let mut tasks = JoinSet::new();
        for at in 0..in_flight {
            tasks.spawn(order_until(
                stop.clone(),
                customers[at % customers.len()].clone(),
                skus.clone(),
                placed.clone(),
            ));
        }
        tasks.spawn(work_as_staff_until(stop.clone(), staff.clone(), skus.clone()));
        Load {
            stop,
            placed,
            tasks,
            client: client.clone(),
            staff,
            in_flight,
        }
    }

    /// Stops the load once there are more orders than customers, waits until nothing is in progress, and expects the auditor to find nothing wrong.
    ///
    /// # Panics
    /// With everything that is wrong.
    pub async fn end(mut self, shop: &Shop) {
        let is_load = || async { responded(&self.placed.lock().await) > self.in_flight };
        eventually("more orders are placed than there are customers", SETTLE_LIMIT, is_load).await;
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a customer does not panic");
        }
        settle(shop).await;
        let databases = Databases::open(shop).await;
        let mut wrong = audit(&databases).await;
        databases.close().await;
        let placed = Arc::into_inner(self.placed)
            .expect("the customers have ended")
            .into_inner();
        wrong.extend(audit_answers(&self.client, &self.staff, &placed).await);
        // Replays may have placed orders whose first response was lost: the shop must be consistent with them too.
        settle(shop).await;
        let databases = Databases::open(shop).await;
        wrong.extend(audit(&databases).await);
        wrong.extend(stuck(&databases).await);
        databases.close().await;
        assert!(
            wrong.is_empty(),
            "{} of {} orders audited:\n{}\nlog:\n{}",
            wrong.len(),
            responded(&placed),
            wrong.join("\n"),
            tail(&shop.log())
        );
    }
}

/// The number of orders with a response.
fn responded(placed: &[Placed]) -> usize {
    placed.iter().filter(|order| order.response.is_some()).count()
}

/// Checks what holds at any time, also right after a kill.
///
/// # Panics
/// With everything that is wrong.
pub async fn check_always(shop: &Shop) {
    let databases = Databases::open(shop).await;
    let wrong = audit_always(&databases).await;
    databases.close().await;
    assert!(wrong.is_empty(), "right after a fault:\n{}", wrong.join("\n"));
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Waits until nothing is in progress.
pub async fn settle(shop: &Shop) {
    let databases = Databases::open(shop).await;
    let started = Instant::now();
    loop {
        let pending = unfinished(&databases).await;
        if pending.is_empty() {
            break;
        }
        assert!(
            started.elapsed() < SETTLE_LIMIT,
            "not finished within {SETTLE_LIMIT:?}:\n{}\nlog:\n{}",
            pending.join("\n"),
            tail(&shop.log())
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    databases.close().await;
}

/// A customer who keeps ordering, retries requests without a response, and sometimes cancels.
async fn order_until(stop: Arc<AtomicBool>, customer: Client, skus: Vec<String>, placed: Arc<Mutex<Vec<Placed>>>) {
    while !stop.load(Ordering::SeqCst) {
        let (sku, method, quantity, cancels) = {
            let mut random = rand::rng();
            let sku = skus.choose(&mut random).expect("there are products").clone();
            (
                sku,
                *METHODS.choose(&mut random).expect("there are methods"),
                random.random_range(1..4),
                random.random_bool(0.15),
            )
        };
        let (key, body) = (new_key(), order_body(&sku, quantity, method));
        let response = repeat(&customer, "/api/v1/orders", &key, &body, &stop).await;
        if let Some(response) = response.as_ref().filter(|_| cancels) {
            let order: Value = serde_json::from_slice(response).expect("an order");
            let path = format!("/api/v1/orders/{}/cancel", order["id"].as_str().expect("an id"));
            repeat(&customer, &path, &new_key(), &json!({}), &stop).await;
        }
        if let Some(response) = &response {
            await_outcome(&customer, response, &stop).await;
        }
        placed.lock().await.push(Placed {
            customer: customer.clone(),
            key,
            body,
            response,
        });
    }
}

/// Waits until the order is no longer pending, so that there are always as many in flight as there are customers, however slow the machine.
async fn await_outcome(customer: &Client, response: &[u8], stop: &AtomicBool) {
    let order: Value = serde_json::from_slice(response).expect("an order");
    let path = format!("/api/v1/orders/{}", order["id"].as_str().expect("an id"));
    while !stop.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let found = customer.try_send(Method::GET, &path, &[], None).await;
        if found.is_ok_and(|found| found.status == 200 && found.json()["status"] != "pending") {
            return;
        }
    }
}

/// Staff who receive goods, refund some payments and send some parcels meanwhile.
async fn work_as_staff_until(stop: Arc<AtomicBool>, staff: Client, skus: Vec<String>) {
    while !stop.load(Ordering::SeqCst) {
        repeat(
            &staff,
            &format!("/api/v1/stock/{}/receipts", skus[0]),
            &new_key(),
            &json!({"quantity": 3}),
            &stop,
        )
        .await;
        if let Ok(page) = staff
            .try_send(Method::GET, "/api/v1/orders?status=confirmed&limit=1", &[], None)
            .await
            && page.status == 200
            && let Some(payment) = page.json()["items"][0]["payment"]["id"].as_str()
        {
            let refund = json!({"amount": {"amount": 100, "currency": "EUR"}, "reason": "a bruise"});
            repeat(
                &staff,
                &format!("/api/v1/payments/{payment}/refunds"),
                &new_key(),
                &refund,
                &stop,
            )
            .await;
        }
        for (status, step) in [("ready", "dispatch"), ("dispatched", "deliver")] {
            let path = format!("/api/v1/shipments?status={status}&limit=1");
            if let Ok(page) = staff.try_send(Method::GET, &path, &[], None).await
                && page.status == 200
                && let Some(shipment) = page.json()["items"][0]["id"].as_str()
            {
                let path = format!("/api/v1/shipments/{shipment}/{step}");
                repeat(&staff, &path, &new_key(), &json!({}), &stop).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Retries with the same key until there is a definite response; gives up only when the load ends. Returns a 2xx body.
async fn repeat(client: &Client, path: &str, key: &str, body: &Value, stop: &AtomicBool) -> Option<Vec<u8>> {
    loop {
        match client
            .try_send(Method::POST, path, &[("Idempotency-Key", key)], Some(body))
            .await
        {
            Ok(response) if (200..300).contains(&response.status) => return Some(response.bytes),
            Ok(response)
                if [404, 409, 422].contains(&response.status) && response.json()["code"] != "twin_in_progress" =>
            {
                return None;
            }
            Ok(response) => assert!(
                [409, 429, 503, 504].contains(&response.status),
                "{path}: {} {}",
                response.status,
                String::from_utf8_lossy(&response.bytes)
            ),
            Err(_) => {}
        }
        if stop.load(Ordering::SeqCst) {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A1, A2, E2: orders are as their customers saw them, a key stands for one order, and the read model agrees with the events.
async fn audit_answers(client: &Client, staff: &Client, placed: &[Placed]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut ids = HashSet::new();
    for order in placed {
        let replay = order
            .customer
            .send_when_available(
                Method::POST,
                "/api/v1/orders",
                &[("Idempotency-Key", &order.key)],
                Some(&order.body),
            )
            .await;
        if replay.status != 201 {
            wrong.push(format!(
                "A2: the status of a replay is {}: {}",
                replay.status,
                String::from_utf8_lossy(&replay.bytes)
            ));
            continue;
        }
        let first = order.response.as_ref().unwrap_or(&replay.bytes);
        if *first != replay.bytes {
            wrong.push(format!(
                "A2: a replay differs:\n{}\n{}",
                String::from_utf8_lossy(first),
                String::from_utf8_lossy(&replay.bytes)
            ));
        }
        let seen: Value = serde_json::from_slice(first).expect("an order");
        let id = seen["id"].as_str().expect("an id").to_owned();
        let found = read(staff, &format!("/api/v1/orders/{id}")).await;
        let is = if found.status == 200 { found.json() } else { Value::Null };
        if ["id", "user_id", "items", "total"]
            .iter()
            .any(|field| is[*field] != seen[*field])
        {
            wrong.push(format!("A1: the customer saw {seen}, the order is {is}"));
        }
        if !ids.insert(id.clone()) {
            wrong.push(format!("A2: two keys stand for order {id}"));
        }
    }
    let mut listed = 0;
    let mut cursor = String::new();
    loop {
        let page = read(staff, &format!("/api/v1/orders?limit=100{cursor}"))
            .await
            .expect(200)
            .json();
        listed += page["items"].as_array().map_or(0, Vec::len);
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    if listed != ids.len() {
        wrong.push(format!("A2: {} keys, {listed} orders", ids.len()));
    }
    let (ops, mut cursor) = (client.ops().await, String::new());
    loop {
        let views = read(&ops, &format!("/api/v1/ops/orders/views{cursor}"))
            .await
            .expect(200)
            .json();
        if views["different"] != json!([]) {
            wrong.push(format!("E2: read models differ from their events: {views}"));
        }
        match views["next_cursor"].as_str() {
            Some(next) => cursor = format!("?cursor={next}"),
            None => break,
        }
    }
    wrong
}

async fn read(client: &Client, path: &str) -> Response {
    client.send_when_available(Method::GET, path, &[], None).await
}
