//! The steps of a checkout: which follows which, and when it compensates. Pure.
//!
//! reserve stock -> authorise payment -> schedule shipment -> **capture** -> commit stock -> order confirmed -> shipment ready.
//! Before the capture is decided a cancel, the deadline or an operator wins: every step that was attempted is undone, the last one first,
//! whether its outcome is known or not. After it the checkout only goes forward, unless the capture is finally refused.

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use shared_kernel::Money;
use strum::VariantArray;
use uuid::Uuid;

use crate::event::{Address, CancelReason, Line};

/// The steps in their order.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum Step {
    ReserveStock,
    AuthorisePayment,
    ScheduleShipment,
    /// The pivot.
    CapturePayment,
    CommitStock,
    ReadyShipment,
}

impl Step {
    fn following(self) -> Option<Step> {
        Step::VARIANTS.iter().copied().find(|step| *step > self)
    }
}

/// What a checkout must know, and what it has attempted so far. Stored with the saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkout {
    pub order_id: Uuid,
    pub user_id: Uuid,
    pub lines: Vec<Line>,
    pub total: Money,
    pub address: Address,
    pub payment_method: String,
    /// The steps that may have taken effect, in order: everything that was sent and is neither undone nor known to have done nothing.
    pub attempted: Vec<Step>,
    /// Why it compensates.
    pub reason: Option<CancelReason>,
    /// How many times the undo under way was finally refused.
    #[serde(default)]
    pub refusals: u32,
}

/// The situation in which a decision is made.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// The step under way; when compensating, the one being undone.
    pub step: Option<Step>,
    pub compensating: bool,
    /// A cancel is stored with the order.
    pub cancel: Option<CancelReason>,
    pub deadline_passed: bool,
}

/// What the saga learned about the step under way. The saga's log contains it as JSON.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "snake_case")]
pub enum StepOutcome {
    /// The saga begins, or the command under way has taken effect.
    Done,
    /// It has not taken effect and never will, for this reason.
    Refused(CancelReason),
    /// The other module refused, with a fault that its contract does not name.
    Fault(String),
    /// The other module is still working on it; the command is repeated after this delay.
    InProgress(#[serde(serialize_with = "as_retry_after_ms")] Duration),
    /// The saga is woken while the outcome of the command under way is unknown: by a cancel or the deadline.
    Nudge,
    /// An operator requests compensation.
    Compensate,
    /// A response that cannot be.
    Broken(String),
}

/// How a delay is written to the log.
pub fn as_retry_after_ms<S: Serializer>(delay: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let mut object = serializer.serialize_map(Some(1))?;
    object.serialize_entry("retry_after_ms", &delay.as_millis())?;
    object.end()
}

/// The next decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Do(Step),
    Undo(Step),
    /// The same command again.
    Repeat(Duration),
    Continue,
    Complete,
    Compensated,
    Park(String),
    /// The undo of this step was finally refused: sent under a new id once an operator has fixed the cause.
    ParkRefused(Step, String),
}

impl Checkout {
    /// The next decision. Adds what it decides to attempt to `self`.
    pub fn next(&mut self, situation: &Situation, outcome: StepOutcome) -> Next {
        if situation.compensating {
            return self.next_undo(outcome);
        }
        let stop = self.stop_reason(situation);
        match (outcome, stop) {
            (StepOutcome::Broken(what), _) => Next::Park(what),
            (StepOutcome::Refused(reason), _) => self.compensate_refused(situation.step, reason),
            (StepOutcome::Fault(what), _) if self.is_past_pivot() => {
                Next::Park(format!("refused after the pivot: {what}"))
            }
            // The fault may come from an intermediary, so the step counts as attempted and is undone with the others.
            (StepOutcome::Fault(_), _) => {
                self.compensate(situation.step.map_or(CancelReason::Operator, reason_of_fault))
            }
            (StepOutcome::Compensate, _) if self.is_past_pivot() => Next::Continue,
            (StepOutcome::Compensate, _) => self.compensate(CancelReason::Operator),
            (StepOutcome::Done | StepOutcome::InProgress(_) | StepOutcome::Nudge, Some(reason)) => {
                self.compensate(reason)
            }
            (StepOutcome::InProgress(after), None) => Next::Repeat(after),
            (StepOutcome::Nudge, None) => Next::Continue,
            (StepOutcome::Done, None) => match situation.step.map_or(Some(Step::ReserveStock), Step::following) {
                Some(step) => {
                    self.attempted.push(step);
                    Next::Do(step)
                }
                None => Next::Complete,
            },
        }
    }

    /// Why to stop here, if there is a reason and it is not too late.
    fn stop_reason(&self, situation: &Situation) -> Option<CancelReason> {
        let expired = situation.deadline_passed.then_some(CancelReason::Expired);
        situation.cancel.or(expired).filter(|_| !self.is_past_pivot())
    }

    fn is_past_pivot(&self) -> bool {
        self.attempted.contains(&Step::CapturePayment)
    }

    fn compensate_refused(&mut self, step: Option<Step>, reason: CancelReason) -> Next {
        match step {
            Some(step @ (Step::ReserveStock | Step::AuthorisePayment | Step::CapturePayment)) => {
                self.attempted.retain(|attempted| *attempted != step);
                self.compensate(reason)
            }
            _ => Next::Park("a step was refused that cannot be refused".to_owned()),
        }
    }

    fn compensate(&mut self, reason: CancelReason) -> Next {
        self.reason = Some(reason);
        self.undo_last()
    }

    fn undo_last(&self) -> Next {
        self.attempted
            .last()
            .map_or(Next::Compensated, |step| Next::Undo(*step))
    }

    fn next_undo(&mut self, outcome: StepOutcome) -> Next {
        match outcome {
            StepOutcome::Done => {
                self.attempted.pop();
                self.refusals = 0;
                self.undo_last()
            }
            StepOutcome::InProgress(after) => Next::Repeat(after),
            StepOutcome::Nudge | StepOutcome::Compensate => Next::Continue,
            StepOutcome::Refused(reason) => Next::Park(format!("an undo was refused: {reason}")),
            StepOutcome::Fault(what) => {
                let reason = format!("an undo was refused: {what}");
                match self.attempted.last() {
                    Some(step) => {
                        self.refusals += 1;
                        Next::ParkRefused(*step, reason)
                    }
                    None => Next::Park(reason),
                }
            }
            StepOutcome::Broken(what) => Next::Park(what),
        }
    }
}

/// The reason the customer sees for a refusal that the contract does not name.
fn reason_of_fault(step: Step) -> CancelReason {
    match step {
        Step::ReserveStock => CancelReason::OutOfStock,
        Step::AuthorisePayment => CancelReason::PaymentDeclined,
        // The customer did nothing wrong; the log says what happened.
        _ => CancelReason::Operator,
    }
}
