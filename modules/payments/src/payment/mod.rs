//! The rules of a payment. Pure: every rule about money in this module stands here.
//!
//! A command (authorise, capture, void, refund) moves the payment to a state in which the outcome is unknown; the provider's response to it is a
//! [`PaymentUpdate`], which moves it on. An update that does not fit the state is a broken invariant, never a silent change.

use banyan_core::Timestamp;
use serde::Serialize;
use shared_kernel::Money;
use utoipa::ToSchema;
use uuid::Uuid;

/// Where a payment stands.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    ToSchema,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(const_into_str, serialize_all = "snake_case")]
#[schema(as = PaymentStatus)]
pub enum Status {
    Created,
    Authorising,
    Authorised,
    Capturing,
    Captured,
    PartiallyRefunded,
    Refunded,
    Declined,
    Voiding,
    Voided,
}

/// The payment of one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    pub id: Uuid,
    pub order_id: Uuid,
    pub user_id: Uuid,
    pub status: Status,
    /// What the order costs; the amounts below are in its currency.
    pub amount: Money,
    pub authorised: i64,
    pub captured: i64,
    pub refunded: i64,
    /// Reserved by refunds whose outcome is not known yet, so that two refunds together never exceed what was captured.
    pub refunding: i64,
    pub method: String,
    /// The provider's name for the authorisation.
    pub authorisation: Option<String>,
    pub decline_code: Option<String>,
    /// A void waits for the outcome of the command under way.
    pub void_requested: bool,
    pub created_at: Timestamp,
    /// Raised by the store with every change.
    pub version: i64,
}

/// What the provider's response to a command means for the payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PaymentUpdate {
    Authorised { authorisation: String },
    AuthorisationDeclined { code: String },
    Captured,
    CaptureDeclined,
    Voided,
    VoidDeclined,
    Refunded { amount: i64 },
    RefundDeclined { amount: i64 },
}

/// A payment after an update, and what the update means for voids that wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub payment: Payment,
    pub voids: Voids,
}

/// What becomes of the voids of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voids {
    Untouched,
    /// The requested void must be sent to the provider now.
    Start,
    /// Nothing is blocked any more: every void has succeeded.
    Done,
    /// They can no longer be granted.
    Refused(&'static str),
}

/// The update does not fit the payment's state: nothing may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnexpectedUpdate;

/// Why a command does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another command's outcome must be known first: repeat the command later.
    NotYet,
    /// It will never be done.
    Declined { code: &'static str, detail: &'static str },
    /// The current state does not allow it.
    Conflict { code: &'static str, detail: &'static str },
}

/// What a void finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VoidStep {
    /// The provider must be called.
    Start(Payment),
    /// The outcome of another command must be known first; the payment records that a void waits.
    Wait(Payment),
    /// Nothing is blocked.
    Nothing,
    Refused(Refusal),
}

impl Payment {
    /// The payment of an order, on its way to the provider.
    pub fn authorise(id: Uuid, order_id: Uuid, user_id: Uuid, amount: Money, method: String, now: Timestamp) -> Self {
        Payment {
            id,
            order_id,
            user_id,
            status: Status::Authorising,
            amount,
            authorised: 0,
            captured: 0,
            refunded: 0,
            refunding: 0,
            method,
            authorisation: None,
            decline_code: None,
            void_requested: false,
            created_at: now,
            version: 1,
        }
    }

    /// Starts taking the whole authorised amount.
    pub fn capture(&self) -> Result<Payment, Refusal> {
        let voided = Refusal::Declined {
            code: "payment_voided",
            detail: "The authorisation was given up.",
        };
        match self.status {
            _ if self.void_requested => Err(voided),
            Status::Authorised => Ok(Payment {
                status: Status::Capturing,
                ..self.clone()
            }),
            Status::Created | Status::Authorising => Err(Refusal::NotYet),
            Status::Voiding | Status::Voided => Err(voided),
            Status::Declined => Err(Refusal::Declined {
                code: "payment_declined",
                detail: "The payment was declined.",
            }),
            Status::Capturing => Err(Refusal::Conflict {
                code: "capture_in_progress",
                detail: "Another command is capturing this payment.",
            }),
            Status::Captured | Status::PartiallyRefunded | Status::Refunded => Err(Refusal::Conflict {
                code: "already_captured",
                detail: "Another command has captured this payment.",
            }),
        }
    }

    /// Starts voiding the authorisation, or records that a void is requested.
    pub fn void(&self) -> VoidStep {
        match self.status {
            Status::Authorised => VoidStep::Start(Payment {
                status: Status::Voiding,
                ..self.clone()
            }),
            Status::Created | Status::Authorising | Status::Capturing => VoidStep::Wait(Payment {
                void_requested: true,
                ..self.clone()
            }),
            Status::Voiding => VoidStep::Wait(self.clone()),
            Status::Declined | Status::Voided => VoidStep::Nothing,
            Status::Captured | Status::PartiallyRefunded | Status::Refunded => VoidStep::Refused(ALREADY_CAPTURED),
        }
    }

