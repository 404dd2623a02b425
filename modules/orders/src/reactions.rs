//! The events of payments and shipments that orders consumes: it records what they mean for the order.
//!
//! The checkout learns much of it from the responses to its own commands. The first to arrive is recorded, and the other changes nothing.

use banyan_core::{Event, Fault, parse_id};
use banyan_durable::{Db, Incoming, Reactions, Tx};
use futures::future::BoxFuture;
use payments_contract::{PaymentAuthorised, PaymentCaptured, PaymentDeclined, PaymentRefunded, PaymentVoided};
use shipping_contract::{ShipmentCancelled, ShipmentDelivered, ShipmentDispatched, ShipmentScheduled};

use crate::{event::OrderEvent, memory::Memory, order::Order, publish::store_and_publish, store};

const SHIPMENTS: &str = "shipping.shipment";
const PAYMENTS: &str = "payments.payment";

/// What an event of another module means for the order. A rule that has nothing to record will have nothing to record later either: see
/// [`record`].
type Rule<E> = fn(&E, &Order) -> Result<Option<OrderEvent>, Fault>;

pub fn reactions(db: Db, memory: &Memory) -> Reactions {
    Reactions::new(db)
        .on(
            SHIPMENTS,
            recording(memory, |event: &ShipmentScheduled| &event.order_id, scheduled),
        )
        .on(
            SHIPMENTS,
            recording(memory, |event: &ShipmentDispatched| &event.order_id, dispatched),
        )
        .on(
            SHIPMENTS,
            recording(memory, |event: &ShipmentDelivered| &event.order_id, delivered),
        )
        .on(
            SHIPMENTS,
            recording(memory, |event: &ShipmentCancelled| &event.order_id, cancelled),
        )
        .on(
            PAYMENTS,
            recording(memory, |event: &PaymentAuthorised| &event.order_id, authorised),
        )
        .on(
            PAYMENTS,
            recording(memory, |event: &PaymentDeclined| &event.order_id, declined),
        )
        .on(
            PAYMENTS,
            recording(memory, |event: &PaymentCaptured| &event.order_id, captured),
        )
        .on(
            PAYMENTS,
            recording(memory, |event: &PaymentVoided| &event.order_id, voided),
        )
        .on(
            PAYMENTS,
            recording(memory, |event: &PaymentRefunded| &event.order_id, refunded),
        )
}

fn scheduled(event: &ShipmentScheduled, order: &Order) -> Result<Option<OrderEvent>, Fault> {
    let shipment_id = parse_id("shipment_id", &event.shipment_id)?;
    Ok(order.unless_stale(OrderEvent::ShipmentScheduled { shipment_id }))
}

fn dispatched(event: &ShipmentDispatched, order: &Order) -> Result<Option<OrderEvent>, Fault> {
    let shipment_id = parse_id("shipment_id", &event.shipment_id)?;
    Ok(order.ship(shipment_id, &event.tracking_number)?)
}

fn delivered(_: &ShipmentDelivered, order: &Order) -> Result<Option<OrderEvent>, Fault> {
    Ok(order.deliver()?)
}

fn cancelled(event: &ShipmentCancelled, order: &Order) -> Result<Option<OrderEvent>, Fault> {
    let shipment_id = parse_id("shipment_id", &event.shipment_id)?;
    Ok(order.unless_stale(OrderEvent::ShipmentCancelled { shipment_id }))
}

fn authorised(event: &PaymentAuthorised, order: &Order) -> Result<Option<OrderEvent>, Fault> {
    let payment_id = parse_id("payment_id", &event.payment_id)?;
    Ok(order.unless_stale(OrderEvent::PaymentAuthorised { payment_id }))
}

fn declined(event: &PaymentDeclined, order: &Order) -> Result<Option<OrderEvent>, Fault> {
    let payment_id = parse_id("payment_id", &event.payment_id)?;
    let code = event.code.clone();
    Ok(order.unless_stale(OrderEvent::PaymentDeclined { payment_id, code }))
}

fn captured(event: &PaymentCaptured, order: &Order) -> Result<Option<OrderEvent>, Fault> {
    let payment_id = parse_id("payment_id", &event.payment_id)?;
    Ok(order.unless_stale(OrderEvent::PaymentCaptured { payment_id }))
}

fn voided(event: &PaymentVoided, order: &Order) -> Result<Option<OrderEvent>, Fault> {
    let payment_id = parse_id("payment_id", &event.payment_id)?;
    Ok(order.unless_stale(OrderEvent::PaymentVoided { payment_id }))
}

fn refunded(event: &PaymentRefunded, order: &Order) -> Result<Option<OrderEvent>, Fault> {
    let incomplete = || Fault::internal("incomplete_event", "a refund without amounts");
    Ok(order.unless_stale(OrderEvent::PaymentRefunded {
        payment_id: parse_id("payment_id", &event.payment_id)?,
        amount: event.amount.clone().ok_or_else(incomplete)?,
        refunded: event.refunded.clone().ok_or_else(incomplete)?,
    }))
}

/// The reaction to an event: records what `rule` returns.
fn recording<E: Event>(
    memory: &Memory,
    order_id: fn(&E) -> &String,
    rule: Rule<E>,
) -> impl Fn(Tx, Incoming<E>) -> BoxFuture<'static, Result<(), Fault>> + Send + Sync + 'static {
    let memory = memory.clone();
    move |tx, incoming| {
        let memory = memory.clone();
        Box::pin(async move { record(&tx, &memory, &incoming, order_id(&incoming.event), rule).await })
    }
}

/// The order may be a remembered one. What has nothing to add to it has nothing to add to a later one either; but a refusal may be out of date.
/// A missing order is a bug, which shows as a dead letter.
async fn record<E: Event>(
    tx: &Tx,
    memory: &Memory,
    incoming: &Incoming<E>,
    order_id: &str,
    rule: Rule<E>,
) -> Result<(), Fault> {
    let id = parse_id("order_id", order_id)?;
    let remembered = memory.recall(tx, id);
    let usable = remembered.filter(|stream| rule(&incoming.event, stream.order()).is_ok());
    let stream = match usable {
        Some(stream) => Some(stream),
        None => store::lock_stream(tx.conn(), id, tx.clock().now()).await?,
    };
    let mut stream = stream.ok_or_else(|| Fault::not_found("order"))?;
    if let Some(event) = rule(&incoming.event, stream.order())? {
        stream.record(event);
        store_and_publish(tx, &incoming.call("orders"), memory, &stream).await?;
    }
    Ok(())
}
