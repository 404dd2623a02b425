//! The rules of an order: what may happen to it next, given what has happened.
//!
//! Pure: each rule looks at the folded state and returns the event that records its decision, or a refusal.

use banyan_core::{Fault, FieldError};
use serde::{Deserialize, Serialize};
use shared_kernel::{Money, Quantity, Sku};
use uuid::Uuid;

use crate::{
    event::{CancelReason, Canceller, Line, OrderEvent, Placement, Recorded, Status},
    views::OrderView,
};

/// Distinct products in one order.
pub const MAX_LINES: usize = 100;
/// Changes of one cart; a stream stays short enough to be folded whenever it is needed.
const MAX_CHANGES: i64 = 1_000;

/// An order as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub id: Uuid,
    pub version: i64,
    pub user_id: Uuid,
    pub status: Status,
    /// The lines of the cart; empty once the order was placed.
    pub cart: Vec<Line>,
    pub payment: Option<Payment>,
    pub shipment: Option<Shipment>,
    pub capture_decided: bool,
    pub cancel_requested: Option<Canceller>,
    /// The parcel had been dispatched before the cancel reached it.
    pub cancel_refused: bool,
    /// Nothing of the checkout is left to do.
    pub checkout_ended: bool,
}

/// What the rules know of a placed order beside what its view shows. It is stored with the view, so that a decision does not read the events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    #[serde(skip_serializing_if = "Option::is_none")]
    payment: Option<Payment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shipment: Option<Shipment>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    capture_decided: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancel_requested: Option<Canceller>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cancel_refused: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    checkout_ended: bool,
}

/// How far the order's payment is known to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    pub id: Uuid,
    /// How far the payment has come: an event of this stage or a lower one is stale.
    stage: u8,
    refunded: i64,
}

impl Payment {
    pub fn is_declined(&self) -> bool {
        self.stage == DECLINED
    }
}

/// How far the order's shipment is known to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipment {
    pub id: Uuid,
    stage: u8,
}

/// Why an order does not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    NotACart,
    NotPlaced,
    NoSuchItem,
    TooManyLines,
    TooManyChanges,
    EmptyCart,
    LineTooLarge(Vec<FieldError>),
    ProductUnavailable(Vec<FieldError>),
    MixedCurrencies,
    TotalTooLarge,
    /// To this one.
    TotalChanged(Money),
    AlreadyCancelled,
    AlreadyShipped,
    /// An operator has abandoned the checkout: no saga would carry a cancel out.
    CheckoutAbandoned,
    /// A cancel came before the capture was decided.
    CancelCameFirst,
    /// The event before this one has not been received yet.
    NotYet(Status),
    /// The caller is wrong about the status of the order: a bug.
    OutOfOrder(&'static str, Status),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        let with = |mut fault: Fault, errors: Vec<FieldError>| {
            fault.errors = errors;
            fault
        };
        match refusal {
            Refusal::NotACart => Fault::conflict("not_a_cart", "This cart has been checked out."),
            Refusal::NotPlaced => Fault::not_found("order"),
            Refusal::TotalChanged(total) => Fault::conflict(
                "total_changed",
                format!("The total is {total} now; nothing was ordered."),
            ),
            Refusal::NoSuchItem => Fault::not_found("item in this cart"),
            Refusal::TooManyLines => {
                Fault::conflict("too_many_lines", format!("A cart holds at most {MAX_LINES} products."))
            }
            Refusal::TooManyChanges => {
                Fault::conflict("too_many_changes", "This cart was changed too often; begin another.")
            }
            Refusal::EmptyCart => Fault::invalid("empty_cart", "There is nothing in this cart."),
            Refusal::LineTooLarge(errors) => with(
                Fault::invalid("invalid_quantity", format!("At most {} of one product.", Quantity::MAX)),
                errors,
            ),
            Refusal::ProductUnavailable(errors) => with(
                Fault::invalid("product_unavailable", "Some of this cannot be ordered."),
                errors,
            ),
            Refusal::MixedCurrencies => Fault::invalid(
                "mixed_currencies",
                "All products of an order must have prices in one currency.",
            ),
            Refusal::TotalTooLarge => Fault::invalid("total_too_large", "The order's total is too large."),
            Refusal::AlreadyCancelled => Fault::conflict("already_cancelled", "The order is cancelled."),
            Refusal::AlreadyShipped => Fault::conflict("already_shipped", "The order has been shipped."),
            Refusal::CheckoutAbandoned => Fault::conflict(
                "checkout_abandoned",
                "An operator has abandoned the checkout of this order and settles it by hand.",
            ),
            Refusal::CancelCameFirst => Fault::internal("cancel_came_first", "a capture was decided after a cancel"),
            Refusal::NotYet(status) => Fault::unavailable(format!("The order is still {status}.")),
            Refusal::OutOfOrder(what, status) => Fault::internal("out_of_order", format!("{what} while {status}")),
        }
    }
}

