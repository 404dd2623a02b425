//! What an order whose saga was given up has left in the other modules, and its undoing by an operator.
//!
//! Both need the order's id and no state of a saga. An undo is the same command that the saga itself would send, in the operator's name: it follows the
//! same rules of the other module, publishes the same events, and names the command it undoes, so that one which is still on its way does nothing.

use std::{future::Future, time::Duration};

use banyan_core::{Call, Fault, parse_id};
use banyan_durable::{Db, Leftover, Leftovers, Saga, UndoLeftover, Undone, saga};
use inventory_contract::{FindReservation, Inventory, OrderReservation, ReleaseStock, RestockOrder};
use payments_contract::{FindPayment, Payment, Payments, RefundRemaining, VoidPayment, refund, void};
use shipping_contract::{CancelShipment, FindShipment, Shipment, Shipping, shipment_cancellation};

use crate::{
    checkout::{CheckoutSaga, retry_after, steps::Step},
    event::Status,
    store,
};

/// The timeout for each module that is asked what it has; one that takes longer is listed as unavailable.
const FIND_TIMEOUT: Duration = Duration::from_secs(2);
/// The timeout for an undo; after it the outcome is unknown.
const UNDO_TIMEOUT: Duration = Duration::from_secs(5);

/// What operators can undo, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(const_into_str, serialize_all = "snake_case")]
enum Undo {
    CancelShipment,
    VoidAuthorisation,
    RefundPayment,
    ReleaseReservation,
    RestockReservation,
}

/// The modules in which a checkout leaves something.
#[derive(Clone, Copy)]
pub struct Participants<'a> {
    pub inventory: &'a dyn Inventory,
    pub payments: &'a dyn Payments,
    pub shipping: &'a dyn Shipping,
}

impl Participants<'_> {
    /// What the modules have for the order now: the shipment first, because a parcel may leave at any time.
    pub async fn list(self, call: &Call, order_id: &str) -> Leftovers {
        let call = call.clone().within(FIND_TIMEOUT);
        let order_id = order_id.to_owned();
        let (shipment, payment, reservation) = futures::join!(
            within(self.shipping.find_shipment(
                &call,
                FindShipment {
                    order_id: order_id.clone(),
                },
            )),
            within(self.payments.find_payment(
                &call,
                FindPayment {
                    order_id: order_id.clone(),
                },
            )),
            within(self.inventory.find_reservation(
                &call,
                FindReservation {
                    order_id: order_id.clone(),
                },
            )),
        );
        let mut found = Leftovers::default();
        found.add("shipping", shipment.map(|found| found.shipment.map(of_shipment)));
        found.add("payments", payment.map(|found| found.payment.map(of_payment)));
        found.add(
            "inventory",
            reservation.map(|found| found.reservation.map(of_reservation)),
        );
        found
    }

    /// Sends the command that undoes it, in the operator's name.
    ///
    /// # Errors
    /// `not_found` for an unknown undo; `order_shipped` (conflict): the order went on although a saga of it was given up; as the other module says.
    pub async fn undo(self, db: &Db, call: &Call, undo: UndoLeftover) -> Result<Undone, Fault> {
        let wanted: Undo = undo.name.parse().map_err(|_| Fault::not_found("undo of an order"))?;
        check_not_shipped(db, &undo.business_key).await?;
        let call = call.clone().within(UNDO_TIMEOUT);
        let (command_id, order_id) = (undo.command_id.to_string(), undo.business_key.clone());
        let (reason, comment) = (Some(undo.reason.clone()), undo.comment.clone());
        match wanted {
            Undo::CancelShipment => {
                let request = CancelShipment {
                    command_id,
                    undoes: undone_command(&undo, Step::ScheduleShipment)?,
                    order_id,
                    reason,
                    comment,
                };
                cancelled(self.shipping.cancel_shipment(&call, request).await?.outcome)
            }
            Undo::VoidAuthorisation => {
                let request = VoidPayment {
                    command_id,
                    undoes: undone_command(&undo, Step::AuthorisePayment)?,
                    order_id,
                    reason,
                    comment,
                };
                voided(self.payments.void_payment(&call, request).await?.outcome)
            }
            Undo::RefundPayment => {
                let request = RefundRemaining {
                    command_id,
                    order_id,
                    reason: undo.reason,
                    comment,
                };
                refunded(self.payments.refund_remaining(&call, request).await?.outcome)
            }
            Undo::ReleaseReservation => {
                let request = ReleaseStock {
                    command_id,
                    undoes: undone_command(&undo, Step::ReserveStock)?,
                    order_id,
                    reason,
                    comment,
                };
                let released = self.inventory.release_stock(&call, request).await?.released;
                Ok(Undone::Done(if released {
                    "The reserved units can be ordered again.".to_owned()
                } else {
                    "There was nothing to release.".to_owned()
                }))
            }
            Undo::RestockReservation => {
                let request = RestockOrder {
                    command_id,
                    order_id,
                    reason,
                    comment,
                };
                self.inventory.restock_order(&call, request).await?;
                Ok(Undone::Done("The units are in stock again.".to_owned()))
            }
        }
    }
}

