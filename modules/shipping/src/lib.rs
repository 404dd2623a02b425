//! Shipping: one shipment per order, from its schedule to its delivery, with tracking.
//!
//! The checkout schedules a shipment before the payment is captured and makes it ready once the order is confirmed; only a ready shipment can be
//! dispatched. So nothing is dispatched that is not paid for, and a shipment that has not been dispatched can always be cancelled.

mod http;
mod schema;
mod service;
mod shipment;
mod store;

use std::sync::Arc;

use banyan_core::{Clock, Ids};
use shipping_contract::Shipping;

use service::Service;

pub use schema::SCHEMA;

/// What shipping must be given.
pub struct Needs {
    /// Its own database, migrated.
    pub db: banyan_durable::Db,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
}

/// What shipping gives in return.
pub struct Offers {
    pub contract: Arc<dyn Shipping>,
    pub routes: banyan_http::Routes,
    pub machinery: banyan_durable::Machinery,
    /// Does nothing: shipments come from orders.
    pub seed: banyan_durable::Seed,
}

/// Puts the module together. Nothing runs before its machinery is started.
///
/// # Errors
/// None today; the shape is the same for all modules.
pub async fn start(needs: Needs) -> anyhow::Result<Offers> {
    let machinery = banyan_durable::Machinery::new(needs.db.clone());
    let service = Arc::new(Service::new(needs.db, needs.clock, needs.ids));
    let routes = http::routes(service.clone());
    Ok(Offers {
        contract: service,
        routes,
        machinery,
        seed: Arc::new(|| Box::pin(async { Ok(()) })),
    })
}
