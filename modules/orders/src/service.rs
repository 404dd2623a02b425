//! What orders does: each method loads, decides by the rules, stores and publishes, in one transaction.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Call, Clock, Fault, FaultKind, Ids, Page, PageRequest, Secrets, parse_id};
use banyan_durable::{Db, Saga, Tx, Watchers, saga};
use banyan_http::IfMatch;
use catalog_contract::{Catalog, ListProducts, Product};
use orders_contract::{FindOrder, FoundOrder, ListOrders, OrderItem, OrderList, Orders};
use shared_kernel::{MaySee, Money};
use shipping_contract::{FindShipment, Shipping};
use uuid::Uuid;

use crate::{
    Settings,
    admission::Admission,
    cancellation, carts,
    checkout::{CheckoutSaga, steps::Checkout},
    event::{Address, Canceller, Line, OrderEvent, Placement, Recorded, Status},
    follow::UserLimiter,
    memory::Memory,
    order::{Order, Refusal},
    pricing,
    publish::{messages_of, store_and_publish},
    store::{self, Filter},
    stream::EventStream,
    views::OrderView,
};

/// The timeout for catalog lookups. Long enough for a busy catalog; a customer waits for it.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(3);

/// The timeout for looking up whether a parcel was dispatched. Short, because the cancellation finds out if this does not.
const SHIPPING_TIMEOUT: Duration = Duration::from_secs(1);

/// Orders, for the routes and for other modules.
pub struct Service {
    pub(crate) db: Db,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn Ids>,
    pub(crate) secrets: Arc<dyn Secrets>,
    catalog: Arc<dyn Catalog>,
    shipping: Arc<dyn Shipping>,
    settings: Settings,
    pub(crate) memory: Memory,
    admission: Admission,
    /// Requests and streams that wait for changes of an order.
    pub(crate) watchers: Watchers,
    /// Open event streams.
    pub(crate) streams: UserLimiter,
    /// Requests that wait for an outcome.
    pub(crate) waits: UserLimiter,
}

/// How an order is paid and where it goes.
#[derive(Clone, Debug)]
pub struct Terms {
    pub shipping_address: Address,
    pub payment_method: String,
    /// The total that the customer was shown.
    pub expected_total: Option<Money>,
}

