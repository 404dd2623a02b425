//! The rules of an order, one test each.

use banyan_core::Timestamp;

use super::*;
use crate::event::{Address, Item};

const ORDER: Uuid = Uuid::from_u128(9);
const USER: Uuid = Uuid::from_u128(1);
const PAYMENT: Uuid = Uuid::from_u128(2);
const SHIPMENT: Uuid = Uuid::from_u128(3);

pub(crate) fn recorded(events: impl IntoIterator<Item = OrderEvent>) -> Vec<Recorded> {
    (1..)
        .zip(events)
        .map(|(version, event)| Recorded {
            version,
            at: Timestamp::from_ms(version),
            event,
        })
        .collect()
}

pub(crate) fn placement() -> Placement {
    Placement {
        user_id: USER,
        items: vec![Item {
            sku: sku("fig"),
            name: "Fig".to_owned(),
            quantity: quantity(2),
            unit_price: euros(199),
        }],
        total: euros(398),
        shipping_address: Address {
            name: "Ada".to_owned(),
            line1: "1 Street".to_owned(),
            line2: None,
            city: Some("London".to_owned()),
            region: None,
            postal_code: Some("N1 9GU".to_owned()),
            phone: None,
            country: shared_kernel::Country::find("GB").unwrap(),
        },
        payment_method: "pm_card_visa".to_owned(),
    }
}

fn euros(amount: i64) -> Money {
    Money::new(amount, "EUR").unwrap()
}

fn sku(text: &str) -> Sku {
    Sku::parse(text).unwrap()
}

fn quantity(number: u32) -> Quantity {
    Quantity::new(number).unwrap()
}

fn order(events: impl IntoIterator<Item = OrderEvent>) -> Order {
    Order::fold(ORDER, &recorded(events)).unwrap()
}

fn placed() -> OrderEvent {
    OrderEvent::Placed(Box::new(placement()))
}

fn cart(events: impl IntoIterator<Item = OrderEvent>) -> Order {
    order(std::iter::once(OrderEvent::Drafted { user_id: USER }).chain(events))
}

fn confirmed() -> Vec<OrderEvent> {
    vec![placed(), OrderEvent::CaptureDecided {}, OrderEvent::Confirmed {}]
}

fn and(mut events: Vec<OrderEvent>, next: OrderEvent) -> Order {
    events.push(next);
    order(events)
}

#[test]
fn a_stream_begins_with_a_draft_or_a_placement() {
    assert_eq!(Order::fold(ORDER, &[]), None);
    assert_eq!(Order::fold(ORDER, &recorded([OrderEvent::Confirmed {}])), None);
    assert_eq!(order([placed()]).user_id, USER);
}

#[test]
fn a_cart_contains_the_last_quantity_that_was_set() {
    let added = cart([]).put_item(&sku("fig"), quantity(2)).unwrap().unwrap();
    assert_eq!(
        added,
        OrderEvent::ItemAdded {
            sku: sku("fig"),
            quantity: quantity(2)
        }
    );
    let holding = cart([added.clone()]);
    assert_eq!(
        holding.put_item(&sku("fig"), quantity(2)),
        Ok(None),
        "setting the same quantity changes nothing"
    );
    let changed = holding.put_item(&sku("fig"), quantity(5)).unwrap().unwrap();
    let holding = cart([added, changed]);
    assert_eq!(
        holding.cart,
        [Line {
            sku: sku("fig"),
            quantity: quantity(5)
        }]
    );
    assert_eq!(holding.remove_item(&sku("mug")), Err(Refusal::NoSuchItem));
    assert!(holding.remove_item(&sku("fig")).is_ok());
}

#[test]
fn a_cart_has_limits() {
    let full = cart((0..MAX_LINES).map(|n| OrderEvent::ItemAdded {
        sku: sku(&format!("p{n}")),
        quantity: quantity(1),
    }));
    assert_eq!(full.put_item(&sku("one-more"), quantity(1)), Err(Refusal::TooManyLines));
    assert!(full.put_item(&sku("p0"), quantity(2)).is_ok());
    let often_changed = Order {
        version: MAX_CHANGES,
        ..cart([])
    };
    assert_eq!(
        often_changed.put_item(&sku("fig"), quantity(1)),
        Err(Refusal::TooManyChanges)
    );
}

