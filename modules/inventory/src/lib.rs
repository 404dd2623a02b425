//! Inventory: how many of each product lie in the house, and which of them are promised to an order.
//!
//! Nothing is ever oversold because the promise is made here, in one conditional update per line, and not in a caller's head or lock. Every
//! change of a level is a row of the movement ledger, from which the level could be computed again.
//!
//! Invariant: inventory does not know what a product is called or costs; it does not ask the catalog whether there is one.

mod http;
mod reservation;
mod schema;
mod seed;
mod service;
#[cfg(test)]
mod service_tests;
mod stock;
mod store;

use std::sync::Arc;

use banyan_core::{Clock, Ids};
use inventory_contract::Inventory;

use service::Service;

pub use schema::SCHEMA;

/// What inventory must be given.
pub struct Needs {
    /// Its own database, migrated.
    pub db: banyan_durable::Db,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
}

/// What inventory gives in return.
pub struct Offers {
    pub contract: Arc<dyn Inventory>,
    pub routes: banyan_http::Routes,
    pub machinery: banyan_durable::Machinery,
    /// Fills the shelves for the demo products.
    pub seed: banyan_durable::Seed,
}

/// Puts the module together. Nothing runs before its machinery is started.
///
/// # Errors
/// None today; the shape is the same for all modules.
pub async fn start(needs: Needs) -> anyhow::Result<Offers> {
    let machinery = banyan_durable::Machinery::new(needs.db.clone());
    let service = Arc::new(Service::new(needs.db, needs.clock, needs.ids));
    let (routes, seeded) = (http::routes(service.clone()), service.clone());
    let seed: banyan_durable::Seed = Arc::new(move || {
        let service = seeded.clone();
        Box::pin(async move { seed::fill_the_shelves(&service).await })
    });
    Ok(Offers {
        contract: service,
        routes,
        machinery,
        seed,
    })
}
