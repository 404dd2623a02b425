//! Starts inventory here.

use std::sync::Arc;

use inventory_contract::LocalInventory;

use super::{Placed, data::open};
use crate::{rpc::Contracts, wiring::Ground};

pub async fn start(ground: &Ground, contracts: &mut Contracts) -> anyhow::Result<Placed> {
    let inventory = ::inventory::start(::inventory::Needs {
        db: open(ground, "inventory").await?,
        clock: ground.clock.clone(),
        ids: ground.ids.clone(),
    })
    .await?;
    contracts.inventory = Arc::new(LocalInventory(inventory.contract));
    Ok(Placed {
        name: "inventory",
        routes: inventory.routes,
        machinery: inventory.machinery,
        seed: inventory.seed,
        well_known: None,
    })
}
