//! The shop: its modules, in one table. A module is registered here and nowhere else; read this file first.

use std::sync::Arc;

use banyan_host::{Contract, Demo, Gateway, Module, Product, Tokens};
use banyan_remote::grpc::{MESSAGE_BYTES, Remotes};
use catalog_contract::{Catalog, RemoteCatalog, ServedCatalog};
use inventory_contract::{Inventory, RemoteInventory, ServedInventory};
use notifications_contract::{Notifications, RemoteNotifications, ServedNotifications};
use orders_contract::{Orders, RemoteOrders, ServedOrders};
use payments_contract::{Payments, RemotePayments, ServedPayments};
use shipping_contract::{RemoteShipping, ServedShipping, Shipping};
use users_contract::{RemoteUsers, ServedUsers, Users};

use crate::{keys::UsersKeys, pages};

// How each module is started in this process. `absent.rs` replaces the file of a module that is not compiled in.
#[cfg_attr(feature = "catalog", path = "local/catalog.rs")]
#[cfg_attr(not(feature = "catalog"), path = "local/absent.rs")]
mod catalog;
#[cfg_attr(feature = "inventory", path = "local/inventory.rs")]
#[cfg_attr(not(feature = "inventory"), path = "local/absent.rs")]
mod inventory;
#[cfg_attr(feature = "notifications", path = "local/notifications.rs")]
#[cfg_attr(not(feature = "notifications"), path = "local/absent.rs")]
mod notifications;
#[cfg_attr(feature = "orders", path = "local/orders.rs")]
#[cfg_attr(not(feature = "orders"), path = "local/absent.rs")]
mod orders;
#[cfg_attr(feature = "payments", path = "local/payments.rs")]
#[cfg_attr(not(feature = "payments"), path = "local/absent.rs")]
mod payments;
#[cfg_attr(feature = "shipping", path = "local/shipping.rs")]
#[cfg_attr(not(feature = "shipping"), path = "local/absent.rs")]
mod shipping;
#[cfg_attr(feature = "users", path = "local/users.rs")]
#[cfg_attr(not(feature = "users"), path = "local/absent.rs")]
mod users;

/// Every module's contract: the module itself if it is local, otherwise its client.
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

impl Contracts {
    /// As clients of the remote modules.
    pub fn remote(remotes: &Remotes) -> Self {
        Contracts {
            users: Arc::new(RemoteUsers::new(remotes.channel("users"))),
            catalog: Arc::new(RemoteCatalog::new(remotes.channel("catalog"))),
            inventory: Arc::new(RemoteInventory::new(remotes.channel("inventory"))),
            payments: Arc::new(RemotePayments::new(remotes.channel("payments"))),
            shipping: Arc::new(RemoteShipping::new(remotes.channel("shipping"))),
            orders: Arc::new(RemoteOrders::new(remotes.channel("orders"))),
            notifications: Arc::new(RemoteNotifications::new(remotes.channel("notifications"))),
        }
    }
}

/// The modules, in the order in which they start: each after those it calls.
pub const MODULES: &[Module<Contracts>] = &[
    Module {
        name: "users",
        calls: &[],
        subscribes: &[],
        settings: include_str!("../../modules/users/config/default.toml"),
        contract: Contract {
            service: users_contract::SERVICE,
            descriptors: users_contract::DESCRIPTOR_SET,
            serve: |contracts, services| services.add(ServedUsers(contracts.users.clone()).server(MESSAGE_BYTES)),
        },
        local: users::MODULE,
    },
    Module {
        name: "catalog",
        calls: &[],
        subscribes: &["orders.order"],
        settings: "",
        contract: Contract {
            service: catalog_contract::SERVICE,
            descriptors: catalog_contract::DESCRIPTOR_SET,
            serve: |contracts, services| services.add(ServedCatalog(contracts.catalog.clone()).server(MESSAGE_BYTES)),
        },
        local: catalog::MODULE,
    },
    Module {
        name: "inventory",
        calls: &[],
        subscribes: &[],
        settings: "",
        contract: Contract {
            service: inventory_contract::SERVICE,
            descriptors: inventory_contract::DESCRIPTOR_SET,
            serve: |contracts, services| {
                services.add(ServedInventory(contracts.inventory.clone()).server(MESSAGE_BYTES))
            },
        },
        local: inventory::MODULE,
    },
    Module {
        name: "payments",
        calls: &[],
        subscribes: &[],
        settings: include_str!("../../modules/payments/config/default.toml"),
        contract: Contract {
            service: payments_contract::SERVICE,
            descriptors: payments_contract::DESCRIPTOR_SET,
            serve: |contracts, services| services.add(ServedPayments(contracts.payments.clone()).server(MESSAGE_BYTES)),
        },
        local: payments::MODULE,
    },
    Module {
        name: "shipping",
        calls: &[],
        subscribes: &[],
        settings: "",
        contract: Contract {
            service: shipping_contract::SERVICE,
            descriptors: shipping_contract::DESCRIPTOR_SET,
            serve: |contracts, services| services.add(ServedShipping(contracts.shipping.clone()).server(MESSAGE_BYTES)),
        },
        local: shipping::MODULE,
    },
    Module {
        name: "orders",
        calls: &["catalog", "inventory", "payments", "shipping"],
        subscribes: &["payments.payment", "shipping.shipment"],
        settings: include_str!("../../modules/orders/config/default.toml"),
        contract: Contract {
            service: orders_contract::SERVICE,
            descriptors: orders_contract::DESCRIPTOR_SET,
            serve: |contracts, services| services.add(ServedOrders(contracts.orders.clone()).server(MESSAGE_BYTES)),
        },
        local: orders::MODULE,
    },
    Module {
        name: "notifications",
        calls: &["users"],
        subscribes: &["orders.order", "payments.payment", "users.user"],
        settings: include_str!("../../modules/notifications/config/default.toml"),
        contract: Contract {
            service: notifications_contract::SERVICE,
            descriptors: notifications_contract::DESCRIPTOR_SET,
            serve: |contracts, services| {
                services.add(ServedNotifications(contracts.notifications.clone()).server(MESSAGE_BYTES))
            },
        },
        local: notifications::MODULE,
    },
];

/// Whether any module of the shop, local or remote, subscribes to this topic.
pub fn is_subscribed_to(topic: &str) -> bool {
    MODULES.iter().any(|module| module.subscribes.contains(&topic))
}

/// The shop as the platform runs it.
pub static SHOP: Product<Contracts> = Product {
    name: "Banyan",
    version: env!("CARGO_PKG_VERSION"),
    command: "banyan",
    summary: "A commerce backend in one binary: users, catalog, inventory, orders, payments, shipping, notifications.",
    description: "A headless commerce backend: users, catalog, inventory, orders, payments, shipping, notifications. Errors are RFC 9457 problems; \
                  money is integer minor units; lists are read by cursor; `Idempotency-Key` makes a repeated POST harmless.",
    document: include_str!("../openapi.json"),
    modules: MODULES,
    contracts: Contracts::remote,
    tokens: Some(Tokens {
        module: "users",
        keys: |contracts| Arc::new(UsersKeys(contracts.users.clone())),
        calls: &["ListSigningKeys", "ListEndedSessions"],
    }),
    gateway: Gateway {
        is_local: cfg!(feature = "gateway"),
        pages: pages::routes,
        calls: &["users", "catalog", "payments", "shipping", "orders"],
    },
    demo: Demo {
        users: "demo@banyan.example, staff@banyan.example, ops@banyan.example; password banyan-demo",
        operator: Some(("ops@banyan.example", "banyan-demo")),
    },
    saga_module: "orders",
};
