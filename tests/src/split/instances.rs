//! Several instances of one binary on one PostgreSQL: leases share the work out, and one that dies is not missed.

use std::{net::SocketAddr, time::Duration};

use banyan_durable_testing::eventually;
use tokio::sync::watch;

use super::{Case, proxy::Wire};
use crate::{
    harness::{Plan, Stage},
    load::{Load, SETTINGS},
    scenarios::new_product,
};

/// Whatever is waited for happens within so long, on a busy machine too.
const SOON: Duration = Duration::from_secs(30);

pub fn all() -> Vec<Case> {
    vec![
        (
            "two_gateways_two_orders_and_two_payments_share_the_work_and_one_of_each_may_die",
            || Box::pin(two_of_each()),
        ),
        (
            "an_instance_whose_database_is_cut_off_leaves_the_work_to_the_other",
            || Box::pin(one_without_database()),
        ),
    ]
}

/// One of two instances answers everything at once, with `unavailable`: it must not be asked.
async fn one_without_database() {
    let (leads_to, to) = watch::channel(SocketAddr::from(([127, 0, 0, 1], 1)));
    let wire = Wire::new(to).await;
    let mut shop = Plan::on(Stage::Extracted)
        .with(SETTINGS)
        .instances("stock-and-money", 2)
        .prepare()
        .await;
    let url = shop.database_url().expect("PostgreSQL");
    let database = reqwest::Url::parse(&url).expect("a URL");
    let port = database.port().expect("its port");
    leads_to.send_replace(SocketAddr::from(([127, 0, 0, 1], port)));
    let mut pair: Vec<_> = shop
        .processes()
        .iter_mut()
        .filter(|process| process.role.name == "stock-and-money")
        .collect();
    // Health has an address of its own, as in the images: the gateway must find out all the same.
    pair.iter_mut()
        .for_each(|process| process.set("BANYAN__ADMIN__LISTEN", "127.0.0.1:0"));
    let second = pair.pop().expect("two of them");
    second.set(
        "BANYAN__DATABASE__URL",
        url.replacen(&format!(":{port}/"), &format!(":{}/", wire.port), 1),
    );
    let second = second.client();
    shop.boot().await;
    let client = shop.client();
    let sku = new_product(&client, 1_000, 1_000).await;
    let stock = format!("/api/v1/stock/{sku}");
    client.get(&stock).await.expect(200);
    let of_inventory = async || client.get("/health/ready").await.json()["checks"]["module:inventory"].to_string();
    eventually("both are asked", SOON, || async { of_inventory().await == "\"ok\"" }).await;
    wire.cut();
    eventually("one leaves", SOON, || async {
        of_inventory().await.contains("1 of 2 instances answer")
    })
    .await;
    // Whoever asked the one while it was found out has opened the breaker perhaps; nobody does from now on.
    eventually("orders are confirmed", SOON, || async {
        client.new_customer().await.order(&sku, 1, "pm_card_visa").await["status"] == "confirmed"
    })
    .await;
    for _ in 0..50 {
        client.get(&stock).await.expect(200);
    }
    assert!(
        !of_inventory().await.contains("breaker"),
        "nobody asks the one that cannot answer"
    );
    // What it can say of itself it says.
    let own = second
        .with_token(client.ops().await.token())
        .get("/api/v1/ops/modules?here=true")
        .await
        .expect(200)
        .json();
    let rows = own["items"].as_array().expect("items");
    assert!(
        rows.len() == 2 && rows.iter().all(|row| row["machinery"].is_null()),
        "{own}"
    );
    wire.mend();
    eventually("it is back", SOON, || async { of_inventory().await == "\"ok\"" }).await;
    shop.remove().await;
}

async fn two_of_each() {
    let doubled = ["gateway", "orders", "payments"];
    let mut plan = Plan::on(Stage::Split).with(SETTINGS);
    for name in doubled {
        plan = plan.instances(name, 2);
    }
    let mut shop = plan.start().await;
    shop.client().get("/api/v1/products").await.expect(200);
    // The first of each dies, so whoever orders does it at the second gateway.
    let second = shop
        .processes()
        .iter()
        .filter(|process| process.role.name == "gateway")
        .nth(1)
        .expect("two gateways")
        .client();
    let load = Load::start(&second, 20).await;
    for orders in shop.processes().iter().filter(|process| process.role.name == "orders") {
        let client = orders.client();
        let drives_sagas = || async {
            String::from_utf8_lossy(&client.get("/metrics").await.bytes).contains("banyan_sagas_ended_total")
        };
        banyan_durable_testing::eventually("each of the two ends sagas", Duration::from_secs(30), drives_sagas).await;
    }
    for name in doubled {
        tokio::time::sleep(Duration::from_secs(2)).await;
        // It stays away: the other takes its leases.
        shop.process(name).kill().await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    load.end(&shop).await;
    shop.remove().await;
}
