//! Every module's contract: the interface in one place, and what its gRPC server is made of.

use std::sync::Arc;

use catalog_contract::{Catalog, ServedCatalog, catalog_server::CatalogServer};
use inventory_contract::{Inventory, ServedInventory, inventory_server::InventoryServer};
use notifications_contract::{Notifications, ServedNotifications, notifications_server::NotificationsServer};
use orders_contract::{Orders, ServedOrders, orders_server::OrdersServer};
use payments_contract::{Payments, ServedPayments, payments_server::PaymentsServer};
use shipping_contract::{ServedShipping, Shipping, shipping_server::ShippingServer};
use tonic::server::NamedService;
use users_contract::{ServedUsers, Users, users_server::UsersServer};

use super::{MESSAGE_BYTES, server::Services};

/// Every module's contract: the module itself where it is in this process, else the way to it.
#[derive(Clone)]
pub struct Contracts {
    pub users: Arc<dyn Users>,
    pub catalog: Arc<dyn Catalog>,
    pub inventory: Arc<dyn Inventory>,
    pub payments: Arc<dyn Payments>,
    pub shipping: Arc<dyn Shipping>,
    pub orders: Arc<dyn Orders>,
    pub notifications: Arc<dyn Notifications>,
}

/// What serving one module takes.
pub struct Contract {
    pub module: &'static str,
    /// The full name of its service.
    pub service: &'static str,
    /// Its `.proto` files, compiled.
    pub descriptors: &'static [u8],
    /// Adds its service.
    pub serve: fn(&Contracts, &mut Services),
}

macro_rules! contract {
    ($module:ident, $package:ident, $server:ident, $served:ident) => {
        Contract {
            module: stringify!($module),
            service: $server::<$served>::NAME,
            descriptors: $package::DESCRIPTOR_SET,
            serve: |contracts, services| {
                let server = $server::new($served(contracts.$module.clone()));
                services.add(
                    server
                        .max_decoding_message_size(MESSAGE_BYTES)
                        .max_encoding_message_size(MESSAGE_BYTES),
                );
            },
        }
    };
}

static CONTRACTS: [Contract; 7] = [
    contract!(users, users_contract, UsersServer, ServedUsers),
    contract!(catalog, catalog_contract, CatalogServer, ServedCatalog),
    contract!(inventory, inventory_contract, InventoryServer, ServedInventory),
    contract!(payments, payments_contract, PaymentsServer, ServedPayments),
    contract!(shipping, shipping_contract, ShippingServer, ServedShipping),
    contract!(orders, orders_contract, OrdersServer, ServedOrders),
    contract!(
        notifications,
        notifications_contract,
        NotificationsServer,
        ServedNotifications
    ),
];

pub fn find(module: &str) -> Option<&'static Contract> {
    CONTRACTS.iter().find(|contract| contract.module == module)
}

/// The module whose service this is.
pub fn module_of(service: &str) -> Option<&'static str> {
    CONTRACTS
        .iter()
        .find(|contract| contract.service == service)
        .map(|contract| contract.module)
}

/// The full name of a module's service; empty, which is the process as a whole, for a module without one.
pub fn service_of(module: &str) -> &'static str {
    find(module).map_or("", |contract| contract.service)
}