#[test]
fn a_placed_order_is_not_a_cart() {
    let placed = cart([placed()]);
    assert_eq!(placed.put_item(&sku("fig"), quantity(1)), Err(Refusal::NotACart));
    assert_eq!(placed.place(placement()), Err(Refusal::NotACart));
    assert_eq!(
        cart([]).place(Placement {
            items: vec![],
            ..placement()
        }),
        Err(Refusal::EmptyCart)
    );
}

#[test]
fn before_the_capture_a_cancel_wins_and_after_it_the_capture_does() {
    let cancel = OrderEvent::CancelRequested {
        by: Canceller::Customer,
        reason: None,
    };
    assert_eq!(
        order([placed(), cancel.clone()]).decide_capture(),
        Err(Refusal::CancelCameFirst)
    );
    let decided = order([placed(), OrderEvent::CaptureDecided {}]);
    assert_eq!(
        decided.request_cancel(Canceller::Customer, None),
        Ok(Some(cancel)),
        "it is kept"
    );
    assert!(decided.confirm().is_ok());
}

#[test]
fn a_capture_is_decided_once_and_nothing_is_confirmed_without_it() {
    let decided = order([placed(), OrderEvent::CaptureDecided {}]);
    assert!(matches!(decided.decide_capture(), Err(Refusal::OutOfOrder(..))));
    assert!(matches!(order([placed()]).confirm(), Err(Refusal::OutOfOrder(..))));
    assert!(matches!(order(confirmed()).confirm(), Err(Refusal::OutOfOrder(..))));
}

#[test]
fn a_shipped_order_cannot_be_cancelled() {
    let shipped = and(
        confirmed(),
        OrderEvent::Shipped {
            shipment_id: SHIPMENT,
            tracking_number: "T".to_owned(),
        },
    );
    assert_eq!(
        shipped.request_cancel(Canceller::Operator, None),
        Err(Refusal::AlreadyShipped)
    );
    assert!(matches!(
        shipped.cancel(CancelReason::Operator, None),
        Err(Refusal::OutOfOrder(..))
    ));
    let too_late = and(confirmed(), OrderEvent::CancelRefused {});
    assert_eq!(
        too_late.request_cancel(Canceller::Customer, None),
        Err(Refusal::AlreadyShipped)
    );
}

#[test]
fn a_cancel_requested_twice_is_one_cancel() {
    let requested = order([
        placed(),
        OrderEvent::CancelRequested {
            by: Canceller::Customer,
            reason: None,
        },
    ]);
    assert_eq!(requested.request_cancel(Canceller::Operator, None), Ok(None));
    let cancelled = order([
        placed(),
        OrderEvent::Cancelled {
            reason: CancelReason::Customer,
            refunded: None,
        },
    ]);
    assert_eq!(
        cancelled.request_cancel(Canceller::Customer, None),
        Err(Refusal::AlreadyCancelled)
    );
}

#[test]
fn a_cart_cannot_be_cancelled() {
    assert_eq!(
        cart([]).request_cancel(Canceller::Customer, None),
        Err(Refusal::NotPlaced)
    );
}

#[test]
fn a_shipment_dispatched_before_the_confirmation_was_received_is_recorded_later() {
    let pending = order([placed(), OrderEvent::CaptureDecided {}]);
    let refusal = pending.ship(SHIPMENT, "T").unwrap_err();
    assert!(
        Fault::from(refusal).is_transient(),
        "the event must be delivered again, not become a dead letter"
    );
    assert!(matches!(order(confirmed()).deliver(), Err(Refusal::NotYet(_))));
    let shipped = order(confirmed()).ship(SHIPMENT, "T").unwrap().unwrap();
    let shipped = and(confirmed(), shipped);
    assert_eq!(
        shipped.ship(SHIPMENT, "T"),
        Ok(None),
        "a repeated event changes nothing"
    );
    assert_eq!(shipped.deliver(), Ok(Some(OrderEvent::Delivered {})));
}

