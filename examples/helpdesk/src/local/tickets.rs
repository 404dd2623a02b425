//! How tickets is started in this process.

use std::sync::Arc;

use banyan_host::{
    local::{LocalModule, ModuleContext, Start, StartedModule},
    settings::Section,
};
use helpdesk_tickets_contract::LocalTickets;

use crate::Contracts;

pub const MODULE: Option<LocalModule<Contracts>> = Some(LocalModule {
    schema: &helpdesk_tickets::SCHEMA,
    also_stores: &[],
    commands: &[],
    configure,
});

fn configure(section: Section) -> anyhow::Result<Start<Contracts>> {
    let settings: helpdesk_tickets::Settings = section.read()?;
    Ok(Start::new(async move |context: ModuleContext, contracts: Contracts| {
        let tickets = helpdesk_tickets::start(helpdesk_tickets::Needs {
            db: context.db,
            clock: context.clock,
            ids: context.ids,
            agents: contracts.agents,
            settings,
        })
        .await?;
        Ok(StartedModule {
            routes: tickets.routes,
            machinery: tickets.machinery,
            seed: tickets.seed,
            well_known: None,
            offer: Box::new(|contracts: &mut Contracts| contracts.tickets = Arc::new(LocalTickets(tickets.contract))),
        })
    }))
}
