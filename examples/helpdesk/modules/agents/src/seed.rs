//! The demo agents.

use std::sync::Arc;

use banyan_core::Fault;
use banyan_durable::{Command, Outcome, once};

use crate::{agent::NewAgent, service::Service};

/// Names and capacities.
const AGENTS: [(&str, i64); 2] = [("Ada", 3), ("Grace", 1)];

/// Adds the demo agents, exactly once: later changes are kept.
pub async fn add_demo_agents(service: &Arc<Service>) -> Result<(), Fault> {
    let command = Command::new("seed", "helpdesk:agents", b"");
    once(service.db(), command, service.clone(), |tx, service| async move {
        for (name, capacity) in AGENTS {
            let new = NewAgent {
                name: name.to_owned(),
                capacity,
            };
            service.add(&tx, new).await?;
        }
        Ok(Outcome::Done(()))
    })
    .await?;
    Ok(())
}