/// Adds what a module has, or the module that did not say.
trait Add {
    fn add(&mut self, module: &str, found: Result<Option<Leftover>, Fault>);
}

impl Add for Leftovers {
    fn add(&mut self, module: &str, found: Result<Option<Leftover>, Fault>) {
        match found {
            Ok(item) => self.items.extend(item),
            Err(fault) => {
                tracing::warn!(module, %fault, "what this module has of an order is not known");
                self.unavailable.push(module.to_owned());
            }
        }
    }
}

async fn within<T>(found: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::time::timeout(FIND_TIMEOUT, found)
        .await
        .unwrap_or_else(|_| Err(Fault::unavailable("The module did not respond in time.")))
}

/// Of an order that is shipped nothing is left over: the customer has, or will have, what was paid for. That state is final, or leads to `delivered`.
async fn check_not_shipped(db: &Db, order_id: &str) -> Result<(), Fault> {
    let id = parse_id("business_key", order_id)?;
    let stream = store::find_stream(db.read(), id, db.clock().now()).await?;
    match stream.map(|stream| stream.order().status) {
        Some(status @ (Status::Shipped | Status::Delivered)) => Err(Fault::conflict(
            "order_shipped",
            format!(
                "The order is {status}, so nothing of it is left over; money is given back by a refund of its payment."
            ),
        )),
        // An order that is missing cannot be on its way either.
        _ => Ok(()),
    }
}

/// The id of the command that is undone: it follows from the checkout and the step.
fn undone_command(undo: &UndoLeftover, step: Step) -> Result<String, Fault> {
    let checkout = undo
        .saga(CheckoutSaga::KIND)
        .ok_or_else(|| Fault::conflict("no_checkout", "The order has no checkout that could have done this."))?;
    Ok(saga::command_id(checkout, step.into_str(), false).to_string())
}

fn unknown_outcome() -> Fault {
    Fault::internal(
        "unknown_outcome",
        "the response has an outcome that this build does not know",
    )
}

fn cancelled(outcome: Option<shipment_cancellation::Outcome>) -> Result<Undone, Fault> {
    match outcome.ok_or_else(unknown_outcome)? {
        shipment_cancellation::Outcome::Cancelled(_) => Ok(Undone::Done("The shipment will not leave.".to_owned())),
        shipment_cancellation::Outcome::AlreadyDispatched(_) => Err(Fault::conflict(
            "already_dispatched",
            "The parcel has left: it cannot be stopped any more.",
        )),
    }
}

fn voided(outcome: Option<void::Outcome>) -> Result<Undone, Fault> {
    match outcome.ok_or_else(unknown_outcome)? {
        void::Outcome::Voided(_) => Ok(Undone::Done("No amount is blocked any more.".to_owned())),
        void::Outcome::InProgress(progress) => Ok(Undone::InProgress(retry_after(progress.retry_after_ms))),
    }
}

fn refunded(outcome: Option<refund::Outcome>) -> Result<Undone, Fault> {
    match outcome.ok_or_else(unknown_outcome)? {
        refund::Outcome::Refunded(refunded) => Ok(Undone::Done(match refunded.amount {
            Some(amount) if amount.amount > 0 => format!("{amount} was refunded."),
            _ => "There was nothing left to refund.".to_owned(),
        })),
        refund::Outcome::InProgress(progress) => Ok(Undone::InProgress(retry_after(progress.retry_after_ms))),
    }
}

