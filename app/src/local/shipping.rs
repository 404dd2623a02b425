//! How shipping is started in this process.

use std::sync::Arc;

use banyan_host::{
    local::{LocalModule, ModuleContext, Start, StartedModule},
    settings::Section,
};
use shipping_contract::LocalShipping;

use crate::shop::Contracts;

pub const MODULE: Option<LocalModule<Contracts>> = Some(LocalModule {
    schema: &::shipping::SCHEMA,
    also_stores: &[],
    commands: &[],
    configure,
});

fn configure(_: Section) -> anyhow::Result<Start<Contracts>> {
    Ok(Start::new(async move |context: ModuleContext, _: Contracts| {
        let shipping = ::shipping::start(::shipping::Needs {
            db: context.db,
            clock: context.clock,
            ids: context.ids,
        })
        .await?;
        Ok(StartedModule {
            routes: shipping.routes,
            machinery: shipping.machinery,
            seed: shipping.seed,
            well_known: None,
            offer: Box::new(|contracts: &mut Contracts| {
                contracts.shipping = Arc::new(LocalShipping(shipping.contract))
            }),
        })
    }))
}
