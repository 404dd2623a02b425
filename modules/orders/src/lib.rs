//! Orders: the heart of the shop. An order is the stream of what happened to it; its checkout is a saga across stock, payment and shipment.
//!
//! Nothing but [`Needs`], [`Offers`], [`Settings`] and [`start`] is to be seen from outside. How the parts hang together:
//! `order` holds the rules, `stream` what is being decided upon, `announce` stores it with its events, `views` is what is read;
//! `checkout` and `cancellation` are the sagas, `reactions` hears of payments and shipments, `service`, `carts` and `streams` answer `http`.

mod announce;
mod basket;
mod cancellation;
mod carts;
mod checkout;
mod event;
mod http;
mod order;
mod reactions;
mod rebuild;
mod schema;
mod service;
mod store;
mod stream;
mod streams;
mod views;

use std::sync::Arc;

use banyan_core::{Clock, Ids};
use banyan_durable::{Machinery, Sagas};
use catalog_contract::Catalog;
use inventory_contract::Inventory;
use orders_contract::Orders;
use payments_contract::Payments;
use serde::{Deserialize, Serialize};
use shipping_contract::Shipping;

use cancellation::CancellationSaga;
use checkout::CheckoutSaga;
use rebuild::Views;
use service::Service;

pub use schema::SCHEMA;

/// What orders must be given.
pub struct Needs {
    /// Its own database, migrated.
    pub db: banyan_durable::Db,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub catalog: Arc<dyn Catalog>,
    pub inventory: Arc<dyn Inventory>,
    pub payments: Arc<dyn Payments>,
    pub shipping: Arc<dyn Shipping>,
    pub settings: Settings,
}

/// Sizes and times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A checkout that has not decided to take the money by then is undone.
    pub checkout_deadline_s: u64,
    /// The catalog may take so long to say what something costs.
    pub catalog_timeout_ms: u64,
    /// Shipping may take so long to say whether a parcel has left; then the cancellation finds out.
    pub shipping_timeout_ms: u64,
    /// Checkouts on their way, in all processes, from which on new orders are refused with 503; 0: no limit.
    pub open_checkouts: u64,
    /// Open event streams per user and process.
    pub streams_per_user: usize,
    /// Requests of a user that wait for an outcome in this process (`Prefer: wait`); further ones are answered at once.
    pub waits_per_user: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            checkout_deadline_s: 300,
            catalog_timeout_ms: 3_000,
            shipping_timeout_ms: 1_000,
            open_checkouts: 1_000,
            streams_per_user: 8,
            waits_per_user: 100,
        }
    }
}

/// What orders gives in return.
pub struct Offers {
    pub contract: Arc<dyn Orders>,
    pub routes: banyan_http::Routes,
    pub machinery: banyan_durable::Machinery,
    /// Does nothing: orders come from customers.
    pub seed: banyan_durable::Seed,
}

/// Puts the module together. Nothing runs before its machinery is started.
///
/// # Errors
/// None today; the shape is the same for all modules.
pub async fn start(needs: Needs) -> anyhow::Result<Offers> {
    let service = Arc::new(Service::new(&needs));
    let Needs {
        db,
        inventory,
        payments,
        shipping,
        ..
    } = needs;
    let checkout = CheckoutSaga {
        inventory: inventory.clone(),
        payments: payments.clone(),
        shipping: shipping.clone(),
    };
    let cancellation = CancellationSaga {
        inventory,
        payments,
        shipping,
    };
    let sagas = Sagas::new(db.clone()).with(checkout).with(cancellation);
    let machinery = Machinery::new(db.clone())
        .reactions(reactions::reactions(db.clone()))
        .sagas(sagas);
    let routes = http::routes(service.clone(), Views::new(db));
    Ok(Offers {
        contract: service,
        routes,
        machinery,
        seed: Arc::new(|| Box::pin(async { Ok(()) })),
    })
}
