//! The rules of a shipment: which status follows which, and what each change requires.
//!
//! `scheduled -> ready -> dispatched -> delivered`; `cancelled` instead, until it is dispatched.

use banyan_core::{Fault, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Where a shipment stands.
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
#[schema(as = ShipmentStatus)]
pub enum Status {
    /// Planned; the order is not confirmed yet, so nothing may leave.
    Scheduled,
    /// Paid for: it may be dispatched.
    Ready,
    /// Handed to the carrier.
    Dispatched,
    /// With the customer.
    Delivered,
    /// It will never leave.
    Cancelled,
}

/// Where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ShipmentAddress)]
pub struct Address {
    pub name: String,
    pub line1: String,
    #[schema(required = true)]
    pub line2: Option<String>,
    /// Null, like the region and the postal code, where the country has addresses without.
    #[schema(required = true)]
    pub city: Option<String>,
    /// State, province or the like.
    #[serde(default)]
    #[schema(required = true)]
    pub region: Option<String>,
    #[schema(required = true)]
    pub postal_code: Option<String>,
    /// ISO 3166-1 alpha-2, or XK.
    #[schema(example = "DE")]
    pub country: String,
    /// Of whoever receives it.
    #[serde(default)]
    #[schema(required = true)]
    pub phone: Option<String>,
}

/// Units of one product in the parcel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ShipmentLine)]
pub struct Line {
    pub sku: String,
    #[schema(minimum = 1)]
    pub quantity: u32,
}

/// A state the shipment entered, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ShipmentStep)]
pub struct Step {
    pub at: Timestamp,
    pub status: Status,
}

/// What must be shipped, to whom, for which order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consignment {
    pub order_id: Uuid,
    pub user_id: Uuid,
    pub address: Address,
    pub lines: Vec<Line>,
}

/// How a dispatched parcel can be tracked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracking {
    pub number: String,
    pub carrier: Option<String>,
}

impl Tracking {
    /// A tracking number of the shop's own: `BN` and sixteen hexadecimal digits of an id's random half.
    pub fn number_of(id: Uuid) -> String {
        let (_, random) = id.as_u64_pair();
        format!("BN{random:016X}")
    }
}

/// The shipment of an order, with its tracking history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shipment {
    pub id: Uuid,
    pub order_id: Uuid,
    pub user_id: Uuid,
    pub status: Status,
    pub address: Address,
    pub lines: Vec<Line>,
    /// Null until it is dispatched.
    #[schema(required = true)]
    pub tracking_number: Option<String>,
    /// Who carries it, if whoever dispatched it said so.
    #[schema(required = true)]
    pub carrier: Option<String>,
    /// What happened to it so far, oldest first.
    pub history: Vec<Step>,
    pub created_at: Timestamp,
    /// Raised by every change.
    #[schema(minimum = 1)]
    pub version: i64,
}

/// Why a shipment does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("Only a ready shipment can be dispatched; this one is {0}.")]
    NotReady(Status),
    #[error("Only a dispatched shipment can be delivered; this one is {0}.")]
    NotDispatched(Status),
    #[error("The shipment has been dispatched.")]
    AlreadyDispatched,
    #[error("The shipment was cancelled.")]
    Cancelled,
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::NotReady(_) => "not_ready",
            Refusal::NotDispatched(_) => "not_dispatched",
            Refusal::AlreadyDispatched => "already_dispatched",
            Refusal::Cancelled => "shipment_cancelled",
        };
        Fault::conflict(code, refusal.to_string())
    }
}

impl Shipment {
    pub fn schedule(id: Uuid, consignment: Consignment, now: Timestamp) -> Self {
        let Consignment {
            order_id,
            user_id,
            address,
            lines,
        } = consignment;
        Shipment {
            id,
            order_id,
            user_id,
            status: Status::Scheduled,
            address,
            lines,
            tracking_number: None,
            carrier: None,
            history: vec![Step {
                at: now,
                status: Status::Scheduled,
            }],
            created_at: now,
            version: 1,
        }
    }

