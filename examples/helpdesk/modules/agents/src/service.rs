//! What agents do: each method loads, decides by the rules and stores, in one transaction.

use std::sync::Arc;

use async_trait::async_trait;
use banyan_core::{Call, Fault, FaultKind, Ids, Page, PageRequest, parse_id};
use banyan_durable::{Command, Db, Memory, Outcome, Tx, once, undo_once};
use helpdesk_agents_contract::{
    Agents, AllAgentsBusy, AlreadyUndone, CapacityReserved, Release, ReleaseCapacity, Reservation, ReserveCapacity,
    reservation,
};
use prost::Message;
use uuid::Uuid;

use crate::{
    agent::{Agent, NewAgent, Refusal},
    store,
};

/// The kinds under which the module's commands are stored.
const RESERVE: &str = "reserve_capacity";
const RELEASE: &str = "release_capacity";
/// The code of the fault that rolls a reservation back, so that it is not remembered.
const ALL_BUSY: &str = "all_agents_busy";

#[derive(Clone)]
pub struct Service {
    db: Db,
    ids: Arc<dyn Ids>,
}

impl Service {
    pub fn new(db: Db, ids: Arc<dyn Ids>) -> Self {
        Service { db, ids }
    }

    pub fn db(&self) -> &Db {
        &self.db
    }

    pub async fn add(&self, tx: &Tx, new: NewAgent) -> Result<Agent, Fault> {
        let agent = Agent::new(self.ids.new_id(), new);
        store::insert(tx.conn(), &agent).await?;
        Ok(agent)
    }

    /// # Errors
    /// `not_found`.
    pub async fn load(&self, id: Uuid) -> Result<Agent, Fault> {
        let found = store::find(self.db.read(), id).await?;
        found.ok_or_else(|| Fault::not_found("agent"))
    }

    pub async fn list(&self, page: &PageRequest) -> Result<Page<Agent>, Fault> {
        store::list(self.db.read(), page).await
    }

    /// The ticket is closed: the agents who worked on it have a free place again.
    pub async fn finish(&self, tx: &Tx, ticket_id: Uuid) -> Result<(), Fault> {
        for agent_id in store::delete_reservations_of(tx.conn(), ticket_id).await? {
            change(tx, agent_id, Agent::finish).await?;
        }
        Ok(())
    }

    async fn reserve(&self, tx: &Tx, command_id: Uuid, ticket_id: Uuid) -> Result<CapacityReserved, Fault> {
        let freest = store::find_freest(tx.conn(), ticket_id).await?;
        let agent = freest.ok_or_else(|| Fault::new(FaultKind::Conflict, ALL_BUSY, "Every agent is busy."))?;
        change(tx, agent.id, Agent::reserve).await?;
        store::insert_reservation(tx.conn(), command_id, ticket_id, agent.id).await?;
        Ok(CapacityReserved {
            agent_id: agent.id.to_string(),
        })
    }

    async fn release(&self, tx: &Tx, reservation: Uuid) -> Result<Release, Fault> {
        let agent_id = store::delete_reservation(tx.conn(), reservation).await?;
        if let Some(agent_id) = agent_id {
            change(tx, agent_id, Agent::release).await?;
        }
        Ok(Release {
            released: agent_id.is_some(),
        })
    }
}

#[async_trait]
impl Agents for Service {
    async fn reserve_capacity(&self, _: &Call, request: ReserveCapacity) -> Result<Reservation, Fault> {
        let command_id = parse_id("command_id", &request.command_id)?;
        let ticket_id = parse_id("ticket_id", &request.ticket_id)?;
        let command = Command::new(RESERVE, command_id.to_string(), &request.encode_to_vec());
        let memory = once(&self.db, command, self.clone(), move |tx, service| async move {
            service.reserve(&tx, command_id, ticket_id).await.map(Outcome::Done)
        });
        let outcome = match memory.await {
            Ok(Memory::First(reserved) | Memory::Again(reserved)) => reservation::Outcome::Reserved(reserved),
            Ok(Memory::Undone) => reservation::Outcome::Undone(AlreadyUndone {}),
            Err(fault) if fault.code == ALL_BUSY => reservation::Outcome::AllBusy(AllAgentsBusy {}),
            Err(fault) => return Err(fault),
        };
        Ok(Reservation { outcome: Some(outcome) })
    }

    async fn release_capacity(&self, _: &Call, request: ReleaseCapacity) -> Result<Release, Fault> {
        let command_id = parse_id("command_id", &request.command_id)?;
        let reservation = parse_id("undoes", &request.undoes)?;
        let command = Command::new(RELEASE, command_id.to_string(), &request.encode_to_vec());
        let undoes = (RESERVE, reservation.to_string());
        // A reservation that had no effect left no row, so it makes no difference whether it arrived.
        undo_once(
            &self.db,
            command,
            undoes,
            self.clone(),
            move |tx, service, _| async move { service.release(&tx, reservation).await },
        )
        .await
    }
}

/// Loads an agent, and stores the change that the rule `apply` makes.
async fn change(tx: &Tx, id: Uuid, apply: fn(&Agent) -> Result<Agent, Refusal>) -> Result<(), Fault> {
    let agent = store::find(tx.conn(), id).await?;
    let agent = agent.ok_or_else(|| Fault::internal("agent_missing", format!("there is no agent {id}")))?;
    let changed = apply(&agent).map_err(|refusal| Fault::internal("broken_agent", format!("{id}: {refusal}")))?;
    store::update(tx.conn(), &changed).await
}
