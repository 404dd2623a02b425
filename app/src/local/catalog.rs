//! Starts catalog here.

use std::sync::Arc;

use catalog_contract::LocalCatalog;

use super::{Placed, data::open};
use crate::{rpc::Contracts, wiring::Ground};

pub async fn start(ground: &Ground, contracts: &mut Contracts) -> anyhow::Result<Placed> {
    let catalog = ::catalog::start(::catalog::Needs {
        db: open(ground, "catalog").await?,
        clock: ground.clock.clone(),
        ids: ground.ids.clone(),
    })
    .await?;
    contracts.catalog = Arc::new(LocalCatalog(catalog.contract));
    Ok(Placed {
        name: "catalog",
        routes: catalog.routes,
        machinery: catalog.machinery,
        seed: catalog.seed,
        well_known: None,
    })
}
