//! Catalog: what the shop sells, under which name and at which price.
//!
//! An archived product is never removed: old orders link to it, and its sku is never given to another.
//!
//! Invariant: catalog does not know how many of a product there are; it does not ask inventory.

mod demo_products;
mod http;
mod product;
mod reactions;
mod schema;
mod seed;
mod service;
mod store;

use std::sync::Arc;

use banyan_core::{Clock, Ids};
use catalog_contract::Catalog;

use service::Service;

pub use schema::SCHEMA;

/// What catalog must be given.
pub struct Needs {
    /// Its own database, migrated.
    pub db: banyan_durable::Db,
    pub clock: Arc<dyn Clock>,
    /// Not used so far: a product is named by its sku.
    pub ids: Arc<dyn Ids>,
}

/// What catalog gives in return.
pub struct Offers {
    pub contract: Arc<dyn Catalog>,
    pub routes: banyan_http::Routes,
    /// With the reactions: it listens to `orders.order`.
    pub machinery: banyan_durable::Machinery,
    /// Puts the demo products in.
    pub seed: banyan_durable::Seed,
}

/// Puts the module together. Nothing runs before its machinery is started.
///
/// # Errors
/// None today; the shape is the same for all modules.
pub async fn start(needs: Needs) -> anyhow::Result<Offers> {
    let machinery = banyan_durable::Machinery::new(needs.db.clone()).reactions(reactions::reactions(&needs.db));
    let service = Arc::new(Service::new(needs.db, needs.clock));
    let (routes, seeded) = (http::routes(service.clone()), service.clone());
    let seed: banyan_durable::Seed = Arc::new(move || {
        let service = seeded.clone();
        Box::pin(async move { seed::add_demo_products(&service).await })
    });
    Ok(Offers {
        contract: service,
        routes,
        machinery,
        seed,
    })
}
