//! How orders is started in this process.

use std::sync::Arc;

use banyan_core::RandomSecrets;
use banyan_host::{
    local::{LocalModule, ModuleContext, Start, StartedModule},
    settings::Section,
};
use orders_contract::LocalOrders;

use crate::shop::Contracts;

pub const MODULE: Option<LocalModule<Contracts>> = Some(LocalModule {
    schema: &::orders::SCHEMA,
    also_stores: &[],
    commands: &[],
    configure,
});

fn configure(section: Section) -> anyhow::Result<Start<Contracts>> {
    let settings: ::orders::Settings = section.read()?;
    Ok(Start::new(async move |context: ModuleContext, contracts: Contracts| {
        let orders = ::orders::start(::orders::Needs {
            db: context.db,
            clock: context.clock,
            ids: context.ids,
            secrets: Arc::new(RandomSecrets),
            catalog: contracts.catalog,
            inventory: contracts.inventory,
            payments: contracts.payments,
            shipping: contracts.shipping,
            settings,
            limits: ::orders::Limits::default(),
        })
        .await?;
        Ok(StartedModule {
            routes: orders.routes,
            machinery: orders.machinery,
            seed: orders.seed,
            well_known: None,
            offer: Box::new(|contracts: &mut Contracts| contracts.orders = Arc::new(LocalOrders(orders.contract))),
        })
    }))
}
