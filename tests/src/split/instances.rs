//! Several instances of one binary on one PostgreSQL: leases share the work out, and one that dies is not missed.

use std::time::Duration;

use super::Case;
use crate::{
    harness::{Plan, Stage},
    load::{Load, SETTINGS},
};

pub fn all() -> Vec<Case> {
    vec![("two_gateways_two_orders_and_two_payments_share_the_work_and_one_of_each_may_die", || Box::pin(two_of_each()))]
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
    let second = shop.processes().iter().filter(|process| process.role.name == "gateway").nth(1).expect("two gateways").client();
    let load = Load::start(&second, 20).await;
    for orders in shop.processes().iter().filter(|process| process.role.name == "orders") {
        let client = orders.client();
        let drives_sagas = || async { String::from_utf8_lossy(&client.get("/metrics").await.bytes).contains("banyan_sagas_ended_total") };
        durable_testing::eventually("each of the two ends sagas", Duration::from_secs(30), drives_sagas).await;
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
