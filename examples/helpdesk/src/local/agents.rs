//! How agents is started in this process.

use std::sync::Arc;

use banyan_host::{
    local::{LocalModule, ModuleContext, Start, StartedModule},
    settings::Section,
};
use helpdesk_agents_contract::LocalAgents;

use crate::Contracts;

pub const MODULE: Option<LocalModule<Contracts>> = Some(LocalModule {
    schema: &helpdesk_agents::SCHEMA,
    also_stores: &[],
    commands: &[],
    configure,
});

fn configure(_: Section) -> anyhow::Result<Start<Contracts>> {
    Ok(Start::new(async move |context: ModuleContext, _: Contracts| {
        let agents = helpdesk_agents::start(helpdesk_agents::Needs {
            db: context.db,
            ids: context.ids,
        })
        .await?;
        Ok(StartedModule {
            routes: agents.routes,
            machinery: agents.machinery,
            seed: agents.seed,
            well_known: None,
            offer: Box::new(|contracts: &mut Contracts| contracts.agents = Arc::new(LocalAgents(agents.contract))),
        })
    }))
}
