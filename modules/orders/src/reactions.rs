//! The events of payments and shipments that orders consumes: it records what they mean for the order.
//!
//! The checkout learns much of it from the responses to its own commands. The first to arrive is recorded, and the other changes nothing.

use banyan_core::{Call, Event, Fault, parse_id};
use banyan_durable::{Db, Incoming, Reactions, Tx};
use payments_contract::{PaymentAuthorised, PaymentCaptured, PaymentDeclined, PaymentRefunded, PaymentVoided};
use shipping_contract::{ShipmentCancelled, ShipmentDelivered, ShipmentDispatched, ShipmentScheduled};
use uuid::Uuid;

use crate::{
    event::OrderEvent,
    order::{Order, Refusal},
    publish::store_and_publish,
    store,
};

const SHIPMENTS: &str = "shipping.shipment";
const PAYMENTS: &str = "payments.payment";

pub fn reactions(db: Db) -> Reactions {
    Reactions::new(db)
        .on(SHIPMENTS, |tx, incoming: Incoming<ShipmentScheduled>| async move {
            let shipment_id = parse_id("shipment_id", &incoming.event.shipment_id)?;
            let event = OrderEvent::ShipmentScheduled { shipment_id };
            record(&tx, &call(&incoming), &incoming.event.order_id, |order| {
                Ok(order.unless_stale(event))
            })
            .await
        })
        .on(SHIPMENTS, |tx, incoming: Incoming<ShipmentDispatched>| async move {
            let shipment_id = parse_id("shipment_id", &incoming.event.shipment_id)?;
            let number = &incoming.event.tracking_number;
            record(&tx, &call(&incoming), &incoming.event.order_id, |order| {
                order.ship(shipment_id, number)
            })
            .await
        })
        .on(SHIPMENTS, |tx, incoming: Incoming<ShipmentDelivered>| async move {
            record(&tx, &call(&incoming), &incoming.event.order_id, Order::deliver).await
        })
        .on(SHIPMENTS, |tx, incoming: Incoming<ShipmentCancelled>| async move {
            let shipment_id = parse_id("shipment_id", &incoming.event.shipment_id)?;
            let event = OrderEvent::ShipmentCancelled { shipment_id };
            record(&tx, &call(&incoming), &incoming.event.order_id, |order| {
                Ok(order.unless_stale(event))
            })
            .await
        })
        .on(PAYMENTS, |tx, incoming: Incoming<PaymentAuthorised>| async move {
            let event = OrderEvent::PaymentAuthorised {
                payment_id: payment_id(&incoming.event.payment_id)?,
            };
            record(&tx, &call(&incoming), &incoming.event.order_id, |order| {
                Ok(order.unless_stale(event))
            })
            .await
        })
        .on(PAYMENTS, |tx, incoming: Incoming<PaymentDeclined>| async move {
            let PaymentDeclined {
                payment_id: id,
                order_id,
                code,
                ..
            } = &incoming.event;
            let event = OrderEvent::PaymentDeclined {
                payment_id: payment_id(id)?,
                code: code.clone(),
            };
            record(&tx, &call(&incoming), order_id, |order| Ok(order.unless_stale(event))).await
        })
        .on(PAYMENTS, |tx, incoming: Incoming<PaymentCaptured>| async move {
            let event = OrderEvent::PaymentCaptured {
                payment_id: payment_id(&incoming.event.payment_id)?,
            };
            record(&tx, &call(&incoming), &incoming.event.order_id, |order| {
                Ok(order.unless_stale(event))
            })
            .await
        })
        .on(PAYMENTS, |tx, incoming: Incoming<PaymentVoided>| async move {
            let event = OrderEvent::PaymentVoided {
                payment_id: payment_id(&incoming.event.payment_id)?,
            };
            record(&tx, &call(&incoming), &incoming.event.order_id, |order| {
                Ok(order.unless_stale(event))
            })
            .await
        })
        .on(PAYMENTS, |tx, incoming: Incoming<PaymentRefunded>| async move {
            let incomplete = || Fault::internal("incomplete_event", "a refund without amounts");
            let PaymentRefunded {
                payment_id: id,
                order_id,
                amount,
                refunded,
                ..
            } = &incoming.event;
            let event = OrderEvent::PaymentRefunded {
                payment_id: payment_id(id)?,
                amount: amount.clone().ok_or_else(incomplete)?,
                refunded: refunded.clone().ok_or_else(incomplete)?,
            };
            record(&tx, &call(&incoming), order_id, |order| Ok(order.unless_stale(event))).await
        })
}

fn call<E: Event>(incoming: &Incoming<E>) -> Call {
    incoming.call("orders")
}

fn payment_id(text: &str) -> Result<Uuid, Fault> {
    parse_id("payment_id", text)
}

/// Records the event that `rule` returns. A missing order is a bug, which shows as a dead letter.
async fn record(
    tx: &Tx,
    call: &Call,
    order_id: &str,
    rule: impl FnOnce(&Order) -> Result<Option<OrderEvent>, Refusal>,
) -> Result<(), Fault> {
    let id = parse_id("order_id", order_id)?;
    let stream = store::lock_stream(tx.conn(), id, tx.clock().now()).await?;
    let mut stream = stream.ok_or_else(|| Fault::not_found("order"))?;
    if let Some(event) = rule(stream.order())? {
        stream.record(event);
        store_and_publish(tx, call, &stream).await?;
    }
    Ok(())
}
