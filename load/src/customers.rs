//! The products and customers of a run, and what a customer does. The only file that knows the shop's API.

use std::time::Duration;

use anyhow::{bail, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    http::{Connection, Response, request},
    shop::Shop,
};

/// Enough for a full page of the list, and for orders that rarely meet at the same product.
const PRODUCTS: usize = 24;
const UNITS: u32 = 1_000_000;
const PASSWORD: &str = "correct horse battery";
/// An order that is not confirmed by then is an error of the shop.
const ORDER_LIMIT: Duration = Duration::from_secs(60);
const RETRY_DELAY: Duration = Duration::from_millis(50);

pub const LIST: &str = "/api/v1/products?limit=20";

pub fn product_path(sku: &str) -> String {
    format!("/api/v1/products/{sku}")
}

/// What the driver has put into the shop.
pub struct Seed {
    pub skus: Vec<String>,
    /// The customers' access tokens.
    pub tokens: Vec<String>,
}

impl Seed {
    /// Creates products and customers through the API, as the demo's staff.
    pub async fn create(shop: &Shop<'_>, customers: usize) -> anyhow::Result<Seed> {
        let mut connection = Connection::new(shop.address);
        let run = Uuid::new_v4().simple().to_string();
        let staff = log_in(&mut connection, "staff@banyan.example", "banyan-demo").await?;
        let mut skus = Vec::new();
        for number in 0..PRODUCTS {
            let sku = format!("load-{}-{number}", &run[..12]);
            let price = json!({"amount": 1_000 + number, "currency": "EUR"});
            let product = json!({"sku": sku, "name": "A fig to measure", "description": "Grown for a measurement.", "category": "figs", "price": price});
            post(&mut connection, "/api/v1/products", &staff, &product).await?;
            let receipt = json!({"quantity": UNITS});
            post(
                &mut connection,
                &format!("/api/v1/stock/{sku}/receipts"),
                &staff,
                &receipt,
            )
            .await?;
            skus.push(sku);
        }
        let mut tokens = Vec::new();
        for number in 0..customers {
            let email = format!("load-{run}-{number}@shop.example");
            let customer = json!({"email": email, "password": PASSWORD, "name": "A Measuring Customer"});
            let registration = request("POST", "/api/v1/users", None, &[], Some(&customer));
            expect(201, "POST /api/v1/users", &connection.send(&registration).await?)?;
            tokens.push(log_in(&mut connection, &email, PASSWORD).await?);
        }
        Ok(Seed { skus, tokens })
    }

    /// The `nth` order of a customer: one unit of a product and two of the next.
    fn order(&self, customer: usize, nth: usize) -> Value {
        let at = customer * 7 + nth * 5;
        let [first, second] = [at, at + 1].map(|at| &self.skus[at % self.skus.len()]);
        json!({
            "items": [{"sku": first, "quantity": 1}, {"sku": second, "quantity": 2}],
            "shipping_address": {"name": "Ada Fig", "line1": "1 Banyan Row", "city": "Berlin", "postal_code": "10115", "country": "DE"},
            "payment_method": "pm_card_visa",
        })
    }
}

async fn log_in(connection: &mut Connection, email: &str, password: &str) -> anyhow::Result<String> {
    let credentials = json!({"email": email, "password": password});
    let sent = request("POST", "/api/v1/sessions", None, &[], Some(&credentials));
    let response = connection.send(&sent).await?;
    let who = format!("the login of {email} (the shop needs its demo data: `profile = \"demo\"`)");
    let session = expect(201, &who, &response)?.json()?;
    Ok(session["access_token"].as_str().unwrap_or_default().to_owned())
}

async fn post(connection: &mut Connection, path: &str, token: &str, body: &Value) -> anyhow::Result<()> {
    let key = Uuid::new_v4().to_string();
    let sent = request("POST", path, Some(token), &[("Idempotency-Key", &key)], Some(body));
    expect(201, &format!("POST {path}"), &connection.send(&sent).await?).map(drop)
}

fn expect<'a>(status: u16, what: &str, response: &'a Response) -> anyhow::Result<&'a Response> {
    ensure!(
        response.status == status,
        "{what}: {} {}",
        response.status,
        response.text()
    );
    Ok(response)
}

/// Places an order and waits until it is confirmed. Requests that are refused for want of capacity are repeated; their number is returned.
///
/// # Errors
/// Any other outcome, or none within a minute.
pub async fn place_order(connection: &mut Connection, seed: &Seed, customer: usize, nth: usize) -> anyhow::Result<u64> {
    let (token, key) = (&seed.tokens[customer], Uuid::new_v4().to_string());
    let headers = [("Idempotency-Key", key.as_str()), ("Prefer", "wait=20")];
    let mut sent = request(
        "POST",
        "/api/v1/orders",
        Some(token),
        &headers,
        Some(&seed.order(customer, nth)),
    );
    let (begun, mut refused) = (Instant::now(), 0);
    loop {
        let response = connection.send(&sent).await?;
        match response.status {
            200 | 201 => {
                let order = response.json()?;
                match order["status"].as_str() {
                    Some("confirmed") => return Ok(refused),
                    Some("pending") => {
                        let path = format!("/api/v1/orders/{}", order["id"].as_str().unwrap_or_default());
                        sent = request("GET", &path, Some(token), &[], None);
                    }
                    _ => bail!("an order was not confirmed: {}", response.text()),
                }
            }
            409 | 429 | 503 | 504 => refused += 1,
            status => bail!("an order failed with {status}: {}", response.text()),
        }
        ensure!(
            begun.elapsed() < ORDER_LIMIT,
            "an order was not confirmed within {ORDER_LIMIT:?}: {}",
            response.text()
        );
        sleep(RETRY_DELAY).await;
    }
}

/// Reads a page that must be there.
pub async fn read(connection: &mut Connection, sent: &[u8]) -> anyhow::Result<()> {
    let response = connection.send(sent).await?;
    let hint = if response.status == 429 {
        " (raise rate_limit.per_second of the shop)"
    } else {
        ""
    };
    expect(200, &format!("a read{hint}"), &response).map(drop)
}
