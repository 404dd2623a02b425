//! Tickets: the problems that people report, from opening to closing. The assignment saga finds the agents of each.

mod assignment;
mod http;
mod publish;
mod schema;
mod seed;
mod service;
mod store;
mod ticket;

use std::{sync::Arc, time::Duration};

use banyan_core::{Clock, Ids};
use banyan_durable::{Machinery, Sagas};
use helpdesk_agents_contract::Agents;
use helpdesk_tickets_contract::Tickets;
use serde::Deserialize;

use assignment::AssignmentSaga;
use service::Service;

pub use schema::SCHEMA;

/// What the module requires.
pub struct Needs {
    /// Its own database, migrated.
    pub db: banyan_durable::Db,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub agents: Arc<dyn Agents>,
    pub settings: Settings,
}

/// `[tickets]`: see the default settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub busy_retry_ms: u64,
}

/// What the module provides.
pub struct Offers {
    pub contract: Arc<dyn Tickets>,
    pub routes: banyan_http::Routes,
    /// The assignment saga.
    pub machinery: Machinery,
    /// Opens the demo ticket.
    pub seed: banyan_durable::Seed,
}

/// Starts the module.
///
/// # Errors
/// None at present; all modules have the same signature.
pub async fn start(needs: Needs) -> anyhow::Result<Offers> {
    let saga = AssignmentSaga {
        agents: needs.agents,
        busy_retry: Duration::from_millis(needs.settings.busy_retry_ms),
    };
    let machinery = Machinery::new(needs.db.clone()).sagas(Sagas::new(needs.db.clone()).with(saga));
    let service = Arc::new(Service::new(needs.db, needs.clock, needs.ids));
    let seeder = service.clone();
    Ok(Offers {
        routes: http::routes(service.clone()),
        contract: service,
        machinery,
        seed: Arc::new(move || {
            let service = seeder.clone();
            Box::pin(async move { seed::open_demo_ticket(&service).await })
        }),
    })
}