    /// Reserves `wanted`, or all that is left, for a refund; returns how much.
    pub fn refund(&self, wanted: Option<i64>) -> Result<(Payment, i64), Refusal> {
        if !self.was_captured() {
            return Err(NOT_CAPTURED);
        }
        let left = self.captured - self.refunded - self.refunding;
        let amount = wanted.unwrap_or(left);
        if amount > left {
            return Err(Refusal::Conflict {
                code: "exceeds_captured",
                detail: "All refunds together may not exceed what was captured.",
            });
        }
        if amount <= 0 {
            return Err(Refusal::Conflict {
                code: "nothing_to_refund",
                detail: "Everything captured has been given back.",
            });
        }
        Ok((
            Payment {
                refunding: self.refunding + amount,
                ..self.clone()
            },
            amount,
        ))
    }

    /// Reserves what was captured and not refunded; zero if nothing is left. A refund under way must complete first: if it is declined, its amount
    /// remains as well.
    pub fn refund_remaining(&self) -> Result<(Payment, i64), Refusal> {
        match self.status {
            Status::Declined | Status::Voided => Ok((self.clone(), 0)),
            Status::Capturing => Err(Refusal::NotYet),
            _ if !self.was_captured() => Err(NOT_CAPTURED),
            _ if self.refunding > 0 => Err(Refusal::NotYet),
            _ => {
                let left = self.captured - self.refunded;
                Ok((
                    Payment {
                        refunding: left,
                        ..self.clone()
                    },
                    left,
                ))
            }
        }
    }

    /// Applies what the provider said.
    ///
    /// # Errors
    /// [`UnexpectedUpdate`]: no command of this payment can bring such an update now.
    pub fn apply(&self, update: &PaymentUpdate) -> Result<Applied, UnexpectedUpdate> {
        let mut payment = self.clone();
        let voids = match (self.status, update) {
            (Status::Authorising, PaymentUpdate::Authorised { authorisation }) => {
                payment.authorised = self.amount.amount;
                payment.authorisation = Some(authorisation.clone());
                payment.become_authorised()
            }
            (Status::Authorising, PaymentUpdate::AuthorisationDeclined { code }) => {
                payment.status = Status::Declined;
                payment.decline_code = Some(code.clone());
                payment.void_requested = false;
                Voids::Done
            }
            (Status::Capturing, PaymentUpdate::Captured) => {
                payment.status = Status::Captured;
                payment.captured = self.authorised;
                payment.void_requested = false;
                if self.void_requested {
                    Voids::Refused("already_captured")
                } else {
                    Voids::Untouched
                }
            }
            (Status::Capturing, PaymentUpdate::CaptureDeclined) => payment.become_authorised(),
            (Status::Voiding, PaymentUpdate::Voided) => {
                payment.status = Status::Voided;
                Voids::Done
            }
            (Status::Voiding, PaymentUpdate::VoidDeclined) => {
                payment.status = Status::Authorised;
                Voids::Refused("void_declined")
            }
            (Status::Captured | Status::PartiallyRefunded, PaymentUpdate::Refunded { amount })
                if *amount <= self.refunding =>
            {
                payment.refunding -= amount;
                payment.refunded += amount;
                payment.status = if payment.refunded == self.captured {
                    Status::Refunded
                } else {
                    Status::PartiallyRefunded
                };
                Voids::Untouched
            }
            (Status::Captured | Status::PartiallyRefunded, PaymentUpdate::RefundDeclined { amount })
                if *amount <= self.refunding =>
            {
                payment.refunding -= amount;
                Voids::Untouched
            }
            _ => return Err(UnexpectedUpdate),
        };
        Ok(Applied { payment, voids })
    }

    fn become_authorised(&mut self) -> Voids {
        let void = std::mem::take(&mut self.void_requested);
        self.status = if void { Status::Voiding } else { Status::Authorised };
        if void { Voids::Start } else { Voids::Untouched }
    }

    fn was_captured(&self) -> bool {
        matches!(
            self.status,
            Status::Captured | Status::PartiallyRefunded | Status::Refunded
        )
    }
}

pub const ALREADY_CAPTURED: Refusal = Refusal::Conflict {
    code: "already_captured",
    detail: "The money was taken already: refund it instead.",
};
const NOT_CAPTURED: Refusal = Refusal::Conflict {
    code: "not_captured",
    detail: "No money was taken, so none can be given back.",
};

#[cfg(test)]
mod tests;
