//! Whatever can die, dying under load in the split shop. Afterwards everything recovers by itself and the auditor finds nothing.

use std::{net::SocketAddr, time::Duration};

use rand::Rng;
use tokio::sync::watch;

use super::{Case, faults, proxy::Wire};
use crate::{
    harness::{Broker, Plan, Postgres, Shop, Stage},
    load::{Load, SETTINGS, check_always},
};

pub fn all() -> Vec<Case> {
    vec![
        ("a_service_that_is_killed_loses_and_doubles_nothing", || {
            Box::pin(kill_services())
        }),
        ("a_service_that_hangs_past_its_lease_loses_and_doubles_nothing", || {
            Box::pin(hang_services())
        }),
        ("a_broker_that_is_killed_loses_nothing", || Box::pin(kill_broker())),
        ("a_broker_that_loses_its_data_loses_nothing", || {
            Box::pin(delete_broker())
        }),
        ("a_postgresql_that_is_stopped_at_once_loses_nothing", || {
            Box::pin(stop_postgres())
        }),
        ("payments_cut_off_from_everybody_lose_and_double_nothing", || {
            Box::pin(part_payments())
        }),
    ]
}

const IN_FLIGHT: usize = 20;
const SERVICES: [&str; 8] = [
    "users",
    "catalog",
    "inventory",
    "payments",
    "shipping",
    "orders",
    "notifications",
    "gateway",
];
/// Longer than the lease in [`SETTINGS`].
const PAST_THE_LEASE: Duration = Duration::from_secs(3);

async fn a_moment() {
    let moment = Duration::from_millis(rand::rng().random_range(200..800));
    tokio::time::sleep(moment).await;
}

async fn kill_services() {
    let mut shop = Plan::on(Stage::Split).with(SETTINGS).start().await;
    let load = Load::start(&shop.client(), IN_FLIGHT).await;
    for _ in 0..faults() {
        for service in SERVICES {
            a_moment().await;
            shop.process(service).kill().await;
            a_moment().await;
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
        for service in SERVICES {
            a_moment().await;
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
        a_moment().await;
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

/// Nobody reaches payments, and payments reaches its database and the broker all the same: it goes on with what it was told.
async fn part_payments() {
    let (leads_to, to) = watch::channel(SocketAddr::from(([127, 0, 0, 1], 1)));
    let wire = Wire::new(to).await;
    let mut shop: Shop = Plan::on(Stage::Split)
        .with(SETTINGS)
        .rpc_through("payments", wire.port)
        .prepare()
        .await;
    leads_to.send_replace(SocketAddr::from(([127, 0, 0, 1], shop.process("payments").rpc_port)));
    shop.boot().await;
    let load = Load::start(&shop.client(), IN_FLIGHT).await;
    // A minute in the long run; in the short one long enough for every timeout, lease and breaker to have its say.
    let away = Duration::from_secs(if faults() > 1 { 60 } else { 12 });
    for _ in 0..faults().min(3) {
        tokio::time::sleep(Duration::from_secs(2)).await;
        wire.cut();
        tokio::time::sleep(away).await;
        wire.mend();
    }
    load.end(&shop).await;
    shop.remove().await;
}
