//! Agents: the people who work on tickets, and how many tickets each can take.
//!
//! Another module reserves capacity before it gives a ticket to an agent, so that nobody gets more tickets than they can work on.

mod agent;
mod http;
mod reactions;
mod schema;
mod seed;
mod service;
mod store;

use std::sync::Arc;

use banyan_core::Ids;
use banyan_durable::Machinery;
use helpdesk_agents_contract::Agents;

use service::Service;

pub use schema::SCHEMA;

/// What the module requires.
pub struct Needs {
    /// Its own database, migrated.
    pub db: banyan_durable::Db,
    pub ids: Arc<dyn Ids>,
}

/// What the module provides.
pub struct Offers {
    pub contract: Arc<dyn Agents>,
    pub routes: banyan_http::Routes,
    /// The reactions to `tickets.ticket`.
    pub machinery: Machinery,
    /// Adds the demo agents.
    pub seed: banyan_durable::Seed,
}

/// Starts the module.
///
/// # Errors
/// None at present; all modules have the same signature.
pub async fn start(needs: Needs) -> anyhow::Result<Offers> {
    let service = Arc::new(Service::new(needs.db.clone(), needs.ids));
    let machinery = Machinery::new(needs.db.clone()).reactions(reactions::reactions(&needs.db, &service));
    let seeder = service.clone();
    Ok(Offers {
        routes: http::routes(service.clone()),
        contract: service,
        machinery,
        seed: Arc::new(move || {
            let service = seeder.clone();
            Box::pin(async move { seed::add_demo_agents(&service).await })
        }),
    })
}
