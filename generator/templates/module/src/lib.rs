//! {Module}: items with a name. Replace them by what the module is about; docs/tutorial/first-module.md shows how.
//!
//! Anybody sees the items, staff adds them. Each new product of the catalog adds one, too.

mod http;
mod item;
mod reactions;
mod schema;
mod seed;
mod service;
mod settings;
mod store;

use std::sync::Arc;

use banyan_core::{Clock, Ids};
use {module}_contract::{Module};

use service::Service;

pub use schema::SCHEMA;
pub use settings::Settings;

/// What the module requires.
pub struct Needs {
    /// Its own database, migrated.
    pub db: banyan_durable::Db,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub settings: Settings,
}

/// What the module provides.
pub struct Offers {
    pub contract: Arc<dyn {Module}>,
    pub routes: banyan_http::Routes,
    /// The reactions to `catalog.product`.
    pub machinery: banyan_durable::Machinery,
    /// Adds the demo items.
    pub seed: banyan_durable::Seed,
}

/// Starts the module.
///
/// # Errors
/// None at present; all modules have the same signature.
pub async fn start(needs: Needs) -> anyhow::Result<Offers> {
    let service = Arc::new(Service::new(needs.db.clone(), needs.clock, needs.ids));
    let reactions = reactions::reactions(needs.db.clone(), &service, &needs.settings);
    let machinery = banyan_durable::Machinery::new(needs.db).reactions(reactions);
    let (routes, seeder) = (http::routes(service.clone()), service.clone());
    let seed: banyan_durable::Seed = Arc::new(move || {
        let service = seeder.clone();
        Box::pin(async move { seed::add_demo_items(&service).await })
    });
    Ok(Offers {
        contract: service,
        routes,
        machinery,
        seed,
    })
}