    /// The order is confirmed: the shipment may be dispatched. `None`: it was ready before, or has been dispatched.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn make_ready(&self, now: Timestamp) -> Result<Option<Shipment>, Refusal> {
        match self.status {
            Status::Scheduled => Ok(Some(self.entering(Status::Ready, now))),
            Status::Ready | Status::Dispatched | Status::Delivered => Ok(None),
            Status::Cancelled => Err(Refusal::Cancelled),
        }
    }

    /// It is handed to the carrier.
    ///
    /// # Errors
    /// `NotReady` in any other status than `ready`.
    pub fn dispatch(&self, tracking: Tracking, now: Timestamp) -> Result<Shipment, Refusal> {
        if self.status != Status::Ready {
            return Err(Refusal::NotReady(self.status));
        }
        let dispatched = self.entering(Status::Dispatched, now);
        Ok(Shipment {
            tracking_number: Some(tracking.number),
            carrier: tracking.carrier,
            ..dispatched
        })
    }

    /// It has arrived.
    ///
    /// # Errors
    /// `NotDispatched` in any other status than `dispatched`.
    pub fn deliver(&self, now: Timestamp) -> Result<Shipment, Refusal> {
        if self.status != Status::Dispatched {
            return Err(Refusal::NotDispatched(self.status));
        }
        Ok(self.entering(Status::Delivered, now))
    }

    /// It will not be dispatched. `None`: it was cancelled before.
    ///
    /// # Errors
    /// `AlreadyDispatched`: too late.
    pub fn cancel(&self, now: Timestamp) -> Result<Option<Shipment>, Refusal> {
        match self.status {
            Status::Scheduled | Status::Ready => Ok(Some(self.entering(Status::Cancelled, now))),
            Status::Cancelled => Ok(None),
            Status::Dispatched | Status::Delivered => Err(Refusal::AlreadyDispatched),
        }
    }

    fn entering(&self, status: Status, now: Timestamp) -> Shipment {
        let mut next = Shipment {
            status,
            version: self.version + 1,
            ..self.clone()
        };
        next.history.push(Step { at: now, status });
        next
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;

    const NOON: Timestamp = Timestamp::from_ms(43_200_000);
    const LATER: Timestamp = Timestamp::from_ms(43_260_000);

    fn scheduled() -> Shipment {
        let address = Address {
            name: "Ada".into(),
            line1: "Fig Lane 1".into(),
            line2: None,
            city: Some("Berlin".into()),
            region: None,
            postal_code: Some("10115".into()),
            country: "DE".into(),
            phone: None,
        };
        let lines = vec![Line {
            sku: "fig".into(),
            quantity: 2,
        }];
        let consignment = Consignment {
            order_id: Uuid::from_u128(2),
            user_id: Uuid::from_u128(3),
            address,
            lines,
        };
        Shipment::schedule(Uuid::from_u128(1), consignment, NOON)
    }

    fn tracking() -> Tracking {
        Tracking {
            number: "BN1".into(),
            carrier: None,
        }
    }

    fn ready() -> Shipment {
        scheduled().make_ready(LATER).unwrap().unwrap()
    }

    fn dispatched() -> Shipment {
        ready().dispatch(tracking(), LATER).unwrap()
    }

    fn cancelled() -> Shipment {
        scheduled().cancel(LATER).unwrap().unwrap()
    }

    #[test]
    fn a_shipment_is_scheduled_readied_dispatched_and_delivered_and_keeps_its_history() {
        let delivered = dispatched().deliver(LATER).unwrap();
        let states: Vec<Status> = delivered.history.iter().map(|step| step.status).collect();
        assert_eq!(
            states,
            [Status::Scheduled, Status::Ready, Status::Dispatched, Status::Delivered]
        );
        assert_eq!(delivered.history[0].at, NOON);
        assert_eq!(
            (delivered.version, delivered.tracking_number.as_deref()),
            (4, Some("BN1"))
        );
    }

    #[test]
    fn only_a_ready_shipment_can_be_dispatched() {
        for shipment in [
            scheduled(),
            dispatched(),
            dispatched().deliver(LATER).unwrap(),
            cancelled(),
        ] {
            assert_eq!(
                shipment.dispatch(tracking(), LATER),
                Err(Refusal::NotReady(shipment.status))
            );
        }
    }

    #[test]
    fn only_a_dispatched_shipment_can_be_delivered() {
        for shipment in [scheduled(), ready(), dispatched().deliver(LATER).unwrap(), cancelled()] {
            assert_eq!(shipment.deliver(LATER), Err(Refusal::NotDispatched(shipment.status)));
        }
    }

    #[test]
    fn a_dispatched_shipment_cannot_be_cancelled() {
        for shipment in [dispatched(), dispatched().deliver(LATER).unwrap()] {
            assert_eq!(shipment.cancel(LATER), Err(Refusal::AlreadyDispatched));
        }
        assert_eq!(ready().cancel(LATER).unwrap().unwrap().status, Status::Cancelled);
    }

    #[test]
    fn cancelling_or_making_ready_twice_changes_nothing() {
        assert_eq!(cancelled().cancel(LATER), Ok(None));
        assert_eq!(ready().make_ready(LATER), Ok(None));
        assert_eq!(dispatched().make_ready(LATER), Ok(None));
    }

    #[test]
    fn a_cancelled_shipment_never_becomes_ready() {
        assert_eq!(cancelled().make_ready(LATER), Err(Refusal::Cancelled));
    }

    #[test]
    fn a_status_has_one_name_in_the_table_and_in_json() {
        for &status in Status::VARIANTS {
            assert_eq!(status.into_str().parse(), Ok(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.into_str());
        }
        assert!("lost".parse::<Status>().is_err());
    }

    #[test]
    fn tracking_numbers_have_one_form_and_differ() {
        let (one, two) = (Tracking::number_of(Uuid::now_v7()), Tracking::number_of(Uuid::now_v7()));
        assert!(one.len() == 18 && one.starts_with("BN") && one != two, "{one} {two}");
    }
}