impl Order {
    /// The fold of a stream; `None` for one that begins with anything but a draft or a placement.
    pub fn fold(id: Uuid, stream: &[Recorded]) -> Option<Order> {
        let (first, rest) = stream.split_first()?;
        let user_id = match &first.event {
            OrderEvent::Drafted { user_id } => *user_id,
            OrderEvent::Placed(placement) => placement.user_id,
            _ => return None,
        };
        let mut order = Order {
            id,
            version: 0,
            user_id,
            status: Status::Draft,
            cart: Vec::new(),
            payment: None,
            shipment: None,
            capture_decided: false,
            cancel_requested: None,
            cancel_refused: false,
            checkout_ended: false,
        };
        order.apply(first);
        rest.iter().for_each(|recorded| order.apply(recorded));
        Some(order)
    }

    /// Applies the next event. Never refuses: it did happen.
    pub fn apply(&mut self, recorded: &Recorded) {
        self.version = recorded.version;
        match &recorded.event {
            OrderEvent::Drafted { .. } => {}
            OrderEvent::ItemAdded { sku, quantity } => self.cart.push(Line {
                sku: sku.clone(),
                quantity: *quantity,
            }),
            OrderEvent::ItemQuantityChanged { sku, quantity } => {
                if let Some(line) = self.cart.iter_mut().find(|line| line.sku == *sku) {
                    line.quantity = *quantity;
                }
            }
            OrderEvent::ItemRemoved { sku } => self.cart.retain(|line| line.sku != *sku),
            OrderEvent::Placed(_) => {
                self.status = Status::Pending;
                self.cart.clear();
            }
            OrderEvent::CaptureDecided {} => self.capture_decided = true,
            OrderEvent::CancelRequested { by, .. } => self.cancel_requested = Some(*by),
            OrderEvent::Confirmed {} => self.status = Status::Confirmed,
            OrderEvent::ShipmentReady {} => self.checkout_ended = true,
            OrderEvent::Shipped { .. } => self.status = Status::Shipped,
            OrderEvent::Delivered {} => self.status = Status::Delivered,
            OrderEvent::CancelRefused {} => self.cancel_refused = true,
            OrderEvent::Cancelled { .. } => self.status = Status::Cancelled,
            OrderEvent::PaymentAuthorised { .. }
            | OrderEvent::PaymentDeclined { .. }
            | OrderEvent::PaymentCaptured { .. }
            | OrderEvent::PaymentVoided { .. }
            | OrderEvent::PaymentRefunded { .. }
            | OrderEvent::ShipmentScheduled { .. }
            | OrderEvent::ShipmentCancelled { .. } => {}
        }
        if let Some(payment) = payment_after(&recorded.event) {
            self.payment = Some(payment);
        }
        // The checkout may learn that the shipment is ready after shipping published that it was dispatched.
        if let Some((id, stage)) = shipment_after(&recorded.event)
            && self.shipment.as_ref().is_none_or(|known| stage > known.stage)
            && let Some(id) = id.or(self.shipment.as_ref().map(|shipment| shipment.id))
        {
            self.shipment = Some(Shipment { id, stage });
        }
    }

