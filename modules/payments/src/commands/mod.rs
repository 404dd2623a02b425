//! Money commands: what payments was requested to do, and what came of it.
//!
//! A command is stored before the provider is called and is never forgotten, so the same id has the same outcome, whatever crashed in between.
//! `banyan_durable::once` cannot do that: there the response is part of the first transaction, here it comes later, from the provider.
//!
//! A command passes through [`begin`] (stored as started), [`calls`] (the provider is called), and [`record`] (completed).

pub mod begin;
pub mod calls;
pub mod record;
#[cfg(test)]
pub mod tests;

use banyan_core::{Call, Fault, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shared_kernel::Money;
use uuid::Uuid;

use crate::{
    payment::{Payment, PaymentUpdate},
    provider::Response,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumString, strum::IntoStaticStr)]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum Kind {
    Authorise,
    Capture,
    Void,
    Refund,
}

/// How far a command has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandState {
    /// A void that waits for another command's outcome.
    Requested,
    /// The provider is being called; the outcome is unknown until it responds.
    Started,
    Completed(Outcome),
}

/// What came of a command; stored as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Accepted,
    /// The provider declined, finally.
    Declined {
        code: String,
        detail: String,
    },
    /// Our own rules refused, and the provider was not called.
    Refused {
        code: String,
        detail: String,
    },
    /// A tombstone: the void of this authorisation came first.
    Undone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoneyCommand {
    /// Chosen by the caller; also the provider's idempotency key and our reference there.
    pub id: Uuid,
    pub kind: Kind,
    pub fingerprint: String,
    /// Absent on a tombstone.
    pub payment_id: Option<Uuid>,
    pub order_id: Uuid,
    pub amount: Money,
    /// Who gave it, as [`Actor::label`](banyan_core::Actor::label); it is for the payment's user. Absent in commands of earlier versions, and in tombstones.
    pub actor: Option<String>,
    pub reason: Option<String>,
    pub state: CommandState,
    /// The trace of the caller, so that events published later belong to it.
    pub trace: Option<String>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
}

/// What identifies a request: the same id with another fingerprint is another request, and refused.
pub fn fingerprint(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

impl MoneyCommand {
    /// What is stored of `request` for this payment, on its way to the provider.
    pub fn started(request: &CommandRequest, call: &Call, payment: &Payment, amount: i64, now: Timestamp) -> Self {
        MoneyCommand {
            id: request.id,
            kind: request.kind,
            fingerprint: request.fingerprint.clone(),
            payment_id: Some(payment.id),
            order_id: payment.order_id,
            amount: payment.amount.with_amount(amount),
            actor: Some(call.actor.label()),
            reason: request.reason.clone(),
            state: CommandState::Started,
            trace: call.trace.as_ref().map(ToString::to_string),
            created_at: now,
            started_at: Some(now),
            completed_at: None,
        }
    }

    /// The same, waiting for another command's outcome.
    pub fn requested(self) -> Self {
        MoneyCommand {
            state: CommandState::Requested,
            started_at: None,
            ..self
        }
    }

    /// The same, completed without the provider.
    pub fn completed(self, outcome: Outcome) -> Self {
        MoneyCommand {
            state: CommandState::Completed(outcome),
            started_at: None,
            completed_at: Some(self.created_at),
            ..self
        }
    }

    pub fn is_open(&self) -> bool {
        !matches!(self.state, CommandState::Completed(_))
    }

    /// Checks that `request` is the one that this command was stored for.
    ///
    /// # Errors
    /// `command_reused`.
    pub fn check_same(&self, request: &CommandRequest) -> Result<(), Fault> {
        let undone = self.state == CommandState::Completed(Outcome::Undone) && request.kind == Kind::Authorise;
        if undone || (self.kind == request.kind && self.fingerprint == request.fingerprint) {
            return Ok(());
        }
        Err(Fault::invalid(
            "command_reused",
            "This command_id was used before, for a different request.",
        ))
    }

    /// What the provider's response to this command means for its payment.
    pub fn update(&self, response: &Response) -> PaymentUpdate {
        use Response::{Accepted, Declined};
        let amount = self.amount.amount;
        match (self.kind, response) {
            (Kind::Authorise, Accepted { id }) => PaymentUpdate::Authorised {
                authorisation: id.clone(),
            },
            (Kind::Authorise, Declined { code, .. }) => PaymentUpdate::AuthorisationDeclined { code: code.clone() },
            (Kind::Capture, Accepted { .. }) => PaymentUpdate::Captured,
            (Kind::Capture, Declined { .. }) => PaymentUpdate::CaptureDeclined,
            (Kind::Void, Accepted { .. }) => PaymentUpdate::Voided,
            (Kind::Void, Declined { .. }) => PaymentUpdate::VoidDeclined,
            (Kind::Refund, Accepted { .. }) => PaymentUpdate::Refunded { amount },
            (Kind::Refund, Declined { .. }) => PaymentUpdate::RefundDeclined { amount },
        }
    }
}

impl From<&Response> for Outcome {
    fn from(response: &Response) -> Self {
        match response {
            Response::Accepted { .. } => Outcome::Accepted,
            Response::Declined { code, detail } => Outcome::Declined {
                code: code.clone(),
                detail: detail.clone(),
            },
        }
    }
}

/// A command as it arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRequest {
    pub id: Uuid,
    pub kind: Kind,
    pub fingerprint: String,
    pub reason: Option<String>,
    /// What else an operator who requests it says.
    pub comment: Option<String>,
}

impl CommandRequest {
    pub fn new(id: Uuid, kind: Kind, bytes: &[u8]) -> Self {
        CommandRequest {
            id,
            kind,
            fingerprint: fingerprint(bytes),
            reason: None,
            comment: None,
        }
    }

    pub fn because(self, reason: &str) -> Self {
        CommandRequest {
            reason: Some(reason.to_owned()),
            ..self
        }
    }

    pub fn commented(self, comment: Option<String>) -> Self {
        CommandRequest { comment, ..self }
    }
}
