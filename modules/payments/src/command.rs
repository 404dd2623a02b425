//! A money command: what payments was asked to do, and what came of it.
//!
//! It is remembered from before the provider is asked until for ever, so the same id gives the same outcome, whatever died in between.
//! `banyan_durable::once` cannot hold it: there the answer is part of the first transaction, here it comes later, from the provider.

use banyan_core::{Call, Fault, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shared_kernel::Money;
use uuid::Uuid;

use crate::{
    payment::{News, Payment},
    provider,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Authorise,
    Capture,
    Void,
    Refund,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Authorise, Kind::Capture, Kind::Void, Kind::Refund];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Authorise => "authorise",
            Kind::Capture => "capture",
            Kind::Void => "void",
            Kind::Refund => "refund",
        }
    }

    pub fn find(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// How far a command has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A void that waits for another command's outcome.
    Requested,
    /// The provider is being asked; the outcome is unknown until it says so.
    Started,
    Answered(Outcome),
}

/// What came of a command; stored as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Accepted,
    /// The provider said no, for good.
    Declined {
        code: String,
        detail: String,
    },
    /// Our own rules said no, and the provider was not asked.
    Refused {
        code: String,
        detail: String,
    },
    /// A tombstone: the void of this authorisation came first.
    Undone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoneyCommand {
    /// Given by whoever asked; also the provider's idempotency key and our reference there.
    pub id: Uuid,
    pub kind: Kind,
    pub fingerprint: String,
    /// Absent on a tombstone.
    pub payment_id: Option<Uuid>,
    pub order_id: Uuid,
    pub amount: Money,
    pub reason: Option<String>,
    pub state: State,
    /// The trace of whoever asked, so that events told later belong to it.
    pub trace: Option<String>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub answered_at: Option<Timestamp>,
}

/// What makes a request what it is: the same id with another fingerprint is another request, and refused.
pub fn fingerprint(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

impl MoneyCommand {
    /// What is remembered of `asked` for this payment, on its way to the provider.
    pub fn started(asked: &Asked, call: &Call, payment: &Payment, amount: i64, now: Timestamp) -> Self {
        MoneyCommand {
            id: asked.id,
            kind: asked.kind,
            fingerprint: asked.fingerprint.clone(),
            payment_id: Some(payment.id),
            order_id: payment.order_id,
            amount: payment.amount.with_amount(amount),
            reason: asked.reason.clone(),
            state: State::Started,
            trace: call.trace.as_ref().map(ToString::to_string),
            created_at: now,
            started_at: Some(now),
            answered_at: None,
        }
    }

    /// The same, waiting for another command's outcome.
    pub fn requested(self) -> Self {
        MoneyCommand {
            state: State::Requested,
            started_at: None,
            ..self
        }
    }

    /// The same, answered without the provider.
    pub fn answered(self, outcome: Outcome) -> Self {
        MoneyCommand {
            state: State::Answered(outcome),
            started_at: None,
            answered_at: Some(self.created_at),
            ..self
        }
    }

    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Answered(_))
    }

    /// Whether this is what was asked before under the id of `asked`.
    ///
    /// # Errors
    /// `command_reused`.
    pub fn must_be(&self, asked: &Asked) -> Result<(), Fault> {
        let undone = self.state == State::Answered(Outcome::Undone) && asked.kind == Kind::Authorise;
        if undone || (self.kind == asked.kind && self.fingerprint == asked.fingerprint) {
            return Ok(());
        }
        Err(Fault::invalid(
            "command_reused",
            "This command_id was used before, for a different request.",
        ))
    }

    /// What the provider's answer to this command means for its payment.
    pub fn news(&self, answer: &provider::Answer) -> News {
        use provider::Answer::{Accepted, Declined};
        let amount = self.amount.amount;
        match (self.kind, answer) {
            (Kind::Authorise, Accepted { id }) => News::Authorised {
                authorisation: id.clone(),
            },
            (Kind::Authorise, Declined { code, .. }) => News::AuthorisationDeclined { code: code.clone() },
            (Kind::Capture, Accepted { .. }) => News::Captured,
            (Kind::Capture, Declined { .. }) => News::CaptureDeclined,
            (Kind::Void, Accepted { .. }) => News::Voided,
            (Kind::Void, Declined { .. }) => News::VoidDeclined,
            (Kind::Refund, Accepted { .. }) => News::Refunded { amount },
            (Kind::Refund, Declined { .. }) => News::RefundDeclined { amount },
        }
    }
}

impl From<&provider::Answer> for Outcome {
    fn from(answer: &provider::Answer) -> Self {
        match answer {
            provider::Answer::Accepted { .. } => Outcome::Accepted,
            provider::Answer::Declined { code, detail } => Outcome::Declined {
                code: code.clone(),
                detail: detail.clone(),
            },
        }
    }
}

/// A command as it arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub id: Uuid,
    pub kind: Kind,
    pub fingerprint: String,
    pub reason: Option<String>,
}

impl Asked {
    pub fn new(id: Uuid, kind: Kind, bytes: &[u8]) -> Self {
        Asked {
            id,
            kind,
            fingerprint: fingerprint(bytes),
            reason: None,
        }
    }

    pub fn because(self, reason: &str) -> Self {
        Asked {
            reason: Some(reason.to_owned()),
            ..self
        }
    }
}
