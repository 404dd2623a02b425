//! Stores new events of an order together with what other modules get of them: the only way into a stream.

use banyan_core::{Call, Fault};
use banyan_durable::{Tx, outbox};
use orders_contract::{OrderCancelled, OrderConfirmed, OrderDelivered, OrderItem, OrderPlaced, OrderShipped};
use uuid::Uuid;

use crate::{
    event::{Item, OrderEvent, Placement},
    memory::Memory,
    order::Refusal,
    store,
    stream::EventStream,
};

/// The subject of an order's events, and the topic that wakes those who wait for it.
pub fn subject(id: Uuid) -> String {
    format!("order/{id}")
}

/// The topic that wakes those who wait for another status of an order.
pub fn status_topic(id: Uuid) -> String {
    format!("order/{id}/status")
}

/// Stores the stream's new events, the view, and the events for other modules, in the caller's transaction.
///
/// # Errors
/// As any query; a lost race makes the transaction run again.
pub async fn store_and_publish(tx: &Tx, call: &Call, memory: &Memory, stream: &EventStream) -> Result<(), Fault> {
    store::append(tx.conn(), stream).await?;
    memory.remember(tx, stream);
    for recorded in stream.fresh() {
        publish(tx, call, stream, &recorded.event).await?;
        if changes_status(&recorded.event) {
            tx.wake(status_topic(stream.id()));
        }
    }
    if !stream.fresh().is_empty() {
        tx.wake(subject(stream.id()));
    }
    Ok(())
}

fn changes_status(event: &OrderEvent) -> bool {
    matches!(
        event,
        OrderEvent::Confirmed {} | OrderEvent::Shipped { .. } | OrderEvent::Delivered {} | OrderEvent::Cancelled { .. }
    )
}

async fn publish(tx: &Tx, call: &Call, stream: &EventStream, event: &OrderEvent) -> Result<(), Fault> {
    let order = stream.order();
    let subject = subject(order.id);
    let (order_id, user_id) = (order.id.to_string(), order.user_id.to_string());
    match event {
        OrderEvent::Placed(placement) => {
            count("placed");
            let Placement { items, total, .. } = &**placement;
            let placed = OrderPlaced {
                order_id,
                user_id,
                items: messages_of(items),
                total: Some(total.clone()),
            };
            outbox::append(tx, call, &subject, &placed).await?;
        }
        OrderEvent::Confirmed {} => {
            count("confirmed");
            let view = stream.view().ok_or(Refusal::NotPlaced)?;
            let confirmed = OrderConfirmed {
                order_id,
                user_id,
                items: messages_of(&view.items),
                total: Some(view.total.clone()),
            };
            outbox::append(tx, call, &subject, &confirmed).await?;
        }
        OrderEvent::Cancelled { reason, refunded } => {
            count(reason.into_str());
            let cancelled = OrderCancelled {
                order_id,
                user_id,
                reason: reason.to_string(),
                refunded: refunded.clone(),
            };
            outbox::append(tx, call, &subject, &cancelled).await?;
        }
        OrderEvent::Shipped { tracking_number, .. } => {
            let shipped = OrderShipped {
                order_id,
                user_id,
                tracking_number: tracking_number.clone(),
            };
            outbox::append(tx, call, &subject, &shipped).await?;
        }
        OrderEvent::Delivered {} => {
            outbox::append(tx, call, &subject, &OrderDelivered { order_id, user_id }).await?;
        }
        _ => {}
    }
    Ok(())
}

/// Counted before the commit: a transaction that runs twice counts twice, which does not matter for a rate.
fn count(outcome: &'static str) {
    metrics::counter!("banyan_orders_total", "outcome" => outcome).increment(1);
}

/// Items as messages of the contract.
pub fn messages_of(items: &[Item]) -> Vec<OrderItem> {
    let message = |item: &Item| OrderItem {
        sku: item.sku.to_string(),
        name: item.name.clone(),
        quantity: item.quantity.get(),
        unit_price: Some(item.unit_price.clone()),
    };
    items.iter().map(message).collect()
}
