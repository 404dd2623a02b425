//! The rules of a ticket: which status follows which.
//!
//! `open -> assigned -> closed`; or `open -> closed`, if it is closed before agents were found.

use banyan_core::{Fault, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// The state of a ticket.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    ToSchema,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(const_into_str, serialize_all = "snake_case")]
#[schema(as = TicketStatus)]
pub enum Status {
    /// It waits for agents.
    Open,
    /// Its agents work on it.
    Assigned,
    /// Nobody works on it any more.
    Closed,
}

/// How urgent a ticket is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, strum::EnumString, strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum Severity {
    /// One agent works on it.
    Normal,
    /// An agent and a deputy work on it.
    Critical,
}

/// A new ticket, as a client describes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTicket {
    #[schema(
        min_length = 1,
        max_length = 200,
        format = "line",
        example = "The printer on floor 3 is on fire"
    )]
    pub subject: String,
    pub severity: Severity,
}

/// A problem that somebody reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Ticket {
    pub id: Uuid,
    pub subject: String,
    pub severity: Severity,
    pub status: Status,
    /// The agents who work on it, or did; of a critical one the deputy is the second.
    pub agent_ids: Vec<Uuid>,
    pub opened_at: Timestamp,
    /// Raised by every change.
    #[schema(minimum = 1)]
    pub version: i64,
}

/// Why a ticket does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("Only an open ticket can be assigned; this one is {0}.")]
    NotOpen(Status),
    #[error("The ticket is closed.")]
    AlreadyClosed,
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::NotOpen(_) => "not_open",
            Refusal::AlreadyClosed => "already_closed",
        };
        Fault::conflict(code, refusal.to_string())
    }
}

impl Ticket {
    pub fn open(id: Uuid, new: NewTicket, now: Timestamp) -> Self {
        Ticket {
            id,
            subject: new.subject,
            severity: new.severity,
            status: Status::Open,
            agent_ids: Vec::new(),
            opened_at: now,
            version: 1,
        }
    }

    /// These agents work on it from now on.
    ///
    /// # Errors
    /// `NotOpen`.
    pub fn assign(&self, agent_ids: Vec<Uuid>) -> Result<Ticket, Refusal> {
        match self.status {
            Status::Open => Ok(Ticket {
                agent_ids,
                ..self.entering(Status::Assigned)
            }),
            Status::Assigned | Status::Closed => Err(Refusal::NotOpen(self.status)),
        }
    }

    /// Nobody works on it any more, whether or not somebody did.
    ///
    /// # Errors
    /// `AlreadyClosed`.
    pub fn close(&self) -> Result<Ticket, Refusal> {
        match self.status {
            Status::Open | Status::Assigned => Ok(self.entering(Status::Closed)),
            Status::Closed => Err(Refusal::AlreadyClosed),
        }
    }

    fn entering(&self, status: Status) -> Ticket {
        Ticket {
            status,
            version: self.version + 1,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: Uuid = Uuid::from_u128(7);

    fn open() -> Ticket {
        let new = NewTicket {
            subject: "The printer is on fire".to_owned(),
            severity: Severity::Normal,
        };
        Ticket::open(Uuid::from_u128(1), new, Timestamp::from_ms(43_200_000))
    }

    #[test]
    fn a_ticket_is_opened_assigned_and_closed_and_keeps_its_agents() {
        let closed = open().assign(vec![ADA]).unwrap().close().unwrap();
        assert_eq!((closed.status, closed.version), (Status::Closed, 3));
        assert_eq!(closed.agent_ids, [ADA]);
    }

    #[test]
    fn a_ticket_that_waits_for_agents_can_be_closed() {
        let closed = open().close().unwrap();
        assert_eq!((closed.status, closed.agent_ids), (Status::Closed, vec![]));
    }

    #[test]
    fn only_an_open_ticket_can_be_assigned() {
        for ticket in [open().assign(vec![ADA]).unwrap(), open().close().unwrap()] {
            assert_eq!(ticket.assign(vec![ADA]), Err(Refusal::NotOpen(ticket.status)));
        }
    }

    #[test]
    fn a_ticket_is_closed_once() {
        assert_eq!(open().close().unwrap().close(), Err(Refusal::AlreadyClosed));
    }
}
