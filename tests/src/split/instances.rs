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
    let load = Load::start(&shop.client(), 20).await;
    for name in ["orders", "payments"] {
        tokio::time::sleep(Duration::from_secs(2)).await;
        // The first of the two dies, and stays away: the other takes its leases.
        shop.process(name).kill().await;
    }
    let second = shop.processes().iter().filter(|process| process.role.name == "gateway").nth(1).expect("two gateways").client();
    second.get("/api/v1/products").await.expect(200);
    tokio::time::sleep(Duration::from_secs(3)).await;
    load.end(&shop).await;
    shop.remove().await;
}
