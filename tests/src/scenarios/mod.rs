//! What the shop does, seen over HTTP. The list runs unchanged on every stage, each on one shop that all scenarios of the stage share; so a
//! scenario works with customers and products of its own, or with amounts that do not matter to others.

mod back_office;
mod buying;
mod cancelling;
mod carts;
mod http_conventions;
mod operations;
mod pages;
mod shipping;
mod streams;
mod users;

use std::{collections::HashMap, pin::Pin, sync::LazyLock, time::Duration};

use libtest_mimic::Trial;
use parking_lot::Mutex;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Client, Shop, Stage, runtime};

/// A scenario: its name, and what happens.
pub type Scenario = (&'static str, fn(Client) -> Pin<Box<dyn Future<Output = ()> + Send>>);

/// Lists a file's scenarios: `scenarios![a_name, another_name]`.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        pub fn all() -> Vec<$crate::scenarios::Scenario> {
            vec![$((concat!(module_path!(), "::", stringify!($name)), |client| Box::pin($name(client)))),*]
        }
    };
}
pub(crate) use scenarios;

pub fn trials() -> Vec<Trial> {
    let all: Vec<Scenario> = [
        buying::all(),
        cancelling::all(),
        carts::all(),
        http_conventions::all(),
        back_office::all(),
        operations::all(),
        pages::all(),
        users::all(),
        shipping::all(),
        streams::all(),
    ]
    .concat();
    let on_stage = |stage: Stage| {
        all.clone().into_iter().map(move |(name, run)| {
            let name =
                name.trim_start_matches("banyan::")
                    .replacen("scenarios", &format!("scenarios[{}]", stage.name()), 1);
            Trial::test(name, move || {
                let client = shop_of(stage);
                runtime().block_on(run(client));
                Ok(())
            })
        })
    };
    Stage::ALL.into_iter().flat_map(on_stage).collect()
}

static SHOPS: LazyLock<Mutex<HashMap<&'static str, Shop>>> = LazyLock::new(Mutex::default);

/// A client of the stage's shop, which the first scenario starts.
fn shop_of(stage: Stage) -> Client {
    let mut shops = SHOPS.lock();
    let shop = shops
        .entry(stage.name())
        .or_insert_with(|| runtime().block_on(Shop::start(stage)));
    shop.client()
}

/// Stops the shops that were started; call it when all trials have run.
pub fn close_shops() {
    for (_, shop) in SHOPS.lock().drain() {
        runtime().block_on(shop.remove());
    }
}

/// A new product that only this test orders, with `units` in stock.
pub async fn new_product(client: &Client, price: i64, units: u32) -> String {
    let staff = client.staff().await;
    let sku = format!("test-{}", &Uuid::new_v4().simple().to_string()[..16]);
    let product = json!({"sku": sku, "name": "A Test Fig", "description": "Grown for a test.", "category": "figs", "price": {"amount": price, "currency": "EUR"}});
    staff.post("/api/v1/products", &product).await.expect(201);
    if units > 0 {
        staff
            .post_keyed(&format!("/api/v1/stock/{sku}/receipts"), &json!({"quantity": units}))
            .await
            .expect(201);
    }
    sku
}

pub async fn stock_of(client: &Client, sku: &str) -> (i64, i64) {
    let level = client.get(&format!("/api/v1/stock/{sku}")).await.expect(200).json();
    (
        level["on_hand"].as_i64().expect("on_hand"),
        level["reserved"].as_i64().expect("reserved"),
    )
}

/// Waits until a resource looks as it should.
pub async fn eventually(client: &Client, path: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let response = client.get(path).await;
        if response.status == 200 {
            let value = response.json();
            if holds(&value) {
                return value;
            }
            assert!(tokio::time::Instant::now() < end, "not within 30 s: {what}; {value}");
        }
        assert!(
            tokio::time::Instant::now() < end,
            "not within 30 s: {what}; {}",
            response.status
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An order's path.
pub fn order_path(order: &Value) -> String {
    format!("/api/v1/orders/{}", order["id"].as_str().expect("an order's id"))
}
