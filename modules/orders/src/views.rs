//! The read model: an order as it is shown and listed, folded from its event stream alone.
//!
//! Architecture invariant: a view contains nothing that its stream does not; it can be deleted and folded again, and a test compares the two.

use std::fmt;

use banyan_core::Timestamp;
use serde::{Deserialize, Serialize};
use shared_kernel::Money;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    event::{CancelReason, Item, OrderEvent, Recorded, Status},
    order::{Order, Progress},
};

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Order)]
pub struct OrderView {
    pub id: Uuid,
    pub user_id: Uuid,
    pub status: Status,
    /// Only when cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub cancel_reason: Option<CancelReason>,
    pub items: Vec<Item>,
    pub total: Money,
    /// Null until the payment is known.
    #[schema(required = true)]
    pub payment: Option<PaymentView>,
    /// Null until the shipment is scheduled.
    #[schema(required = true)]
    pub shipment: Option<ShipmentView>,
    /// When it was placed.
    pub created_at: Timestamp,
    /// Raised by everything that happens to the order.
    #[schema(minimum = 1)]
    pub version: i64,
}

/// What the order knows of its payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = OrderPayment)]
pub struct PaymentView {
    pub id: Uuid,
    pub status: PaymentStatus,
}

/// What the order knows of its shipment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = OrderShipment)]
pub struct ShipmentView {
    pub id: Uuid,
    pub status: ShipmentStatus,
    /// Once it was dispatched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub tracking_number: Option<String>,
}

/// As in `payments`, as far as an order hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OrderPaymentStatus)]
pub enum PaymentStatus {
    Authorised,
    Declined,
    Captured,
    PartiallyRefunded,
    Refunded,
    Voided,
}

/// As in `shipping`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OrderShipmentStatus)]
pub enum ShipmentStatus {
    Scheduled,
    Ready,
    Dispatched,
    Delivered,
    Cancelled,
}

impl OrderView {
    /// `None` for a cart: it is not an order yet.
    pub fn fold(id: Uuid, stream: &[Recorded]) -> Option<OrderView> {
        stream
            .iter()
            .fold(None, |view, recorded| OrderView::after(view, id, recorded))
    }

    /// The view after the next event.
    pub fn after(view: Option<OrderView>, id: Uuid, recorded: &Recorded) -> Option<OrderView> {
        match (view, &recorded.event) {
            (None, OrderEvent::Placed(placement)) => Some(OrderView {
                id,
                user_id: placement.user_id,
                status: Status::Pending,
                cancel_reason: None,
                items: placement.items.clone(),
                total: placement.total.clone(),
                payment: None,
                shipment: None,
                created_at: recorded.at,
                version: recorded.version,
            }),
            (Some(mut view), event) => {
                view.version = recorded.version;
                view.apply(event);
                Some(view)
            }
            (None, _) => None,
        }
    }

    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::PaymentAuthorised { payment_id } => self.pay(*payment_id, PaymentStatus::Authorised),
            OrderEvent::PaymentDeclined { payment_id, .. } => self.pay(*payment_id, PaymentStatus::Declined),
            OrderEvent::PaymentCaptured { payment_id } => self.pay(*payment_id, PaymentStatus::Captured),
            OrderEvent::PaymentVoided { payment_id } => self.pay(*payment_id, PaymentStatus::Voided),
            OrderEvent::PaymentRefunded {
                payment_id, refunded, ..
            } => {
                let all = refunded.amount >= self.total.amount;
                self.pay(
                    *payment_id,
                    if all {
                        PaymentStatus::Refunded
                    } else {
                        PaymentStatus::PartiallyRefunded
                    },
                );
            }
            OrderEvent::ShipmentScheduled { shipment_id } => self.send(*shipment_id, ShipmentStatus::Scheduled),
            OrderEvent::ShipmentReady {} => {
                // It may have been dispatched before the checkout learned that it is ready.
                if let Some(shipment) = self
                    .shipment
                    .as_mut()
                    .filter(|known| known.status == ShipmentStatus::Scheduled)
                {
                    shipment.status = ShipmentStatus::Ready;
                }
            }
            OrderEvent::Shipped {
                shipment_id,
                tracking_number,
            } => {
                self.status = Status::Shipped;
                self.shipment = Some(ShipmentView {
                    id: *shipment_id,
                    status: ShipmentStatus::Dispatched,
                    tracking_number: Some(tracking_number.clone()),
                });
            }
            OrderEvent::Delivered {} => {
                self.status = Status::Delivered;
                if let Some(shipment) = &mut self.shipment {
                    shipment.status = ShipmentStatus::Delivered;
                }
            }
            OrderEvent::ShipmentCancelled { shipment_id } => self.send(*shipment_id, ShipmentStatus::Cancelled),
            OrderEvent::Confirmed {} => self.status = Status::Confirmed,
            OrderEvent::Cancelled { reason, .. } => {
                self.status = Status::Cancelled;
                self.cancel_reason = Some(*reason);
            }
            OrderEvent::Drafted { .. }
            | OrderEvent::ItemAdded { .. }
            | OrderEvent::ItemQuantityChanged { .. }
            | OrderEvent::ItemRemoved { .. }
            | OrderEvent::Placed(_)
            | OrderEvent::CaptureDecided {}
            | OrderEvent::CancelRequested { .. }
            | OrderEvent::CancelRefused {} => {}
        }
    }

    fn pay(&mut self, id: Uuid, status: PaymentStatus) {
        self.payment = Some(PaymentView { id, status });
    }

    fn send(&mut self, id: Uuid, status: ShipmentStatus) {
        let tracking_number = self.shipment.take().and_then(|known| known.tracking_number);
        self.shipment = Some(ShipmentView {
            id,
            status,
            tracking_number,
        });
    }
}

