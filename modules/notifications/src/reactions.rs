//! Which events are told to users.

use std::sync::Arc;

use banyan_core::{Event, Fault};
use banyan_durable::{Db, Incoming, Reactions};

use crate::{notification::Mail, service::Service, templates};

pub fn reactions(db: Db, service: &Arc<Service>) -> Reactions {
    let reactions = Reactions::new(db);
    let reactions = tell(reactions, service, "orders.order", templates::order_placed);
    let reactions = tell(reactions, service, "orders.order", templates::order_confirmed);
    let reactions = tell(reactions, service, "orders.order", templates::order_cancelled);
    let reactions = tell(reactions, service, "orders.order", templates::order_shipped);
    let reactions = tell(reactions, service, "orders.order", templates::order_delivered);
    let reactions = tell(reactions, service, "payments.payment", templates::payment_refunded);
    tell(reactions, service, "users.user", templates::welcome)
}

/// Queues the mail that `write` makes of each event of its type.
fn tell<E: Event>(
    reactions: Reactions,
    service: &Arc<Service>,
    topic: &'static str,
    write: fn(&E) -> Result<Mail, Fault>,
) -> Reactions {
    let service = service.clone();
    reactions.on(topic, move |tx, incoming: Incoming<E>| {
        let service = service.clone();
        async move { service.queue(&tx, &incoming.envelope, write(&incoming.event)?).await }
    })
}
