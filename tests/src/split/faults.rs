//! Failures of every process of the split shop under load. Afterwards everything recovers by itself and the auditor finds nothing wrong.

use std::{net::SocketAddr, time::Duration};

use rand::Rng;
use tokio::sync::watch;

use super::{Case, faults, proxy::Proxy};
use crate::{
    harness::{Broker, Plan, Postgres, Shop, Stage},
    load::{Load, SETTINGS, check_always},
};

pub fn all() -> Vec<Case> {
    vec![
        ("a_killed_service_loses_and_duplicates_nothing", || {
            Box::pin(kill_services())
        }),
        (
            "a_service_that_hangs_past_its_lease_loses_and_duplicates_nothing",
            || Box::pin(hang_services()),
        ),
        ("a_killed_broker_loses_nothing", || Box::pin(kill_broker())),
        ("a_broker_that_loses_its_data_loses_nothing", || {
            Box::pin(delete_broker())
        }),
        ("an_immediate_stop_of_postgresql_loses_nothing", || {
            Box::pin(stop_postgres())
        }),
        (
            "a_payments_service_cut_off_from_the_others_loses_and_duplicates_nothing",
            || Box::pin(cut_off_payments()),
        ),
    ]
}

const IN_FLIGHT: usize = 20;

/// The processes of the split stage: every module, and the gateway.
fn services() -> impl Iterator<Item = &'static str> {
    Stage::Split.roles().into_iter().map(|role| role.name)
}

/// Longer than the lease in [`SETTINGS`].
const PAST_THE_LEASE: Duration = Duration::from_secs(3);

async fn short_random_delay() {
    let delay = Duration::from_millis(rand::rng().random_range(200..800));
    tokio::time::sleep(delay).await;
}

async fn kill_services() {
    let mut shop = Plan::on(Stage::Split).with(SETTINGS).start().await;
    let load = Load::start(&shop.client(), IN_FLIGHT).await;
    for _ in 0..faults() {
        for service in services() {
            short_random_delay().await;
            shop.process(service).kill().await;
            short_random_delay().await;
            check_always(&shop).await;
            shop.boot().await;
        }
    }
    load.end(&shop).await;
    shop.remove().await;
}

async fn hang_services() {
    let mut shop = Plan::on(Stage::Split).with(SETTINGS).start().await;
    let load = Load::start(&shop.client(), IN_FLIGHT).await;
    for _ in 0..faults() {
        for service in services() {
            short_random_delay().await;
            shop.process(service).signal("STOP").await;
            tokio::time::sleep(PAST_THE_LEASE).await;
            shop.process(service).signal("CONT").await;
        }
    }
    load.end(&shop).await;
    shop.remove().await;
}

async fn kill_broker() {
    let broker = Broker::start();
    let shop = Plan::on(Stage::Split)
        .with(SETTINGS)
        .broker(&broker.url())
        .start()
        .await;
    let load = Load::start(&shop.client(), IN_FLIGHT).await;
    for _ in 0..faults() {
        short_random_delay().await;
        broker.kill();
        tokio::time::sleep(Duration::from_secs(1)).await;
        broker.boot();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    load.end(&shop).await;
    shop.remove().await;
}

async fn delete_broker() {
    let broker = Broker::start();
    let shop = Plan::on(Stage::Split)
        .with(SETTINGS)
        .broker(&broker.url())
        .start()
        .await;
    let load = Load::start(&shop.client(), IN_FLIGHT).await;
    for _ in 0..faults() {
        tokio::time::sleep(Duration::from_secs(2)).await;
        broker.kill();
        broker.delete_data();
        broker.boot();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    load.end(&shop).await;
    shop.remove().await;
}

async fn stop_postgres() {
    let postgres = Postgres::start();
    let mut shop = Plan::on(Stage::Split)
        .with(SETTINGS)
        .postgres(&postgres.url())
        .start()
        .await;
    let load = Load::start(&shop.client(), IN_FLIGHT).await;
    for _ in 0..faults() {
        tokio::time::sleep(Duration::from_secs(2)).await;
        postgres.stop_at_once();
        tokio::time::sleep(Duration::from_secs(1)).await;
        postgres.boot();
        shop.boot().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    load.end(&shop).await;
    shop.remove().await;
}

/// No other service reaches payments, but payments reaches its database and the broker: it continues the commands it has received.
async fn cut_off_payments() {
    let (target, to) = watch::channel(SocketAddr::from(([127, 0, 0, 1], 1)));
    let proxy = Proxy::new(to).await;
    let mut shop: Shop = Plan::on(Stage::Split)
        .with(SETTINGS)
        .rpc_through("payments", proxy.port)
        .prepare()
        .await;
    target.send_replace(SocketAddr::from(([127, 0, 0, 1], shop.process("payments").rpc_port)));
    shop.boot().await;
    let load = Load::start(&shop.client(), IN_FLIGHT).await;
    // A minute in the full run; in the short run long enough for every timeout, lease and breaker to expire.
    let outage = Duration::from_secs(if faults() > 1 { 60 } else { 12 });
    for _ in 0..faults().min(3) {
        tokio::time::sleep(Duration::from_secs(2)).await;
        proxy.cut();
        tokio::time::sleep(outage).await;
        proxy.restore();
    }
    load.end(&shop).await;
    shop.remove().await;
}