impl Service {
    pub fn new(needs: &crate::Needs) -> Self {
        Service {
            db: needs.db.clone(),
            clock: needs.clock.clone(),
            ids: needs.ids.clone(),
            secrets: needs.secrets.clone(),
            catalog: needs.catalog.clone(),
            shipping: needs.shipping.clone(),
            memory: Memory::default(),
            admission: Admission::new(needs.settings.open_checkouts),
            watchers: Watchers::new(needs.db.clone()),
            streams: UserLimiter::new(needs.limits.streams_per_user),
            waits: UserLimiter::new(needs.limits.waits_per_user),
            settings: needs.settings.clone(),
        }
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn db(&self) -> &Db {
        &self.db
    }

    /// As [`Admission::check`].
    ///
    /// # Errors
    /// `too_many_open_orders` (503).
    pub async fn check_load(&self) -> Result<(), Fault> {
        self.admission.check(&self.db).await
    }

    /// The products of these lines, with their current names and prices in the catalog.
    ///
    /// # Errors
    /// `unavailable` if the catalog cannot be called; nothing has happened then.
    pub async fn list_products(&self, call: &Call, lines: &[Line]) -> Result<Vec<Product>, Fault> {
        let mut skus: Vec<String> = lines.iter().map(|line| line.sku.to_string()).collect();
        skus.sort_unstable();
        skus.dedup();
        if skus.is_empty() {
            return Ok(Vec::new());
        }
        let call = call.clone().within(CATALOG_TIMEOUT);
        let unavailable = || Fault::unavailable("The catalog is unavailable.");
        match tokio::time::timeout(
            CATALOG_TIMEOUT,
            self.catalog.list_products(&call, ListProducts { skus }),
        )
        .await
        {
            Ok(Ok(products)) => Ok(products.items),
            Ok(Err(fault)) if fault.is_transient() => Err(unavailable()),
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(unavailable()),
        }
    }

    /// Places an order of these lines at the catalog's prices, and starts its checkout, inside the transaction that stores the response.
    ///
    /// # Errors
    /// `invalid_quantity`, `product_unavailable`, `mixed_currencies`, `total_too_large`.
    pub async fn place(
        &self,
        tx: &Tx,
        call: &Call,
        lines: &[Line],
        products: &[Product],
        terms: Terms,
    ) -> Result<OrderView, Fault> {
        let user_id = user_of(call)?;
        let (items, total) = pricing::price(&pricing::merge(lines)?, lines, products)?;
        let Terms {
            shipping_address,
            payment_method,
            expected_total,
        } = terms;
        pricing::check_total(&total, expected_total.as_ref())?;
        let placement = Placement {
            user_id,
            items,
            total,
            shipping_address,
            payment_method,
        };
        let placed = OrderEvent::Placed(Box::new(placement.clone()));
        let stream = EventStream::begin(self.ids.new_id(), placed, self.clock.now())?;
        self.begin_checkout(tx, call, &stream, placement).await
    }

    /// Stores a stream that was just placed and starts its saga.
    pub(crate) async fn begin_checkout(
        &self,
        tx: &Tx,
        call: &Call,
        stream: &EventStream,
        placement: Placement,
    ) -> Result<OrderView, Fault> {
        let Placement {
            user_id,
            items,
            total,
            shipping_address,
            payment_method,
        } = placement;
        let order_id = stream.id();
        let checkout = Checkout {
            order_id,
            user_id,
            lines: items
                .iter()
                .map(|item| Line {
                    sku: item.sku.clone(),
                    quantity: item.quantity,
                })
                .collect(),
            total,
            address: shipping_address,
            payment_method,
            attempted: Vec::new(),
            reason: None,
            refusals: 0,
        };
        store_and_publish(tx, call, &self.memory, stream).await?;
        let deadline = Duration::from_secs(self.settings.checkout_deadline_s);
        saga::start::<CheckoutSaga>(tx, call, &order_id.to_string(), &checkout, Some(deadline)).await?;
        stream.view().cloned().ok_or_else(|| Refusal::NotPlaced.into())
    }

    /// # Errors
    /// `not_found`, also for an order of another user and for a cart.
    pub async fn load(&self, call: &Call, id: Uuid) -> Result<OrderView, Fault> {
        store::find_visible(self.db.read(), id, &call.actor)
            .await?
            .ok_or_else(|| Fault::not_found("order"))
    }

    /// As [`load`](Self::load), of what this process has committed last; it may be out of date.
    pub(crate) fn remembered(&self, call: &Call, id: Uuid) -> Option<OrderView> {
        self.memory.view(id).filter(|view| call.actor.may_see(view.user_id))
    }

    /// Orders, newest first, without carts: the actor's own, or for staff everybody's or one user's.
    ///
    /// # Errors
    /// `forbidden` if another user's orders are requested by anyone but staff.
    pub async fn list(
        &self,
        call: &Call,
        user_id: Option<Uuid>,
        status: Option<Status>,
        page: &PageRequest,
    ) -> Result<Page<OrderView>, Fault> {
        let user_id = match (user_id, &call.actor) {
            (Some(of), actor) if actor.may_see(of) => Some(of),
            (Some(_), _) => return Err(Fault::forbidden("Only staff may list other users' orders.")),
            (None, actor) if actor.has_role(shared_kernel::Role::Staff) => None,
            (None, _) => Some(user_of(call)?),
        };
        store::list(self.db.read(), &Filter { user_id, status }, page).await
    }

    /// The events of a placed order, from its draft on if it had one.
    ///
    /// # Errors
    /// `not_found`, also for an order of another user and for a cart.
    pub async fn history(&self, call: &Call, id: Uuid) -> Result<Vec<Recorded>, Fault> {
        self.load(call, id).await?;
        store::events_after(self.db.read(), id, 0).await
    }

    /// Whether the parcel of a confirmed order is known to be dispatched. If shipping does not respond, the cancellation finds out.
    ///
    /// # Errors
    /// `not_found`, also for an order of another user and for a cart.
    pub async fn was_dispatched(&self, call: &Call, id: Uuid) -> Result<bool, Fault> {
        if self.load(call, id).await?.status != Status::Confirmed {
            return Ok(false);
        }
        let lookup = self.shipping.find_shipment(
            call,
            FindShipment {
                order_id: id.to_string(),
            },
        );
        let found = tokio::time::timeout(SHIPPING_TIMEOUT, lookup).await;
        let shipment = found.ok().and_then(Result::ok).and_then(|found| found.shipment);
        Ok(shipment.is_some_and(|shipment| matches!(shipment.status.as_str(), "dispatched" | "delivered")))
    }

    /// Accepts a cancel, inside the transaction that stores the response. Before the capture is decided it wins; after it, it is kept, and carried
    /// out once the checkout has ended. `was_dispatched`: the parcel is known to be dispatched.
    ///
    /// # Errors
    /// `not_found`, `already_cancelled`, `already_shipped`, `checkout_abandoned`.
    pub async fn cancel(
        &self,
        tx: &Tx,
        call: &Call,
        (id, version): (Uuid, &IfMatch),
        reason: Option<String>,
        was_dispatched: bool,
    ) -> Result<OrderView, Fault> {
        let found = store::find_visible_stream(tx.conn(), id, &call.actor, self.clock.now()).await?;
        let mut stream = found.ok_or(Refusal::NotPlaced)?;
        version.check(&banyan_http::etag(stream.order().version))?;
        if was_dispatched && stream.order().status == Status::Confirmed {
            return Err(Refusal::AlreadyShipped.into());
        }
        let by = if call.actor.user_id() == Some(stream.order().user_id) {
            Canceller::Customer
        } else {
            Canceller::Operator
        };
        let event = stream.order().request_cancel(by, reason.clone())?;
        if let Some(event) = event {
            stream.record(event);
            store_and_publish(tx, call, &self.memory, &stream).await?;
            if stream.order().checkout_ended {
                cancellation::start(tx, call, &stream).await?;
            } else if !saga::signal(tx, <CheckoutSaga as Saga>::KIND, &id.to_string(), "cancel").await? {
                // The order says that its checkout goes on, and it cannot have changed since: an operator has abandoned it.
                return Err(Refusal::CheckoutAbandoned.into());
            }
            if by == Canceller::Operator {
                banyan_durable::audit(
                    tx,
                    &call.actor,
                    "cancel_order",
                    &format!("order/{id}"),
                    reason.as_deref().unwrap_or_default(),
                    None,
                )
                .await?;
            }
        }
        stream.view().cloned().ok_or_else(|| Refusal::NotPlaced.into())
    }
}

/// The user a call is made by.
pub(crate) fn user_of(call: &Call) -> Result<Uuid, Fault> {
    call.actor
        .user_id()
        .ok_or_else(|| Fault::new(FaultKind::Forbidden, "forbidden", "Only a user has orders."))
}

#[async_trait]
impl Orders for Service {
    async fn find_order(&self, call: &Call, request: FindOrder) -> Result<FoundOrder, Fault> {
        let id = parse_id("order_id", &request.order_id)?;
        if let Some(view) = store::find_visible(self.db.read(), id, &call.actor).await? {
            return Ok(FoundOrder {
                order: Some(message_of(view)),
            });
        }
        let cart = carts::own(store::find_stream(self.db.read(), id, self.clock.now()).await?, call);
        Ok(FoundOrder {
            order: cart.map(|stream| message_of_cart(&stream)),
        })
    }

