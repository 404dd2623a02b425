//! The events about which users receive a mail.

use std::sync::Arc;

use banyan_core::{Event, Fault};
use banyan_durable::{Db, Incoming, Reactions};
use users_contract::UserRegistered;

use crate::{notification::Mail, service::Service, templates};

pub fn reactions(db: Db, service: &Arc<Service>) -> Reactions {
    let reactions = Reactions::new(db);
    let reactions = notify(reactions, service, "orders.order", templates::order_placed);
    let reactions = notify(reactions, service, "orders.order", templates::order_confirmed);
    let reactions = notify(reactions, service, "orders.order", templates::order_cancelled);
    let reactions = notify(reactions, service, "orders.order", templates::order_shipped);
    let reactions = notify(reactions, service, "orders.order", templates::order_delivered);
    let reactions = notify(reactions, service, "payments.payment", templates::payment_refunded);
    let reactions = notify(reactions, service, "users.user", templates::account_mail);
    let service = service.clone();
    reactions.on("users.user", move |tx, incoming: Incoming<UserRegistered>| {
        let service = service.clone();
        async move {
            // The mail about the verification follows, and welcomes who has chosen the address.
            if incoming.event.unverified {
                return Ok(());
            }
            service
                .queue(&tx, &incoming.envelope, templates::welcome(&incoming.event)?)
                .await
        }
    })
}

/// Queues the mail that `template` composes for each event of its type.
fn notify<E: Event>(
    reactions: Reactions,
    service: &Arc<Service>,
    topic: &'static str,
    template: fn(&E) -> Result<Mail, Fault>,
) -> Reactions {
    let service = service.clone();
    reactions.on(topic, move |tx, incoming: Incoming<E>| {
        let service = service.clone();
        async move { service.queue(&tx, &incoming.envelope, template(&incoming.event)?).await }
    })
}
