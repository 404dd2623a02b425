//! How inventory is started in this process.

use std::sync::Arc;

use banyan_host::{
    local::{LocalModule, ModuleContext, Start, StartedModule},
    settings::Section,
};
use inventory_contract::LocalInventory;

use crate::shop::{self, Contracts};

pub const MODULE: Option<LocalModule<Contracts>> = Some(LocalModule {
    schema: &::inventory::SCHEMA,
    also_stores: &[],
    commands: &[],
    configure,
});

fn configure(_: Section) -> anyhow::Result<Start<Contracts>> {
    Ok(Start::new(async move |context: ModuleContext, _: Contracts| {
        let inventory = ::inventory::start(::inventory::Needs {
            db: context.db,
            clock: context.clock,
            ids: context.ids,
            publishes_levels: shop::is_subscribed_to("inventory.stock"),
        })
        .await?;
        Ok(StartedModule {
            routes: inventory.routes,
            machinery: inventory.machinery,
            seed: inventory.seed,
            well_known: None,
            offer: Box::new(|contracts: &mut Contracts| {
                contracts.inventory = Arc::new(LocalInventory(inventory.contract))
            }),
        })
    }))
}