    async fn list_orders(&self, call: &Call, request: ListOrders) -> Result<OrderList, Fault> {
        let user_id = parse_id("user_id", &request.user_id)?;
        if !(1..=PageRequest::MAX_LIMIT).contains(&request.limit) {
            return Err(Fault::invalid("invalid_limit", "limit must be 1 to 100").at("/limit", "must be 1 to 100"));
        }
        if !call.actor.may_see(user_id) {
            return Ok(OrderList { items: Vec::new() });
        }
        let filter = Filter {
            user_id: Some(user_id),
            status: None,
        };
        let page = store::list(
            self.db.read(),
            &filter,
            &PageRequest {
                limit: request.limit,
                after: None,
            },
        )
        .await?;
        Ok(OrderList {
            items: page.items.into_iter().map(message_of).collect(),
        })
    }
}

fn message_of(view: OrderView) -> orders_contract::Order {
    orders_contract::Order {
        id: view.id.to_string(),
        user_id: view.user_id.to_string(),
        status: view.status.to_string(),
        cancel_reason: view.cancel_reason.map(|reason| reason.to_string()),
        items: messages_of(&view.items),
        total: Some(view.total),
        created_at_ms: view.created_at.as_ms(),
        version: view.version,
    }
}

/// A cart's products have neither name nor price before it is checked out.
fn message_of_cart(stream: &EventStream) -> orders_contract::Order {
    let Order {
        id,
        user_id,
        status,
        version,
        cart,
        ..
    } = stream.order();
    let item = |line: &Line| OrderItem {
        sku: line.sku.to_string(),
        name: String::new(),
        quantity: line.quantity.get(),
        unit_price: None,
    };
    orders_contract::Order {
        id: id.to_string(),
        user_id: user_id.to_string(),
        status: status.to_string(),
        cancel_reason: None,
        items: cart.iter().map(item).collect(),
        total: None,
        created_at_ms: stream.begun_at().as_ms(),
        version: *version,
    }
}
