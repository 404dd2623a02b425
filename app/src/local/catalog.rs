//! How catalog is started in this process.

use std::sync::Arc;

use banyan_host::{
    local::{LocalModule, ModuleContext, Start, StartedModule},
    settings::Section,
};
use catalog_contract::LocalCatalog;

use crate::shop::Contracts;

pub const MODULE: Option<LocalModule<Contracts>> = Some(LocalModule {
    schema: &::catalog::SCHEMA,
    also_stores: &[],
    commands: &[],
    configure,
});

fn configure(_: Section) -> anyhow::Result<Start<Contracts>> {
    Ok(Start::new(async move |context: ModuleContext, _: Contracts| {
        let catalog = ::catalog::start(::catalog::Needs {
            db: context.db,
            clock: context.clock,
            ids: context.ids,
        })
        .await?;
        Ok(StartedModule {
            routes: catalog.routes,
            machinery: catalog.machinery,
            seed: catalog.seed,
            well_known: None,
            offer: Box::new(|contracts: &mut Contracts| contracts.catalog = Arc::new(LocalCatalog(catalog.contract))),
        })
    }))
}
