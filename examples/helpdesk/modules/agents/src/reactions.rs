//! The reactions to other modules' events: a closed ticket frees the places of its agents.

use std::sync::Arc;

use banyan_core::{Fault, parse_id};
use banyan_durable::{Db, Incoming, Reactions, Tx};
use helpdesk_tickets_contract::TicketClosed;

use crate::service::Service;

pub fn reactions(db: &Db, service: &Arc<Service>) -> Reactions {
    let service = service.clone();
    Reactions::new(db.clone()).on("tickets.ticket", move |tx, incoming| {
        let service = service.clone();
        async move { finish_work(&service, &tx, incoming).await }
    })
}

/// The reservations of a ticket that was never assigned belong to its saga, which releases them itself.
async fn finish_work(service: &Service, tx: &Tx, incoming: Incoming<TicketClosed>) -> Result<(), Fault> {
    if incoming.event.agent_ids.is_empty() {
        return Ok(());
    }
    let ticket_id = parse_id("ticket_id", &incoming.event.ticket_id)?;
    service.finish(tx, ticket_id).await
}