/// Everything that is stored of a placed order beside its events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReadModel {
    #[serde(flatten)]
    pub view: OrderView,
    /// `None` in a row of an earlier version, which did not have it.
    pub progress: Option<Progress>,
}

impl ReadModel {
    /// `None` for a cart.
    pub fn fold(id: Uuid, stream: &[Recorded]) -> Option<ReadModel> {
        let view = OrderView::fold(id, stream)?;
        let progress = Order::fold(id, stream)?.progress();
        Some(ReadModel {
            view,
            progress: Some(progress),
        })
    }
}

/// A read model that is not what its stream folds to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub order_id: Uuid,
    /// The stored one, if any.
    pub live: Option<ReadModel>,
    /// The one its stream folds to, if any.
    pub folded: Option<ReadModel>,
}

impl Difference {
    /// `None` without a difference. What a row of an earlier version lacks is not one.
    pub fn of(order_id: Uuid, mut live: Option<ReadModel>, folded: Option<ReadModel>) -> Option<Difference> {
        if let (Some(live), Some(folded)) = (&mut live, &folded)
            && live.progress.is_none()
        {
            live.progress.clone_from(&folded.progress);
        }
        (live != folded).then_some(Difference { order_id, live, folded })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = |view: &Option<ReadModel>| {
            view.as_ref()
                .map(serde_json::to_string)
                .transpose()
                .map_err(|_| fmt::Error)
        };
        let or_none = |view: Option<String>| view.unwrap_or_else(|| "none".to_owned());
        let (live, folded) = (or_none(json(&self.live)?), or_none(json(&self.folded)?));
        write!(
            f,
            "order {}: the read model is {live}, its events say {folded}",
            self.order_id
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::tests::{placement, recorded};

    #[test]
    fn a_cart_has_no_view() {
        let stream = recorded([OrderEvent::Drafted {
            user_id: Uuid::from_u128(1),
        }]);
        assert_eq!(OrderView::fold(Uuid::from_u128(9), &stream), None);
    }

    #[test]
    fn a_view_shows_how_far_payment_and_shipment_are() {
        let (payment_id, shipment_id) = (Uuid::from_u128(2), Uuid::from_u128(3));
        let euros = |amount| Money::new(amount, "EUR").unwrap();
        let mut events = vec![
            OrderEvent::Placed(Box::new(placement())),
            OrderEvent::PaymentAuthorised { payment_id },
            OrderEvent::ShipmentScheduled { shipment_id },
            OrderEvent::Confirmed {},
            OrderEvent::Shipped {
                shipment_id,
                tracking_number: "T1".to_owned(),
            },
            OrderEvent::ShipmentReady {},
            OrderEvent::PaymentRefunded {
                payment_id,
                amount: euros(1),
                refunded: euros(1),
            },
        ];
        let view = OrderView::fold(Uuid::from_u128(9), &recorded(events.clone())).unwrap();
        assert_eq!(view.payment.unwrap().status, PaymentStatus::PartiallyRefunded);
        let shipment = view.shipment.unwrap();
        assert_eq!(
            (shipment.status, shipment.tracking_number.as_deref()),
            (ShipmentStatus::Dispatched, Some("T1"))
        );
        assert_eq!((view.status, view.version), (Status::Shipped, 7));

        events.push(OrderEvent::PaymentRefunded {
            payment_id,
            amount: euros(5),
            refunded: placement().total,
        });
        let view = OrderView::fold(Uuid::from_u128(9), &recorded(events)).unwrap();
        assert_eq!(view.payment.unwrap().status, PaymentStatus::Refunded);
    }
}
