//! Orders: the heart of the shop. An order is the stream of its events; its checkout is a saga across stock, payment and shipment.
//!
//! How the parts fit together: `order` contains the rules, `stream` the events of an order and those to be added, `publish` stores them and publishes
//! what other modules need, `memory` keeps the latest orders at hand, `views` is the read model. `checkout` and `cancellation` are the sagas, `reactions` consumes the events of payments and
//! shipments. `service`, `carts` and `follow` do the work of `http`; `admission` refuses orders under
//! too much load.

mod admission;
mod cancellation;
mod carts;
mod checkout;
mod event;
mod follow;
mod http;
mod leftovers;
mod memory;
mod order;
mod pricing;
mod publish;
mod reactions;
mod rebuild;
mod schema;
mod service;
mod settings;
mod store;
mod stream;
mod tickets;
mod views;

use std::sync::Arc;

use banyan_core::{Clock, Ids, Secrets};
use banyan_durable::{Machinery, Sagas};
use catalog_contract::Catalog;
use inventory_contract::Inventory;
use orders_contract::Orders;
use payments_contract::Payments;
use shipping_contract::Shipping;

use cancellation::CancellationSaga;
use checkout::CheckoutSaga;
use rebuild::Views;
use service::Service;

pub use schema::SCHEMA;
pub use settings::{Limits, Settings};

/// What orders must be given.
pub struct Needs {
    /// Its own database, migrated.
    pub db: banyan_durable::Db,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub secrets: Arc<dyn Secrets>,
    pub catalog: Arc<dyn Catalog>,
    pub inventory: Arc<dyn Inventory>,
    pub payments: Arc<dyn Payments>,
    pub shipping: Arc<dyn Shipping>,
    pub settings: Settings,
    pub limits: Limits,
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
    let memory = service.memory().clone();
    let checkout = CheckoutSaga {
        memory: memory.clone(),
        inventory: inventory.clone(),
        payments: payments.clone(),
        shipping: shipping.clone(),
    };
    let cancellation = CancellationSaga {
        memory: memory.clone(),
        inventory,
        payments,
        shipping,
    };
    let sagas = Sagas::new(db.clone()).with(checkout).with(cancellation);
    let machinery = Machinery::new(db.clone())
        .reactions(reactions::reactions(db.clone(), &memory))
        .expire(|tx, now| async move {
            let deleted = store::carts::delete_abandoned(tx.conn(), now.minus(carts::KEPT_FOR), carts::DELETED_AT_ONCE);
            Ok(deleted.await? == carts::DELETED_AT_ONCE)
        })
        .expire(|tx, now| async move {
            let deleted = store::tickets::delete_expired(tx.conn(), now, tickets::DELETED_AT_ONCE);
            Ok(deleted.await? == tickets::DELETED_AT_ONCE)
        })
        .sagas(sagas);
    let routes = http::routes(service.clone(), Views::new(db));
    Ok(Offers {
        contract: service,
        routes,
        machinery,
        seed: Arc::new(|| Box::pin(async { Ok(()) })),
    })
}