    /// A placed order as its stored view and progress say: the fold of the events they were folded from.
    pub fn resume(view: &OrderView, progress: Progress) -> Order {
        let Progress {
            payment,
            shipment,
            capture_decided,
            cancel_requested,
            cancel_refused,
            checkout_ended,
        } = progress;
        Order {
            id: view.id,
            version: view.version,
            user_id: view.user_id,
            status: view.status,
            cart: Vec::new(),
            payment,
            shipment,
            capture_decided,
            cancel_requested,
            cancel_refused,
            checkout_ended,
        }
    }

    pub fn progress(&self) -> Progress {
        Progress {
            payment: self.payment.clone(),
            shipment: self.shipment.clone(),
            capture_decided: self.capture_decided,
            cancel_requested: self.cancel_requested,
            cancel_refused: self.cancel_refused,
            checkout_ended: self.checkout_ended,
        }
    }

    /// Sets the quantity of a product in the cart. `None`: it has this quantity already.
    pub fn put_item(&self, sku: &Sku, quantity: Quantity) -> Result<Option<OrderEvent>, Refusal> {
        self.check_is_cart()?;
        match self.cart.iter().find(|line| line.sku == *sku) {
            Some(line) if line.quantity == quantity => Ok(None),
            Some(_) => Ok(Some(OrderEvent::ItemQuantityChanged {
                sku: sku.clone(),
                quantity,
            })),
            None if self.cart.len() >= MAX_LINES => Err(Refusal::TooManyLines),
            None => Ok(Some(OrderEvent::ItemAdded {
                sku: sku.clone(),
                quantity,
            })),
        }
    }

    pub fn remove_item(&self, sku: &Sku) -> Result<OrderEvent, Refusal> {
        self.check_is_cart()?;
        let known = self.cart.iter().any(|line| line.sku == *sku);
        if known {
            Ok(OrderEvent::ItemRemoved { sku: sku.clone() })
        } else {
            Err(Refusal::NoSuchItem)
        }
    }

    fn check_is_cart(&self) -> Result<(), Refusal> {
        match self.status {
            Status::Draft if self.version >= MAX_CHANGES => Err(Refusal::TooManyChanges),
            Status::Draft => Ok(()),
            _ => Err(Refusal::NotACart),
        }
    }

    /// Makes a cart an order.
    pub fn place(&self, placement: Placement) -> Result<OrderEvent, Refusal> {
        if self.status != Status::Draft {
            return Err(Refusal::NotACart);
        }
        if placement.items.is_empty() {
            Err(Refusal::EmptyCart)
        } else {
            Ok(OrderEvent::Placed(Box::new(placement)))
        }
    }

    /// Before this a cancel wins; after it only forward.
    pub fn decide_capture(&self) -> Result<OrderEvent, Refusal> {
        if self.cancel_requested.is_some() {
            return Err(Refusal::CancelCameFirst);
        }
        if self.status != Status::Pending || self.capture_decided {
            return Err(Refusal::OutOfOrder("a capture was decided", self.status));
        }
        Ok(OrderEvent::CaptureDecided {})
    }

    /// Requests a cancel. Before the capture is decided it wins; after it, it is kept until the order can be cancelled. `None`: it was requested
    /// before.
    pub fn request_cancel(&self, by: Canceller, reason: Option<String>) -> Result<Option<OrderEvent>, Refusal> {
        match self.status {
            Status::Draft => Err(Refusal::NotPlaced),
            Status::Cancelled => Err(Refusal::AlreadyCancelled),
            Status::Shipped | Status::Delivered => Err(Refusal::AlreadyShipped),
            Status::Pending | Status::Confirmed if self.cancel_refused => Err(Refusal::AlreadyShipped),
            Status::Pending | Status::Confirmed if self.cancel_requested.is_some() => Ok(None),
            Status::Pending | Status::Confirmed => Ok(Some(OrderEvent::CancelRequested { by, reason })),
        }
    }

    pub fn confirm(&self) -> Result<OrderEvent, Refusal> {
        if self.status == Status::Pending && self.capture_decided {
            Ok(OrderEvent::Confirmed {})
        } else {
            Err(Refusal::OutOfOrder("a confirmation", self.status))
        }
    }

