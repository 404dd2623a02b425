//! The demo ticket.

use std::sync::Arc;

use banyan_core::{Call, Fault};
use banyan_durable::{Command, Outcome, once};

use crate::{
    service::Service,
    ticket::{NewTicket, Severity},
};

/// Opens the demo ticket, exactly once. Its saga finds an agent as soon as the process runs.
pub async fn open_demo_ticket(service: &Arc<Service>) -> Result<(), Fault> {
    let command = Command::new("seed", "helpdesk:tickets", b"");
    once(service.db(), command, service.clone(), |tx, service| async move {
        let new = NewTicket {
            subject: "The coffee machine shows error 418".to_owned(),
            severity: Severity::Normal,
        };
        service.open(&tx, &Call::by_module(tx.module()), new).await?;
        Ok(Outcome::Done(()))
    })
    .await?;
    Ok(())
}
