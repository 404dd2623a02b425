//! Starts orders here.

use std::sync::Arc;

use orders_contract::LocalOrders;

use super::{Placed, data::open};
use crate::{rpc::Contracts, wiring::Ground};

pub async fn start(ground: &Ground, contracts: &mut Contracts) -> anyhow::Result<Placed> {
    let orders = ::orders::start(::orders::Needs {
        db: open(ground, "orders").await?,
        clock: ground.clock.clone(),
        ids: ground.ids.clone(),
        catalog: contracts.catalog.clone(),
        inventory: contracts.inventory.clone(),
        payments: contracts.payments.clone(),
        shipping: contracts.shipping.clone(),
        settings: ground.settings.section("orders")?,
        limits: ::orders::Limits::default(),
    })
    .await?;
    contracts.orders = Arc::new(LocalOrders(orders.contract));
    Ok(Placed {
        name: "orders",
        routes: orders.routes,
        machinery: orders.machinery,
        seed: orders.seed,
        well_known: None,
    })
}
