//! The rules of an agent: how many tickets one can work on.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// A new agent, as a client describes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAgent {
    #[schema(min_length = 1, max_length = 80, format = "line", example = "Ada")]
    pub name: String,
    /// The maximum number of tickets at the same time.
    #[schema(minimum = 1, maximum = 100)]
    pub capacity: i64,
}

/// A person who works on tickets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Agent {
    pub id: Uuid,
    pub name: String,
    /// The maximum number of tickets at the same time.
    #[schema(minimum = 1)]
    pub capacity: i64,
    /// The number of places that are taken.
    #[schema(minimum = 0)]
    pub reserved: i64,
    /// The number of tickets this agent worked on until they were closed.
    #[schema(minimum = 0)]
    pub closed_tickets: i64,
    /// Raised by every change.
    #[schema(minimum = 1)]
    pub version: i64,
}

/// Why an agent does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the agent has no free place")]
    Busy,
    #[error("the agent has no reserved place")]
    NothingReserved,
}

impl Agent {
    pub fn new(id: Uuid, new: NewAgent) -> Self {
        Agent {
            id,
            name: new.name,
            capacity: new.capacity,
            reserved: 0,
            closed_tickets: 0,
            version: 1,
        }
    }

    /// Takes a place for a ticket.
    ///
    /// # Errors
    /// `Busy`.
    pub fn reserve(&self) -> Result<Agent, Refusal> {
        if self.reserved >= self.capacity {
            return Err(Refusal::Busy);
        }
        Ok(Agent {
            reserved: self.reserved + 1,
            ..self.changed()
        })
    }

    /// Gives a place back: its ticket was not assigned.
    ///
    /// # Errors
    /// `NothingReserved`.
    pub fn release(&self) -> Result<Agent, Refusal> {
        if self.reserved == 0 {
            return Err(Refusal::NothingReserved);
        }
        Ok(Agent {
            reserved: self.reserved - 1,
            ..self.changed()
        })
    }

    /// Gives a place back: its ticket is closed.
    ///
    /// # Errors
    /// `NothingReserved`.
    pub fn finish(&self) -> Result<Agent, Refusal> {
        Ok(Agent {
            closed_tickets: self.closed_tickets + 1,
            ..self.release()?
        })
    }

    fn changed(&self) -> Agent {
        Agent {
            version: self.version + 1,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> Agent {
        let new = NewAgent {
            name: "Ada".to_owned(),
            capacity: 2,
        };
        Agent::new(Uuid::from_u128(1), new)
    }

    #[test]
    fn an_agent_takes_as_many_tickets_as_the_capacity_allows() {
        let full = ada().reserve().unwrap().reserve().unwrap();
        assert_eq!((full.reserved, full.version), (2, 3));
        assert_eq!(full.reserve(), Err(Refusal::Busy));
    }

    #[test]
    fn a_released_place_can_be_taken_again_and_counts_as_no_closed_ticket() {
        let released = ada().reserve().unwrap().release().unwrap();
        assert_eq!((released.reserved, released.closed_tickets), (0, 0));
        assert!(released.reserve().is_ok());
    }

    #[test]
    fn a_finished_ticket_frees_its_place_and_is_counted() {
        let finished = ada().reserve().unwrap().finish().unwrap();
        assert_eq!((finished.reserved, finished.closed_tickets), (0, 1));
    }

    #[test]
    fn only_a_reserved_place_can_be_given_back() {
        assert_eq!(ada().release(), Err(Refusal::NothingReserved));
        assert_eq!(ada().finish(), Err(Refusal::NothingReserved));
    }
}