fn leftover(module: &str, what: &str, id: Option<&str>, state: String, detail: String, undo: Option<Undo>) -> Leftover {
    Leftover {
        module: module.to_owned(),
        what: what.to_owned(),
        id: id.and_then(|id| id.parse().ok()),
        state,
        detail,
        undo: undo.map(|undo| undo.into_str().to_owned()),
    }
}

fn of_shipment(shipment: Shipment) -> Leftover {
    let (detail, undo) = match shipment.status.as_str() {
        "scheduled" | "ready" => ("It has not left.", Some(Undo::CancelShipment)),
        "cancelled" => ("It will not leave.", None),
        _ => ("It has left and cannot be cancelled.", None),
    };
    let id = Some(shipment.id.as_str());
    leftover(
        "shipping",
        "shipment",
        id,
        shipment.status.clone(),
        detail.to_owned(),
        undo,
    )
}

fn of_payment(payment: Payment) -> Leftover {
    let of = |money: &Option<shared_kernel::Money>| money.clone().unwrap_or_default();
    let (amount, captured, refunded) = (of(&payment.amount), of(&payment.captured), of(&payment.refunded));
    let (detail, undo) = match payment.status.as_str() {
        "authorised" => (format!("{amount} is blocked."), Some(Undo::VoidAuthorisation)),
        "created" | "authorising" | "capturing" => (
            format!("{amount}; the provider has not responded yet."),
            Some(Undo::VoidAuthorisation),
        ),
        "captured" | "partially_refunded" => (
            format!("{captured} was taken, {refunded} of it refunded."),
            Some(Undo::RefundPayment),
        ),
        "voiding" => (format!("{amount}; the void is on its way."), None),
        "refunded" => (format!("{refunded} was refunded."), None),
        _ => ("Nothing is blocked or taken.".to_owned(), None),
    };
    let id = Some(payment.id.as_str());
    leftover("payments", "payment", id, payment.status.clone(), detail, undo)
}

fn of_reservation(reservation: OrderReservation) -> Leftover {
    // No products: what somebody ordered is personal.
    let units: u64 = reservation.lines.iter().map(|line| u64::from(line.quantity)).sum();
    let units = if units == 1 {
        "1 unit".to_owned()
    } else {
        format!("{units} units")
    };
    let (detail, undo) = match reservation.state.as_str() {
        "held" => (format!("{units} cannot be ordered."), Some(Undo::ReleaseReservation)),
        "committed" => (format!("{units} left the stock."), Some(Undo::RestockReservation)),
        _ => (format!("{units} are in stock again."), None),
    };
    leftover("inventory", "reservation", None, reservation.state, detail, undo)
}

#[cfg(test)]
mod tests {
    use shared_kernel::Money;

    use super::*;

    fn euros(amount: i64) -> Option<Money> {
        Some(Money::new(amount, "EUR").unwrap())
    }

    #[test]
    fn every_state_of_a_payment_says_what_is_left_of_it() {
        for (status, undo) in [
            ("created", Some("void_authorisation")),
            ("authorising", Some("void_authorisation")),
            ("authorised", Some("void_authorisation")),
            ("capturing", Some("void_authorisation")),
            ("captured", Some("refund_payment")),
            ("partially_refunded", Some("refund_payment")),
            ("refunded", None),
            ("declined", None),
            ("voiding", None),
            ("voided", None),
        ] {
            let payment = Payment {
                status: status.to_owned(),
                amount: euros(500),
                captured: euros(500),
                refunded: euros(100),
                ..Payment::default()
            };
            assert_eq!(of_payment(payment).undo.as_deref(), undo, "{status}");
        }
    }

    #[test]
    fn every_state_of_a_reservation_and_of_a_shipment_says_what_is_left_of_it() {
        for (state, undo) in [
            ("held", Some("release_reservation")),
            ("committed", Some("restock_reservation")),
            ("released", None),
            ("restocked", None),
        ] {
            let reservation = OrderReservation {
                state: state.to_owned(),
                lines: Vec::new(),
            };
            assert_eq!(of_reservation(reservation).undo.as_deref(), undo, "{state}");
        }
        for (status, undo) in [
            ("scheduled", Some("cancel_shipment")),
            ("ready", Some("cancel_shipment")),
            ("dispatched", None),
            ("delivered", None),
            ("cancelled", None),
        ] {
            let shipment = Shipment {
                status: status.to_owned(),
                ..Shipment::default()
            };
            assert_eq!(of_shipment(shipment).undo.as_deref(), undo, "{status}");
        }
    }
}
