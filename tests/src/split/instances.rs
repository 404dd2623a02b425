//! Several instances of one binary on one PostgreSQL: leases distribute the work, and the others take over the work of one that dies.

use std::{net::SocketAddr, time::Duration};

use banyan_durable_testing::eventually;
use tokio::sync::watch;

use super::{Case, proxy::Proxy};
use crate::{
    harness::{Plan, Stage},
    load::{Load, SETTINGS},
    scenarios::new_product,
};

/// The timeout for every condition below, with room for a busy machine.
const SOON: Duration = Duration::from_secs(30);

pub fn all() -> Vec<Case> {
    vec![
        (
            "two_gateways_two_orders_and_two_payments_share_the_work_and_one_of_each_may_die",
            || Box::pin(two_of_each()),
        ),
        ("an_instance_without_its_database_receives_no_calls", || {
            Box::pin(one_without_database())
        }),
    ]
}

/// One of two instances responds to every call with `unavailable`: it must not be called.
async fn one_without_database() {
    let (target, to) = watch::channel(SocketAddr::from(([127, 0, 0, 1], 1)));
    let proxy = Proxy::new(to).await;
    let mut shop = Plan::on(Stage::Extracted)
        .with(SETTINGS)
        .instances("stock-and-money", 2)
        .prepare()
        .await;
    let url = shop.database_url().expect("PostgreSQL");
    let database = url::Url::parse(&url).expect("a URL");
    let port = database.port().expect("its port");
    target.send_replace(SocketAddr::from(([127, 0, 0, 1], port)));
    let mut pair: Vec<_> = shop
        .processes()
        .iter_mut()
        .filter(|process| process.role.name == "stock-and-money")
        .collect();
    // Health has its own address, as in the container images: the gateway must detect the failure all the same.
    pair.iter_mut()
        .for_each(|process| process.set("BANYAN__ADMIN__LISTEN", "127.0.0.1:0"));
    let second = pair.pop().expect("two of them");
    second.set(
        "BANYAN__DATABASE__URL",
        url.replacen(&format!(":{port}/"), &format!(":{}/", proxy.port), 1),
    );
    let second = second.client();
    shop.boot().await;
    let client = shop.client();
    let sku = new_product(&client, 1_000, 1_000).await;
    let stock = format!("/api/v1/stock/{sku}");
    client.get(&stock).await.expect(200);
    let of_inventory = async || client.get("/health/ready").await.json()["checks"]["module:inventory"].to_string();
    eventually("both are in use", SOON, || async { of_inventory().await == "\"ok\"" }).await;
    proxy.cut();
    eventually("one is removed from use", SOON, || async {
        of_inventory().await.contains("1 of 2 instances are healthy")
    })
    .await;
    // Calls to the unhealthy instance before it was detected may have opened the breaker; from now on there are none.
    eventually("orders are confirmed", SOON, || async {
        client.new_customer().await.order(&sku, 1, "pm_card_visa").await["status"] == "confirmed"
    })
    .await;
    for _ in 0..50 {
        client.get(&stock).await.expect(200);
    }
    assert!(
        !of_inventory().await.contains("breaker"),
        "the unhealthy instance is not called"
    );
    // It reports what it knows about itself without its database.
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
    proxy.restore();
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
    // The first of each is killed, so the customers use the second gateway.
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
        // It stays down: the other takes over its leases.
        shop.process(name).kill().await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    load.end(&shop).await;
    shop.remove().await;
}
