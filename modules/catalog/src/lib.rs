//! Catalog: the products of the shop, with names and prices.
//!
//! An archived product is never deleted: old orders link to it, and its sku is never reused.
//!
//! Invariant: catalog does not know stock levels, and it does not call inventory.

mod demo_products;
mod http;
mod pages;
mod product;
mod reactions;
mod revisions;
mod schema;
mod search;
mod seed;
mod service;
mod store;

use std::sync::Arc;

use banyan_core::{Clock, Ids};
use catalog_contract::Catalog;

use service::Service;

pub use schema::SCHEMA;

/// What the module requires.
pub struct Needs {
    /// Its own database, migrated.
    pub db: banyan_durable::Db,
    pub clock: Arc<dyn Clock>,
    /// Not used at present: a product is identified by its sku.
    pub ids: Arc<dyn Ids>,
}

/// What the module provides.
pub struct Offers {
    pub contract: Arc<dyn Catalog>,
    pub routes: banyan_http::Routes,
    /// The reactions to `orders.order`.
    pub machinery: banyan_durable::Machinery,
    /// Adds the demo products.
    pub seed: banyan_durable::Seed,
}

/// Starts the module.
///
/// Products that an earlier version stored are indexed for searches first.
///
/// # Errors
/// The database cannot be read or written.
pub async fn start(needs: Needs) -> anyhow::Result<Offers> {
    let machinery = banyan_durable::Machinery::new(needs.db.clone()).reactions(reactions::reactions(&needs.db));
    let service = Arc::new(Service::new(needs.db, needs.clock));
    service.index_left_out().await?;
    let (routes, seeder) = (http::routes(service.clone()), service.clone());
    let seed: banyan_durable::Seed = Arc::new(move || {
        let service = seeder.clone();
        Box::pin(async move { seed::add_demo_products(&service).await })
    });
    Ok(Offers {
        contract: service,
        routes,
        machinery,
        seed,
    })
}
