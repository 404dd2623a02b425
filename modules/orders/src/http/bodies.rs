//! Bodies and parameters of requests, and of responses that no other file defines.

use banyan_core::{Fault, Timestamp};
use serde::{Deserialize, Serialize};
use shared_kernel::{Address, Money, Quantity, Sku};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    event::{Line, Recorded, Status},
    service::Terms,
};

/// A quantity of one product.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OrderLine)]
pub struct NewLine {
    pub sku: Sku,
    pub quantity: Quantity,
}

impl From<NewLine> for Line {
    fn from(NewLine { sku, quantity }: NewLine) -> Self {
        Line { sku, quantity }
    }
}

/// What to order, where it goes, and how it is paid.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOrder {
    /// Lines of the same product are added up.
    #[schema(min_items = 1, max_items = 100)]
    pub items: Vec<NewLine>,
    pub shipping_address: Address,
    /// A token of the payment provider. The sandbox knows `pm_card_visa`, `pm_card_declined` and others.
    #[schema(
        pattern = "^pm_[a-z0-9_]{1,60}$",
        min_length = 4,
        max_length = 63,
        example = "pm_card_visa"
    )]
    pub payment_method: String,
    /// The total that the customer was shown: with another one nothing is ordered (409 `total_changed`).
    #[serde(default)]
    #[schema(nullable = false)]
    pub expected_total: Option<Money>,
}

impl NewOrder {
    /// # Errors
    /// `invalid_address`.
    pub fn into_parts(self) -> Result<(Vec<Line>, Terms), Fault> {
        let NewOrder {
            items,
            shipping_address,
            payment_method,
            expected_total,
        } = self;
        let terms = Terms {
            shipping_address: shipping_address.checked("/shipping_address")?.into(),
            payment_method,
            expected_total,
        };
        Ok((items.into_iter().map(Line::from).collect(), terms))
    }
}

/// Where a cart's order goes, and how it is paid.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Checkout {
    pub shipping_address: Address,
    /// A token of the payment provider.
    #[schema(
        pattern = "^pm_[a-z0-9_]{1,60}$",
        min_length = 4,
        max_length = 63,
        example = "pm_card_visa"
    )]
    pub payment_method: String,
    /// The total that the customer was shown: with another one nothing is ordered (409 `total_changed`).
    #[serde(default)]
    #[schema(nullable = false)]
    pub expected_total: Option<Money>,
}

impl TryFrom<Checkout> for Terms {
    type Error = Fault;

    /// # Errors
    /// `invalid_address`.
    fn try_from(
        Checkout {
            shipping_address,
            payment_method,
            expected_total,
        }: Checkout,
    ) -> Result<Self, Fault> {
        Ok(Terms {
            shipping_address: shipping_address.checked("/shipping_address")?.into(),
            payment_method,
            expected_total,
        })
    }
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CartQuantity)]
pub struct NewQuantity {
    pub quantity: Quantity,
}

#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelOrder {
    /// In the client's own words.
    #[schema(min_length = 1, max_length = 500, example = "ordered twice")]
    pub reason: Option<String>,
}

#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FollowQuery {
    /// Instead of an access token.
    #[param(
        min_length = 64,
        max_length = 64,
        pattern = "^[0-9a-f]{64}$",
        example = "5f0c8f3fd0b0a4c3c8d9e1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6"
    )]
    pub ticket: Option<String>,
    /// As the header `Last-Event-ID`, which takes precedence: a new `EventSource` cannot send it.
    #[param(minimum = 1, example = 3)]
    pub last_event_id: Option<i64>,
}

#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OrderQuery {
    /// Only those in this state. Drafts are carts, and not listed.
    #[param(inline)]
    pub status: Option<Status>,
    /// Only this user's; for staff.
    pub user_id: Option<Uuid>,
}

/// One thing that happened to an order.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = OrderHistoryEntry)]
pub struct HistoryEntry {
    /// The order's version after it: 1 for the first, without gaps.
    #[schema(minimum = 1)]
    pub version: i64,
    #[schema(example = "payment_authorised")]
    pub r#type: String,
    pub at: Timestamp,
    /// What there is to say of it; depends on `type`.
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
}

impl HistoryEntry {
    /// # Errors
    /// `unwritable_event`, which only a bug causes.
    pub fn of(recorded: &Recorded) -> Result<HistoryEntry, Fault> {
        let (kind, data) = recorded.event.to_parts()?;
        Ok(HistoryEntry {
            version: recorded.version,
            r#type: kind,
            at: recorded.at,
            data,
        })
    }
}

/// Everything that happened to an order, oldest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = OrderHistory)]
pub struct History {
    pub items: Vec<HistoryEntry>,
}
