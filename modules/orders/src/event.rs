//! The events of an order, and the values in them.
//!
//! Invariant: stored events are never rewritten. A new field has a default; a new meaning is a new event.

use banyan_core::{Fault, Timestamp};
use serde::{Deserialize, Serialize};
use shared_kernel::{Country, Money, Quantity, Sku};
use utoipa::ToSchema;
use uuid::Uuid;

/// One thing that happened. An order is the fold of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum OrderEvent {
    /// A cart was created.
    Drafted {
        user_id: Uuid,
    },
    ItemAdded {
        sku: Sku,
        quantity: Quantity,
    },
    ItemQuantityChanged {
        sku: Sku,
        quantity: Quantity,
    },
    ItemRemoved {
        sku: Sku,
    },
    /// From here on it is an order, at these prices.
    Placed(Box<Placement>),
    PaymentAuthorised {
        payment_id: Uuid,
    },
    PaymentDeclined {
        payment_id: Uuid,
        code: String,
    },
    ShipmentScheduled {
        shipment_id: Uuid,
    },
    /// The pivot of the checkout: before it a cancel wins, after it only forward.
    CaptureDecided {},
    PaymentCaptured {
        payment_id: Uuid,
    },
    /// Stored at any time before shipping; it ends in `cancelled` or `cancel_refused`.
    CancelRequested {
        by: Canceller,
        reason: Option<String>,
    },
    Confirmed {},
    /// The checkout has ended: the shipment may be dispatched.
    ShipmentReady {},
    Shipped {
        shipment_id: Uuid,
        tracking_number: String,
    },
    Delivered {},
    ShipmentCancelled {
        shipment_id: Uuid,
    },
    PaymentVoided {
        payment_id: Uuid,
    },
    /// `amount` was refunded now, `refunded` in total.
    PaymentRefunded {
        payment_id: Uuid,
        amount: Money,
        refunded: Money,
    },
    /// The parcel had left before it could be stopped.
    CancelRefused {},
    Cancelled {
        reason: CancelReason,
        refunded: Option<Money>,
    },
}

impl OrderEvent {
    /// Its name and its data, as they are stored and shown.
    ///
    /// # Errors
    /// `unwritable_event`, which only a bug causes: every event is an object in JSON.
    pub fn to_parts(&self) -> Result<(String, serde_json::Value), Fault> {
        #[derive(Deserialize)]
        struct Parts {
            r#type: String,
            data: serde_json::Value,
        }
        let parts = serde_json::to_value(self).and_then(serde_json::from_value::<Parts>);
        parts
            .map(|parts| (parts.r#type, parts.data))
            .map_err(|error| Fault::internal("unwritable_event", error.to_string()))
    }

    /// # Errors
    /// `internal`, for what this build cannot read.
    pub fn of_parts(kind: &str, data: &str) -> Result<Self, Fault> {
        let unreadable = |error: serde_json::Error| Fault::internal("unreadable_event", format!("{kind}: {error}"));
        let data: serde_json::Value = serde_json::from_str(data).map_err(unreadable)?;
        serde_json::from_value(serde_json::json!({ "type": kind, "data": data })).map_err(unreadable)
    }
}

/// An event with its position in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// 1 for the first, without gaps.
    pub version: i64,
    pub at: Timestamp,
    pub event: OrderEvent,
}

/// What was ordered, by whom, at what price, to where, and how it is paid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub user_id: Uuid,
    /// One per sku.
    pub items: Vec<Item>,
    pub total: Money,
    pub shipping_address: Address,
    /// A token of the payment provider, never a card number.
    pub payment_method: String,
}

/// A quantity of one product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub sku: Sku,
    pub quantity: Quantity,
}

/// A line with the name and price the product had when the order was placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = OrderItem)]
pub struct Item {
    pub sku: Sku,
    pub name: String,
    pub quantity: Quantity,
    pub unit_price: Money,
}

/// Where an order goes, as stored: unlike in a request, parts that a newer version knows are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub name: String,
    pub line1: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line2: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postal_code: Option<String>,
    pub country: Country,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
}

impl From<shared_kernel::Address> for Address {
    fn from(address: shared_kernel::Address) -> Self {
        Address {
            name: address.name,
            line1: address.line1,
            line2: address.line2,
            city: address.city,
            region: address.region,
            postal_code: address.postal_code,
            country: address.country,
            phone: address.phone,
        }
    }
}

/// Who requested a cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Canceller {
    Customer,
    Operator,
}

/// Why an order was cancelled.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    ToSchema,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum CancelReason {
    OutOfStock,
    PaymentDeclined,
    Customer,
    /// The checkout did not end in time.
    Expired,
    Operator,
}

impl From<Canceller> for CancelReason {
    fn from(by: Canceller) -> Self {
        match by {
            Canceller::Customer => CancelReason::Customer,
            Canceller::Operator => CancelReason::Operator,
        }
    }
}

/// Where an order stands.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(const_into_str, serialize_all = "snake_case")]
#[schema(as = OrderStatus)]
pub enum Status {
    /// A cart.
    Draft,
    /// Placed; stock, payment and shipment are being arranged.
    Pending,
    /// Paid, and its stock is committed.
    Confirmed,
    Shipped,
    Delivered,
    Cancelled,
}

impl Status {
    /// Whether nothing more will happen to the goods.
    pub fn is_final(self) -> bool {
        matches!(self, Status::Delivered | Status::Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;

    #[test]
    fn every_event_can_be_read_from_its_parts() {
        let id = Uuid::from_u128(7);
        let euros = Money::new(5, "EUR").unwrap();
        for event in [
            OrderEvent::Drafted { user_id: id },
            OrderEvent::CaptureDecided {},
            OrderEvent::CancelRequested {
                by: Canceller::Customer,
                reason: None,
            },
            OrderEvent::PaymentRefunded {
                payment_id: id,
                amount: euros.clone(),
                refunded: euros.clone(),
            },
            OrderEvent::Cancelled {
                reason: CancelReason::Expired,
                refunded: None,
            },
        ] {
            let (kind, data) = event.to_parts().unwrap();
            assert!(data.is_object(), "{kind}: clients are promised an object");
            assert_eq!(OrderEvent::of_parts(&kind, &data.to_string()).unwrap(), event);
        }
    }

    #[test]
    fn an_event_with_fields_of_a_newer_version_can_be_read() {
        let placed = OrderEvent::Placed(Box::new(crate::order::tests::placement()));
        let (kind, mut data) = placed.to_parts().unwrap();
        for path in ["", "/items/0", "/items/0/unit_price", "/total", "/shipping_address"] {
            data.pointer_mut(path)
                .unwrap()
                .as_object_mut()
                .unwrap()
                .insert("newer".to_owned(), true.into());
        }
        assert_eq!(OrderEvent::of_parts(&kind, &data.to_string()).unwrap(), placed);
        let line: Line = serde_json::from_str(r#"{"sku": "fig", "quantity": 1, "gift": true}"#).unwrap();
        assert_eq!(line.quantity.get(), 1);
    }

    #[test]
    fn the_names_in_tables_and_in_json_are_the_same() {
        for reason in CancelReason::VARIANTS {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.into_str());
        }
        for status in Status::VARIANTS {
            assert_eq!(serde_json::to_value(status).unwrap(), status.into_str());
        }
    }
}
