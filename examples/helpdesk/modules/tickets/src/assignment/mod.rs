//! The assignment saga: finds the agents of an open ticket, or releases them if it was closed meanwhile.
//!
//! The pure [`steps`] decide what comes next. Here their commands are sent, and what a decision means for the ticket is stored in the transaction of
//! that decision.

pub mod steps;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Call, Fault, parse_id};
use banyan_durable::{Decision, Input, Progress, Saga, Tx, saga};
use helpdesk_agents_contract::{Agents, ReleaseCapacity, ReserveCapacity, reservation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    publish::{publish, store_and_publish},
    store,
    ticket::{Status, Ticket},
};
use steps::{Assignment, Next, Situation, Step, StepOutcome};

/// The commands of an assignment to agents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    ReserveCapacity(ReserveCapacity),
    ReleaseCapacity(ReleaseCapacity),
}

pub struct AssignmentSaga {
    pub agents: Arc<dyn Agents>,
    /// The interval at which capacity is requested while all agents are busy.
    pub busy_retry: Duration,
}

/// Opens a ticket: stores it, publishes the event, and starts its saga, in the caller's transaction.
pub async fn open(tx: &Tx, call: &Call, ticket: &Ticket) -> Result<(), Fault> {
    store::insert(tx.conn(), ticket).await?;
    publish(tx, call, ticket).await?;
    let assignment = Assignment::new(ticket.id, ticket.severity);
    saga::start::<AssignmentSaga>(tx, call, &ticket.id.to_string(), &assignment, None).await?;
    Ok(())
}

/// Wakes the saga of a ticket that is about to be closed; it may have ended. Called before the ticket is changed, as [`saga::signal`] requires.
pub async fn signal_closed(tx: &Tx, ticket_id: Uuid) -> Result<(), Fault> {
    saga::signal(tx, AssignmentSaga::KIND, &ticket_id.to_string(), "closed").await?;
    Ok(())
}

#[async_trait]
impl Saga for AssignmentSaga {
    const KIND: &'static str = "assignment";
    const VERSION: i64 = 1;
    type State = Assignment;
    type Command = Command;
    type News = StepOutcome;

    async fn send(&self, call: &Call, command: &Command) -> Result<StepOutcome, Fault> {
        match command.clone() {
            Command::ReserveCapacity(request) => {
                let outcome = self.agents.reserve_capacity(call, request).await?.outcome;
                Ok(match outcome {
                    Some(reservation::Outcome::Reserved(reserved)) => {
                        StepOutcome::Reserved(parse_id("agent_id", &reserved.agent_id)?)
                    }
                    Some(reservation::Outcome::AllBusy(_)) => StepOutcome::AllBusy,
                    Some(reservation::Outcome::Undone(_)) => {
                        StepOutcome::Unexpected("the reservation was undone outside this saga".to_owned())
                    }
                    None => StepOutcome::Unexpected("an outcome that this build does not know".to_owned()),
                })
            }
            Command::ReleaseCapacity(request) => {
                let release = self.agents.release_capacity(call, request).await?;
                Ok(StepOutcome::Released(release.released))
            }
        }
    }

    async fn decide(
        &self,
        tx: &Tx,
        saga: &mut Progress<Assignment>,
        input: Input<StepOutcome>,
    ) -> Result<Decision<Command>, Fault> {
        let ticket = store::load(tx.conn(), saga.state.ticket_id).await?;
        let situation = Situation {
            step: saga.step.parse().ok(),
            compensating: saga.compensating,
            is_closed: ticket.status == Status::Closed,
        };
        let next = saga.state.next(situation, read(input));
        Ok(match next {
            Next::Do(step) => Decision::Do {
                step: step.into_str(),
                command: reserve(saga.id, &saga.state, step),
            },
            Next::Undo(step) => Decision::Undo {
                step: step.into_str(),
                command: release(saga.id, step),
            },
            Next::Repeat => Decision::Repeat { after: self.busy_retry },
            Next::Continue => Decision::Continue,
            Next::Assign => {
                let assigned = ticket.assign(saga.state.agent_ids.clone())?;
                store_and_publish(tx, &saga.call, &assigned).await?;
                Decision::Complete
            }
            Next::Compensated => {
                close_unassigned(tx, &saga.call, &ticket).await?;
                Decision::Compensated
            }
            Next::Park(reason) => Decision::Park { reason },
        })
    }

    fn shown(state: &Assignment) -> serde_json::Value {
        serde_json::json!(state)
    }

    async fn abandon(&self, tx: &Tx, call: &Call, business_key: &str) -> Result<(), Fault> {
        let ticket_id = parse_id("business_key", business_key)?;
        let ticket = store::load(tx.conn(), ticket_id).await?;
        close_unassigned(tx, call, &ticket).await
    }
}

/// Closes the ticket of a saga that an operator ended, because nothing would ever assign it.
async fn close_unassigned(tx: &Tx, call: &Call, ticket: &Ticket) -> Result<(), Fault> {
    match ticket.close() {
        Ok(closed) => store_and_publish(tx, call, &closed).await,
        Err(_already_closed) => Ok(()),
    }
}

fn read(input: Input<StepOutcome>) -> StepOutcome {
    match input {
        Input::Started => StepOutcome::Started,
        Input::News(outcome) => outcome,
        Input::Refused(fault) => StepOutcome::Unexpected(format!("agents refused: {fault}")),
        Input::Signal(_) | Input::DeadlinePassed => StepOutcome::Nudge,
        Input::Compensate => StepOutcome::Compensate,
    }
}

fn reserve(saga: Uuid, assignment: &Assignment, step: Step) -> Command {
    Command::ReserveCapacity(ReserveCapacity {
        command_id: saga::command_id(saga, step.into_str(), false).to_string(),
        ticket_id: assignment.ticket_id.to_string(),
    })
}

fn release(saga: Uuid, step: Step) -> Command {
    Command::ReleaseCapacity(ReleaseCapacity {
        command_id: saga::command_id(saga, step.into_str(), true).to_string(),
        undoes: saga::command_id(saga, step.into_str(), false).to_string(),
    })
}
