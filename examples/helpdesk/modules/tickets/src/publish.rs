//! What other modules learn of a ticket: each change is published in the transaction that stores it.

use banyan_core::{Call, Fault};
use banyan_durable::{Tx, outbox};
use helpdesk_tickets_contract::{TicketAssigned, TicketClosed, TicketOpened};

use crate::{
    store,
    ticket::{Status, Ticket},
};

/// Stores a change of a ticket, and publishes it.
pub async fn store_and_publish(tx: &Tx, call: &Call, next: &Ticket) -> Result<(), Fault> {
    store::update(tx.conn(), next).await?;
    publish(tx, call, next).await
}

/// Publishes the event of the status that the ticket entered.
pub async fn publish(tx: &Tx, call: &Call, ticket: &Ticket) -> Result<(), Fault> {
    let subject = format!("ticket/{}", ticket.id);
    let ticket_id = ticket.id.to_string();
    let agent_ids = ticket.agent_ids.iter().map(ToString::to_string).collect();
    match ticket.status {
        Status::Open => {
            let severity = ticket.severity.into_str().to_owned();
            outbox::append(tx, call, &subject, &TicketOpened { ticket_id, severity }).await?;
        }
        Status::Assigned => {
            outbox::append(tx, call, &subject, &TicketAssigned { ticket_id, agent_ids }).await?;
        }
        Status::Closed => {
            outbox::append(tx, call, &subject, &TicketClosed { ticket_id, agent_ids }).await?;
        }
    }
    Ok(())
}