    /// Everything that was done for the order is undone, or refunded: `refunded`.
    pub fn cancel(&self, reason: CancelReason, refunded: Option<Money>) -> Result<OrderEvent, Refusal> {
        match self.status {
            Status::Pending | Status::Confirmed => Ok(OrderEvent::Cancelled { reason, refunded }),
            status => Err(Refusal::OutOfOrder("a cancellation", status)),
        }
    }

    /// An operator has abandoned the saga of this order, so the order ends here; what other modules still hold for it, the operator settles by hand.
    /// `None`: it has ended before.
    pub fn abandon(&self) -> Option<OrderEvent> {
        self.cancel(CancelReason::Operator, None).ok()
    }

    /// The parcel was dispatched. `None`: this is known, or the order has moved on.
    ///
    /// # Errors
    /// `NotYet` before the order is confirmed: it will be.
    pub fn ship(&self, shipment_id: Uuid, tracking_number: &str) -> Result<Option<OrderEvent>, Refusal> {
        match self.status {
            Status::Confirmed => Ok(Some(OrderEvent::Shipped {
                shipment_id,
                tracking_number: tracking_number.to_owned(),
            })),
            Status::Shipped | Status::Delivered | Status::Cancelled => Ok(None),
            Status::Draft | Status::Pending => Err(Refusal::NotYet(self.status)),
        }
    }

    /// The parcel was delivered. `None`: this is known, or the order has moved on.
    ///
    /// # Errors
    /// `NotYet` before it was shipped.
    pub fn deliver(&self) -> Result<Option<OrderEvent>, Refusal> {
        match self.status {
            Status::Shipped => Ok(Some(OrderEvent::Delivered {})),
            Status::Delivered | Status::Cancelled => Ok(None),
            Status::Draft | Status::Pending | Status::Confirmed => Err(Refusal::NotYet(self.status)),
        }
    }

    /// The event, if it tells something new about the payment or the shipment; `None` if it is stale. The response to the saga and the other
    /// module's event tell the same, in any order.
    pub fn unless_stale(&self, event: OrderEvent) -> Option<OrderEvent> {
        let is_new = match (payment_after(&event), shipment_after(&event)) {
            (Some(payment), _) => self.payment.as_ref().is_none_or(|known| {
                payment.stage > known.stage || payment.stage == known.stage && payment.refunded > known.refunded
            }),
            (None, Some((_, stage))) => self.shipment.as_ref().is_none_or(|known| stage > known.stage),
            (None, None) => false,
        };
        is_new.then_some(event)
    }
}

/// The stage of a payment that was declined.
const DECLINED: u8 = 4;

/// What an event says about the payment. A higher stage cannot be followed by a lower one.
fn payment_after(event: &OrderEvent) -> Option<Payment> {
    let (id, stage, refunded) = match event {
        OrderEvent::PaymentAuthorised { payment_id } => (*payment_id, 1, 0),
        OrderEvent::PaymentCaptured { payment_id } => (*payment_id, 2, 0),
        OrderEvent::PaymentRefunded {
            payment_id, refunded, ..
        } => (*payment_id, 3, refunded.amount),
        OrderEvent::PaymentDeclined { payment_id, .. } => (*payment_id, DECLINED, 0),
        OrderEvent::PaymentVoided { payment_id } => (*payment_id, 5, 0),
        _ => return None,
    };
    Some(Payment { id, stage, refunded })
}

/// What an event says about the shipment; its id if the event has it.
fn shipment_after(event: &OrderEvent) -> Option<(Option<Uuid>, u8)> {
    match event {
        OrderEvent::ShipmentScheduled { shipment_id } => Some((Some(*shipment_id), 1)),
        OrderEvent::ShipmentReady {} => Some((None, 2)),
        OrderEvent::Shipped { shipment_id, .. } => Some((Some(*shipment_id), 3)),
        OrderEvent::Delivered {} => Some((None, 4)),
        OrderEvent::ShipmentCancelled { shipment_id } => Some((Some(*shipment_id), 5)),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
