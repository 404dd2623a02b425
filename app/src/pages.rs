//! Pages that show several modules at once. A page is shown without the modules that are unavailable: their parts are `null`,
//! and they are named in `unavailable`.

use std::{future::Future, time::Duration};

use actix_web::{HttpResponse, get, web::Data};
use banyan_core::{Call, Fault, Timestamp};
use banyan_http::{LoggedIn, Problem, Routes};
use catalog_contract::{ListPopularProducts, ListProducts, Products};
use orders_contract::{FindOrder, ListOrders, Order};
use payments_contract::FindPayment;
use serde::Serialize;
use shared_kernel::Money;
use shipping_contract::FindShipment;
use users_contract::FindUser;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::shop::Contracts;

/// The timeout for each part of a page; a part that takes longer counts as unavailable.
const PART_TIMEOUT: Duration = Duration::from_secs(2);
const LATEST_ORDERS: u32 = 5;
const POPULAR_PRODUCTS: u32 = 10;

/// The pages' routes, relative to `/api/v1`.
pub fn routes(contracts: &Contracts) -> Routes {
    let contracts = Data::new(contracts.clone());
    Routes::new(move |config| {
        config
            .app_data(contracts.clone())
            .service(order_details)
            .service(dashboard);
    })
}

/// An order with everything around it.
#[derive(Serialize, ToSchema)]
struct OrderDetails {
    order: PageOrder,
    /// Whose order it is.
    user: Option<PageUser>,
    /// The ordered products as the catalog shows them today.
    products: Option<Vec<PageProduct>>,
    payment: Option<PagePayment>,
    shipment: Option<PageShipment>,
    /// The modules that did not answer; their parts are null.
    #[schema(example = json!(["payments"]))]
    unavailable: Vec<String>,
}

/// A user's own start page.
#[derive(Serialize, ToSchema)]
struct Dashboard {
    profile: Option<PageUser>,
    /// Newest first.
    latest_orders: Option<Vec<PageOrder>>,
    /// Best sold first.
    popular_products: Option<Vec<PageProduct>>,
    /// The modules that did not answer; their parts are null.
    unavailable: Vec<String>,
}

#[derive(Serialize, ToSchema)]
struct PageOrder {
    #[schema(format = Uuid)]
    id: String,
    #[schema(format = Uuid)]
    user_id: String,
    #[schema(example = "confirmed")]
    status: String,
    cancel_reason: Option<String>,
    items: Vec<PageOrderLine>,
    total: Option<Money>,
    created_at: Timestamp,
    version: i64,
}

#[derive(Serialize, ToSchema)]
struct PageOrderLine {
    sku: String,
    name: String,
    quantity: u32,
    unit_price: Option<Money>,
}

#[derive(Serialize, ToSchema)]
struct PageUser {
    #[schema(format = Uuid)]
    id: String,
    email: String,
    name: String,
    roles: Vec<String>,
}

#[derive(Serialize, ToSchema)]
struct PageProduct {
    sku: String,
    name: String,
    category: String,
    price: Option<Money>,
    active: bool,
}

#[derive(Serialize, ToSchema)]
struct PagePayment {
    #[schema(format = Uuid)]
    id: String,
    status: String,
    amount: Option<Money>,
    captured: Option<Money>,
    refunded: Option<Money>,
}

#[derive(Serialize, ToSchema)]
struct PageShipment {
    #[schema(format = Uuid)]
    id: String,
    status: String,
    tracking_number: Option<String>,
}

/// One order with its customer, products, payment and shipment, fetched from their modules at the same time.
#[utoipa::path(tag = "pages", params(("id" = Uuid, Path, description = "The order")),
    responses((status = 200, description = "The order and what is known around it", body = OrderDetails)), security(("bearer" = [])))]
