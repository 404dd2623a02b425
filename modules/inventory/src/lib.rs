//! Inventory: the stock of each product, and which units are reserved for orders.
//!
//! Nothing is oversold, because a reservation is one conditional update per line. Every change of a level is a row of the movement ledger, from
//! which the level could be computed again.
//!
//! Invariant: inventory does not know names and prices of products, and it does not call the catalog.

mod http;
mod reservation;
mod schema;
mod seed;
mod service;
mod stock;
mod store;

use std::sync::Arc;

use banyan_core::{Clock, Ids};
use inventory_contract::Inventory;

use service::Service;

pub use schema::SCHEMA;

/// What the module requires.
pub struct Needs {
    /// Its own database, migrated.
    pub db: banyan_durable::Db,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    /// Whether `StockLevelChanged` is published: if a module subscribes to `inventory.stock`. Each event costs the shop a row to relay.
    pub publishes_levels: bool,
}

/// What the module provides.
pub struct Offers {
    pub contract: Arc<dyn Inventory>,
    pub routes: banyan_http::Routes,
    pub machinery: banyan_durable::Machinery,
    /// Stocks the demo products.
    pub seed: banyan_durable::Seed,
}

/// Starts the module.
///
/// # Errors
/// None at present; all modules have the same signature.
pub async fn start(needs: Needs) -> anyhow::Result<Offers> {
    let machinery = banyan_durable::Machinery::new(needs.db.clone());
    let service = Arc::new(Service::new(needs.db, needs.clock, needs.ids, needs.publishes_levels));
    let (routes, seeder) = (http::routes(service.clone()), service.clone());
    let seed: banyan_durable::Seed = Arc::new(move || {
        let service = seeder.clone();
        Box::pin(async move { seed::add_demo_stock(&service).await })
    });
    Ok(Offers {
        contract: service,
        routes,
        machinery,
        seed,
    })
}
