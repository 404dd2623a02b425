//! What orders does on hearing of payments and shipments: it records what they mean for the order.
//!
//! The checkout learns much of it from its own answers; whoever is first records it, and the other changes nothing.

use banyan_core::{Call, Event, Fault, parse_id};
use banyan_durable::{Db, Incoming, Reactions, Tx};
use payments_contract::{PaymentAuthorised, PaymentCaptured, PaymentDeclined, PaymentRefunded, PaymentVoided};
use shipping_contract::{ShipmentCancelled, ShipmentDelivered, ShipmentDispatched, ShipmentScheduled};
use uuid::Uuid;

use crate::{
    announce::store_and_announce,
    event::OrderEvent,
    order::{Order, Refusal},
    store,
};

const SHIPMENTS: &str = "shipping.shipment";
const PAYMENTS: &str = "payments.payment";

pub fn reactions(db: Db) -> Reactions {
    Reactions::new(db)
        .on(SHIPMENTS, |tx, incoming: Incoming<ShipmentScheduled>| async move {
            let shipment_id = parse_id("shipment_id", &incoming.event.shipment_id)?;
            let news = OrderEvent::ShipmentScheduled { shipment_id };
            record(&tx, &call(&incoming), &incoming.event.order_id, |order| {
                Ok(order.hear(news))
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
            let news = OrderEvent::ShipmentCancelled { shipment_id };
            record(&tx, &call(&incoming), &incoming.event.order_id, |order| {
                Ok(order.hear(news))
            })
            .await
        })
        .on(PAYMENTS, |tx, incoming: Incoming<PaymentAuthorised>| async move {
            let news = OrderEvent::PaymentAuthorised {
                payment_id: payment_id(&incoming.event.payment_id)?,
            };
            record(&tx, &call(&incoming), &incoming.event.order_id, |order| {
                Ok(order.hear(news))
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
            let news = OrderEvent::PaymentDeclined {
                payment_id: payment_id(id)?,
                code: code.clone(),
            };
            record(&tx, &call(&incoming), order_id, |order| Ok(order.hear(news))).await
        })
        .on(PAYMENTS, |tx, incoming: Incoming<PaymentCaptured>| async move {
            let news = OrderEvent::PaymentCaptured {
                payment_id: payment_id(&incoming.event.payment_id)?,
            };
            record(&tx, &call(&incoming), &incoming.event.order_id, |order| {
                Ok(order.hear(news))
            })
            .await
        })
        .on(PAYMENTS, |tx, incoming: Incoming<PaymentVoided>| async move {
            let news = OrderEvent::PaymentVoided {
                payment_id: payment_id(&incoming.event.payment_id)?,
            };
            record(&tx, &call(&incoming), &incoming.event.order_id, |order| {
                Ok(order.hear(news))
            })
            .await
        })
        .on(PAYMENTS, |tx, incoming: Incoming<PaymentRefunded>| async move {
            let incomplete = || Fault::internal("incomplete_event", "a refund without its amounts");
            let PaymentRefunded {
                payment_id: id,
                order_id,
                amount,
                refunded,
                ..
            } = &incoming.event;
            let news = OrderEvent::PaymentRefunded {
                payment_id: payment_id(id)?,
                amount: amount.clone().ok_or_else(incomplete)?,
                refunded: refunded.clone().ok_or_else(incomplete)?,
            };
            record(&tx, &call(&incoming), order_id, |order| Ok(order.hear(news))).await
        })
}

fn call<E: Event>(incoming: &Incoming<E>) -> Call {
    incoming.call("orders")
}

fn payment_id(text: &str) -> Result<Uuid, Fault> {
    parse_id("payment_id", text)
}

/// Records what `rule` says the news means. An order that is not there is somebody's bug, which the dead letter shows.
async fn record(
    tx: &Tx,
    call: &Call,
    order_id: &str,
    rule: impl FnOnce(&Order) -> Result<Option<OrderEvent>, Refusal>,
) -> Result<(), Fault> {
    let id = parse_id("order_id", order_id)?;
    let stream = store::find_stream(tx.conn(), id, tx.clock().now()).await?;
    let mut stream = stream.ok_or_else(|| Fault::not_found("order"))?;
    if let Some(event) = rule(stream.order())? {
        stream.record(event);
        store_and_announce(tx, call, &stream).await?;
    }
    Ok(())
}
