//! Carts: drafts of orders. A cart is visible to its customer alone.

use std::time::Duration;

use banyan_core::{Call, Fault, FaultKind, Timestamp};
use banyan_durable::Tx;
use catalog_contract::Product;
use serde::Serialize;
use sha2::{Digest, Sha256};
use shared_kernel::{Money, Quantity, Sku};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    event::{Item, Line, OrderEvent, Placement, Status},
    order::{Order, Refusal},
    pricing,
    publish::store_and_publish,
    service::{Service, Terms, user_of},
    store,
    stream::EventStream,
    views::OrderView,
};

/// A cart that nobody has changed for 90 days is abandoned, and is deleted. It holds nothing: prices and stock are of the moment of its checkout.
pub const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// The number of carts deleted in one transaction: each may have many changes.
pub const DELETED_AT_ONCE: u64 = 50;

/// A cart. Names and prices are the catalog's of this moment, and become the order's when it is checked out.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Cart {
    pub id: Uuid,
    pub user_id: Uuid,
    #[schema(inline)]
    pub status: CartStatus,
    pub items: Vec<CartItem>,
    /// Null if the catalog cannot say.
    #[schema(required = true)]
    pub total: Option<Money>,
    pub created_at: Timestamp,
    #[schema(minimum = 1)]
    pub version: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CartStatus {
    Draft,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct CartItem {
    pub sku: Sku,
    /// Null if the catalog cannot say, or does not sell it.
    #[schema(required = true)]
    pub name: Option<String>,
    pub quantity: Quantity,
    /// Null if the catalog cannot say, or does not sell it.
    #[schema(required = true)]
    pub unit_price: Option<Money>,
}

impl Cart {
    /// The cart with what is known of its products.
    pub fn of(stream: &EventStream, products: &[Product]) -> Cart {
        let order = stream.order();
        let items: Vec<CartItem> = order.cart.iter().map(|line| CartItem::of(line, products)).collect();
        let priced: Option<Vec<Item>> = items.iter().map(CartItem::priced).collect();
        Cart {
            id: order.id,
            user_id: order.user_id,
            status: CartStatus::Draft,
            items,
            total: priced.and_then(|items| pricing::total(&items).ok().flatten()),
            created_at: stream.begun_at(),
            version: order.version,
        }
    }
}

impl Cart {
    /// The value of the `ETag`: it changes with everything that is shown, names and prices included.
    ///
    /// # Errors
    /// `unwritable_cart`, which only a bug causes.
    pub fn etag(&self) -> Result<String, Fault> {
        let shown = serde_json::to_vec(self).map_err(|error| Fault::internal("unwritable_cart", error.to_string()))?;
        let digest = Sha256::digest(shown);
        Ok(banyan_http::etag(format!(
            "{}-{}",
            self.version,
            hex::encode(&digest[..8])
        )))
    }
}

impl CartItem {
    fn of(line: &Line, products: &[Product]) -> CartItem {
        let product = products
            .iter()
            .find(|product| product.active && product.sku == line.sku.as_str());
        CartItem {
            sku: line.sku.clone(),
            name: product.map(|product| product.name.clone()),
            quantity: line.quantity,
            unit_price: product.and_then(|product| product.price.clone()),
        }
    }

    fn priced(&self) -> Option<Item> {
        let (name, unit_price) = (self.name.clone()?, self.unit_price.clone()?);
        Some(Item {
            sku: self.sku.clone(),
            name,
            quantity: self.quantity,
            unit_price,
        })
    }
}

impl Service {
    /// Creates an empty cart.
    pub async fn begin_cart(&self, tx: &Tx, call: &Call) -> Result<EventStream, Fault> {
        let drafted = OrderEvent::Drafted {
            user_id: user_of(call)?,
        };
        let stream = EventStream::begin(self.ids.new_id(), drafted, self.clock.now())?;
        store_and_publish(tx, call, &self.memory, &stream).await?;
        Ok(stream)
    }

    /// # Errors
    /// `not_found`, also for a cart of another user, and once it was checked out: then it is an order.
    pub async fn load_cart(&self, call: &Call, id: Uuid) -> Result<EventStream, Fault> {
        let stream = store::find_stream(self.db.read(), id, self.clock.now()).await?;
        own(stream, call)
            .filter(|stream| stream.order().status == Status::Draft)
            .ok_or_else(|| Fault::not_found("cart"))
    }

    /// The cart as it is shown. Names and prices are missing if the catalog is unavailable.
    pub async fn show_cart(&self, call: &Call, stream: &EventStream) -> Cart {
        let products = self
            .list_products(call, &stream.order().cart)
            .await
            .unwrap_or_else(|fault| {
                tracing::warn!(%fault, "a cart is shown without prices");
                Vec::new()
            });
        Cart::of(stream, &products)
    }

    /// Sets the quantity of a product in the cart. `expected`: only if the cart still has this version.
    ///
    /// # Errors
    /// `not_found`, `not_a_cart`, `too_many_lines`, `too_many_changes`, `precondition_failed`.
    pub async fn put_item(
        &self,
        call: &Call,
        id: Uuid,
        sku: Sku,
        quantity: Quantity,
        expected: Option<i64>,
    ) -> Result<EventStream, Fault> {
        self.change_cart(call, id, expected, move |cart| cart.put_item(&sku, quantity))
            .await
    }

    /// Removes a product from the cart.
    ///
    /// # Errors
    /// `not_found` for cart and item, `not_a_cart`, `precondition_failed`.
    pub async fn remove_item(
        &self,
        call: &Call,
        id: Uuid,
        sku: Sku,
        expected: Option<i64>,
    ) -> Result<EventStream, Fault> {
        self.change_cart(call, id, expected, move |cart| cart.remove_item(&sku).map(Some))
            .await
    }

    async fn change_cart<F>(
        &self,
        call: &Call,
        id: Uuid,
        expected: Option<i64>,
        change: F,
    ) -> Result<EventStream, Fault>
    where
        F: Fn(&Order) -> Result<Option<OrderEvent>, Refusal> + Clone + Send + Sync + 'static,
    {
        let context = (call.clone(), self.clock.clone(), self.memory.clone(), change);
        self.db
            .write(context, move |tx, (call, clock, memory, change)| async move {
                let stream = store::find_stream(tx.conn(), id, clock.now()).await?;
                let mut stream = own(stream, &call).ok_or_else(|| Fault::not_found("cart"))?;
                if expected.is_some_and(|version| version != stream.order().version) {
                    let detail = "The cart has changed since you read it.";
                    return Err(Fault::new(FaultKind::PreconditionFailed, "precondition_failed", detail));
                }
                let event = change(stream.order())?;
                stream.record_all(event);
                store_and_publish(&tx, &call, &memory, &stream).await?;
                Ok(stream)
            })
            .await
    }

    /// Turns the cart into an order at the catalog's prices and starts its checkout, inside the transaction that stores the response. `seen` is the
    /// version whose products were looked up in the catalog.
    ///
    /// # Errors
    /// `not_found`, `not_a_cart`, `empty_cart`, and as placing an order; `cart_changed` (to be repeated) if it changed meanwhile.
    pub async fn check_out(
        &self,
        tx: &Tx,
        call: &Call,
        (id, seen): (Uuid, i64),
        products: &[Product],
        terms: Terms,
    ) -> Result<OrderView, Fault> {
        let stream = store::find_stream(tx.conn(), id, self.clock.now()).await?;
        let mut stream = own(stream, call).ok_or_else(|| Fault::not_found("cart"))?;
        let cart = stream.order();
        if cart.status != Status::Draft {
            return Err(Refusal::NotACart.into());
        }
        if cart.version != seen {
            // With a retry delay, so that this is not stored as the response to the request.
            let changed = Fault::conflict("cart_changed", "The cart changed while it was being checked out.");
            return Err(changed.retry_after(std::time::Duration::from_secs(1)));
        }
        let (items, total) = pricing::price(&cart.cart, &cart.cart, products)?;
        let Terms {
            shipping_address,
            payment_method,
            expected_total,
        } = terms;
        pricing::check_total(&total, expected_total.as_ref())?;
        let placement = Placement {
            user_id: cart.user_id,
            items,
            total,
            shipping_address,
            payment_method,
        };
        let placed = cart.place(placement.clone())?;
        stream.record(placed);
        self.begin_checkout(tx, call, &stream, placement).await
    }

    /// The actor's own cart, or the order that it was made, for looking up the products before the checkout.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn peek_cart(&self, call: &Call, id: Uuid) -> Result<EventStream, Fault> {
        let stream = own(store::find_stream(self.db.read(), id, self.clock.now()).await?, call);
        stream.ok_or_else(|| Fault::not_found("cart"))
    }
}

/// A cart is visible to its customer alone: neither to staff nor to other modules.
pub(crate) fn own(stream: Option<EventStream>, call: &Call) -> Option<EventStream> {
    stream.filter(|stream| call.actor.user_id() == Some(stream.order().user_id))
}
