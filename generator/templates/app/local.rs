//! How {module} is started in this process.

use std::sync::Arc;

use {module}_contract::Local{Module};
use banyan_host::{
    local::{LocalModule, ModuleContext, Start, StartedModule},
    settings::Section,
};

use crate::shop::Contracts;

pub const MODULE: Option<LocalModule<Contracts>> = Some(LocalModule {
    schema: &::{module}::SCHEMA,
    also_stores: &[],
    commands: &[],
    configure,
});

fn configure(section: Section) -> anyhow::Result<Start<Contracts>> {
    let settings: ::{module}::Settings = section.read()?;
    Ok(Start::new(async move |context: ModuleContext, _: Contracts| {
        let {module} = ::{module}::start(::{module}::Needs {
            db: context.db,
            clock: context.clock,
            ids: context.ids,
            settings,
        })
        .await?;
        Ok(StartedModule {
            routes: {module}.routes,
            machinery: {module}.machinery,
            seed: {module}.seed,
            well_known: None,
            offer: Box::new(|contracts: &mut Contracts| {
                contracts.{module} = Arc::new(Local{Module}({module}.contract))
            }),
        })
    }))
}