#[test]
fn a_stale_event_of_the_payment_changes_nothing() {
    let authorised = OrderEvent::PaymentAuthorised { payment_id: PAYMENT };
    let captured = OrderEvent::PaymentCaptured { payment_id: PAYMENT };
    assert_eq!(
        order([placed()]).unless_stale(authorised.clone()),
        Some(authorised.clone())
    );
    let known = order([placed(), authorised.clone(), captured.clone()]);
    assert_eq!(known.unless_stale(authorised), None);
    assert_eq!(known.unless_stale(captured), None);
    let refund = |amount, refunded| OrderEvent::PaymentRefunded {
        payment_id: PAYMENT,
        amount: euros(amount),
        refunded: euros(refunded),
    };
    let refunded = order([placed(), refund(100, 100)]);
    assert_eq!(refunded.unless_stale(refund(100, 100)), None);
    assert_eq!(refunded.unless_stale(refund(50, 150)), Some(refund(50, 150)));
}

#[test]
fn the_end_of_the_checkout_is_recorded_even_after_the_shipment() {
    let mut events = confirmed();
    events.push(OrderEvent::Shipped {
        shipment_id: SHIPMENT,
        tracking_number: "T".to_owned(),
    });
    let order = and(events, OrderEvent::ShipmentReady {});
    assert!(order.checkout_ended);
    assert_eq!((order.status, order.shipment.unwrap().stage), (Status::Shipped, 3));
}

/// A reaction looks at a remembered order first, and ends if there is nothing to record.
#[test]
fn what_has_nothing_to_add_to_an_order_has_nothing_to_add_later() {
    let payment_id = PAYMENT;
    let authorised = OrderEvent::PaymentAuthorised { payment_id };
    let captured = OrderEvent::PaymentCaptured { payment_id };
    let refunded = |refunded| OrderEvent::PaymentRefunded {
        payment_id,
        amount: euros(1),
        refunded: euros(refunded),
    };
    let scheduled = OrderEvent::ShipmentScheduled { shipment_id: SHIPMENT };
    let shipped = OrderEvent::Shipped {
        shipment_id: SHIPMENT,
        tracking_number: "T1".to_owned(),
    };
    let shipment_cancelled = OrderEvent::ShipmentCancelled { shipment_id: SHIPMENT };
    let voided = OrderEvent::PaymentVoided { payment_id };
    let cancelled = OrderEvent::Cancelled {
        reason: CancelReason::Customer,
        refunded: None,
    };
    let until_capture = [
        placed(),
        authorised.clone(),
        scheduled.clone(),
        OrderEvent::CaptureDecided {},
    ];
    let delivered = [
        captured.clone(),
        OrderEvent::Confirmed {},
        OrderEvent::ShipmentReady {},
        shipped.clone(),
        OrderEvent::Delivered {},
        refunded(1),
        refunded(2),
    ];
    let undone = [shipment_cancelled.clone(), voided.clone(), cancelled];
    let told = [
        authorised,
        captured,
        refunded(1),
        refunded(2),
        voided,
        scheduled,
        shipped,
        shipment_cancelled,
    ];
    for ending in [delivered.as_slice(), &undone] {
        let history: Vec<OrderEvent> = until_capture.iter().chain(ending).cloned().collect();
        let rules = |length: usize| {
            let order = order(history[..length].iter().cloned());
            let mut nothing: Vec<bool> = told
                .iter()
                .map(|event| order.unless_stale(event.clone()).is_none())
                .collect();
            nothing.extend([order.ship(SHIPMENT, "T1") == Ok(None), order.deliver() == Ok(None)]);
            nothing
        };
        for (length, event) in history.iter().enumerate().skip(1) {
            let (before, after) = (rules(length), rules(length + 1));
            assert!(
                before.iter().zip(&after).all(|(before, after)| !before || *after),
                "{event:?}: {before:?}, then {after:?}"
            );
        }
    }
}
