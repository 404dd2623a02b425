//! Starts shipping here.

use std::sync::Arc;

use shipping_contract::LocalShipping;

use super::{Placed, data::open};
use crate::{rpc::Contracts, wiring::Ground};

pub async fn start(ground: &Ground, contracts: &mut Contracts) -> anyhow::Result<Placed> {
    let shipping = ::shipping::start(::shipping::Needs {
        db: open(ground, "shipping").await?,
        clock: ground.clock.clone(),
        ids: ground.ids.clone(),
    })
    .await?;
    contracts.shipping = Arc::new(LocalShipping(shipping.contract));
    Ok(Placed {
        name: "shipping",
        routes: shipping.routes,
        machinery: shipping.machinery,
        seed: shipping.seed,
        well_known: None,
    })
}
