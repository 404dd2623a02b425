//! What tickets do: each method loads, decides by the rules, stores and publishes, in one transaction.

use std::sync::Arc;

use async_trait::async_trait;
use banyan_core::{Call, Clock, Fault, Ids, Page, PageRequest, parse_id};
use banyan_durable::{Db, Tx};
use helpdesk_tickets_contract::{FindTicket, FoundTicket, Tickets};
use uuid::Uuid;

use crate::{
    assignment,
    publish::store_and_publish,
    store,
    ticket::{NewTicket, Status, Ticket},
};

#[derive(Clone)]
pub struct Service {
    db: Db,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

impl Service {
    pub fn new(db: Db, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Service { db, clock, ids }
    }

    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Opens a ticket; its saga looks for agents from now on.
    pub async fn open(&self, tx: &Tx, call: &Call, new: NewTicket) -> Result<Ticket, Fault> {
        let ticket = Ticket::open(self.ids.new_id(), new, self.clock.now());
        assignment::open(tx, call, &ticket).await?;
        Ok(ticket)
    }

    /// Closes a ticket. If it waits for agents, its saga releases those it has reserved.
    ///
    /// # Errors
    /// `not_found`, `already_closed`.
    pub async fn close(&self, tx: &Tx, call: &Call, id: Uuid) -> Result<Ticket, Fault> {
        assignment::signal_closed(tx, id).await?;
        let closed = store::load(tx.conn(), id).await?.close()?;
        store_and_publish(tx, call, &closed).await?;
        Ok(closed)
    }

    /// # Errors
    /// `not_found`.
    pub async fn load(&self, id: Uuid) -> Result<Ticket, Fault> {
        store::load(self.db.read(), id).await
    }

    pub async fn list(&self, status: Option<Status>, page: &PageRequest) -> Result<Page<Ticket>, Fault> {
        store::list(self.db.read(), status, page).await
    }
}

#[async_trait]
impl Tickets for Service {
    async fn find_ticket(&self, _: &Call, request: FindTicket) -> Result<FoundTicket, Fault> {
        let id = parse_id("ticket_id", &request.ticket_id)?;
        let found = store::find(self.db.read(), id).await?;
        Ok(FoundTicket {
            ticket: found.map(message_of),
        })
    }
}

fn message_of(ticket: Ticket) -> helpdesk_tickets_contract::Ticket {
    helpdesk_tickets_contract::Ticket {
        id: ticket.id.to_string(),
        subject: ticket.subject,
        status: ticket.status.into_str().to_owned(),
        agent_ids: ticket.agent_ids.iter().map(ToString::to_string).collect(),
    }
}