#[get("/order-details/{id}")]
async fn order_details(
    caller: LoggedIn,
    id: banyan_http::Path<Uuid>,
    contracts: Data<Contracts>,
) -> Result<HttpResponse, Problem> {
    let call = caller.call().clone().within(PART_TIMEOUT);
    let order_id = id.into_inner().to_string();
    // The order itself is what the page is about: without it there is no page.
    let found = within(contracts.orders.find_order(
        &call,
        FindOrder {
            order_id: order_id.clone(),
        },
    ))
    .await?;
    let order = found.order.ok_or_else(|| Fault::not_found("order"))?;
    let skus = order.items.iter().map(|item| item.sku.clone()).collect();
    // The customer's profile is shown to every caller who may see the order, so the page requests it in its own name, not in the caller's.
    let user = Call::by_module("gateway")
        .traced(call.trace.clone())
        .within(PART_TIMEOUT);
    let (user, products, payment, shipment) = futures::join!(
        within(contracts.users.find_user(
            &user,
            FindUser {
                user_id: order.user_id.clone()
            }
        )),
        within(contracts.catalog.list_products(&call, ListProducts { skus })),
        within(contracts.payments.find_payment(
            &call,
            FindPayment {
                order_id: order_id.clone()
            }
        )),
        within(contracts.shipping.find_shipment(&call, FindShipment { order_id })),
    );
    let mut parts = Parts::default();
    Ok(HttpResponse::Ok().json(OrderDetails {
        user: parts
            .take("users", user)
            .and_then(|found| found.user)
            .map(PageUser::from),
        products: parts.take("catalog", products).map(listed),
        payment: parts
            .take("payments", payment)
            .and_then(|found| found.payment)
            .map(PagePayment::from),
        shipment: parts
            .take("shipping", shipment)
            .and_then(|found| found.shipment)
            .map(PageShipment::from),
        order: PageOrder::from(order),
        unavailable: parts.unavailable,
    }))
}

/// The caller's profile, latest orders, and what sells best.
#[utoipa::path(tag = "pages", responses((status = 200, description = "The caller's start page", body = Dashboard)), security(("bearer" = [])))]
#[get("/dashboard")]
async fn dashboard(caller: LoggedIn, contracts: Data<Contracts>) -> Result<HttpResponse, Problem> {
    let call = caller.call().clone().within(PART_TIMEOUT);
    let user_id = caller.user_id().to_string();
    let (profile, orders, popular) = futures::join!(
        within(contracts.users.find_user(
            &call,
            FindUser {
                user_id: user_id.clone()
            }
        )),
        within(contracts.orders.list_orders(
            &call,
            ListOrders {
                user_id,
                limit: LATEST_ORDERS
            }
        )),
        within(contracts.catalog.list_popular_products(
            &call,
            ListPopularProducts {
                limit: POPULAR_PRODUCTS
            }
        )),
    );
    let mut parts = Parts::default();
    Ok(HttpResponse::Ok().json(Dashboard {
        profile: parts
            .take("users", profile)
            .and_then(|found| found.user)
            .map(PageUser::from),
        latest_orders: parts
            .take("orders", orders)
            .map(|list| list.items.into_iter().map(PageOrder::from).collect()),
        popular_products: parts.take("catalog", popular).map(listed),
        unavailable: parts.unavailable,
    }))
}

/// Collects the names of the modules that are unavailable.
#[derive(Default)]
struct Parts {
    unavailable: Vec<String>,
}

impl Parts {
    fn take<T>(&mut self, module: &str, part: Result<T, Fault>) -> Option<T> {
        part.inspect_err(|fault| {
            tracing::warn!(module, %fault, "a page is shown without this module");
            self.unavailable.push(module.to_owned());
        })
        .ok()
    }
}

async fn within<T>(part: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::time::timeout(PART_TIMEOUT, part)
        .await
        .unwrap_or_else(|_| Err(Fault::unavailable("The module did not respond in time.")))
}

fn listed(products: Products) -> Vec<PageProduct> {
    products.items.into_iter().map(PageProduct::from).collect()
}

impl From<Order> for PageOrder {
    fn from(order: Order) -> Self {
        let line = |item: orders_contract::OrderItem| PageOrderLine {
            sku: item.sku,
            name: item.name,
            quantity: item.quantity,
            unit_price: item.unit_price,
        };
        PageOrder {
            id: order.id,
            user_id: order.user_id,
            status: order.status,
            cancel_reason: order.cancel_reason,
            items: order.items.into_iter().map(line).collect(),
            total: order.total,
            created_at: Timestamp::from_ms(order.created_at_ms),
            version: order.version,
        }
    }
}

impl From<users_contract::User> for PageUser {
    fn from(user: users_contract::User) -> Self {
        PageUser {
            id: user.id,
            email: user.email,
            name: user.name,
            roles: user.roles,
        }
    }
}

impl From<catalog_contract::Product> for PageProduct {
    fn from(product: catalog_contract::Product) -> Self {
        PageProduct {
            sku: product.sku,
            name: product.name,
            category: product.category,
            price: product.price,
            active: product.active,
        }
    }
}

impl From<payments_contract::Payment> for PagePayment {
    fn from(payment: payments_contract::Payment) -> Self {
        PagePayment {
            id: payment.id,
            status: payment.status,
            amount: payment.amount,
            captured: payment.captured,
            refunded: payment.refunded,
        }
    }
}

impl From<shipping_contract::Shipment> for PageShipment {
    fn from(shipment: shipping_contract::Shipment) -> Self {
        PageShipment {
            id: shipment.id,
            status: shipment.status,
            tracking_number: shipment.tracking_number,
        }
    }
}
