//! The course of a checkout: which step follows which, and when it turns back. Pure.
//!
//! reserve stock -> authorise payment -> schedule shipment -> **capture** -> commit stock -> order confirmed -> shipment ready.
//! Before the capture is decided a cancel, the deadline or an operator wins: every step that was attempted is undone, the last one first,
//! its outcome known or not. After it only forward, unless the capture is refused for good.

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use shared_kernel::Money;
use uuid::Uuid;

use crate::event::{Address, CancelReason, Line};

/// The steps in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    pub const ALL: [Step; 6] = [
        Step::ReserveStock,
        Step::AuthorisePayment,
        Step::ScheduleShipment,
        Step::CapturePayment,
        Step::CommitStock,
        Step::ReadyShipment,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Step::ReserveStock => "reserve_stock",
            Step::AuthorisePayment => "authorise_payment",
            Step::ScheduleShipment => "schedule_shipment",
            Step::CapturePayment => "capture_payment",
            Step::CommitStock => "commit_stock",
            Step::ReadyShipment => "ready_shipment",
        }
    }

    pub fn find(name: &str) -> Option<Step> {
        Step::ALL.into_iter().find(|step| step.name() == name)
    }

    fn following(self) -> Option<Step> {
        Step::ALL.into_iter().find(|step| *step > self)
    }
}

/// What a checkout has to know, and what it has tried so far. Stored with the saga.
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
    /// Why it turned back.
    pub reason: Option<CancelReason>,
    /// How often the undo under way was refused for good.
    #[serde(default)]
    pub refusals: u32,
}

/// How things stand when news comes in.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The step under way; when compensating, the one being undone.
    pub step: Option<Step>,
    pub compensating: bool,
    /// A cancel is stored with the order.
    pub cancel: Option<CancelReason>,
    pub deadline_passed: bool,
}

/// What came in. As JSON it stands in the saga's log.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "snake_case")]
pub enum News {
    /// The saga begins, or the command under way has taken effect.
    Done,
    /// It has not taken effect and never will, for this reason.
    Refused(CancelReason),
    /// The other module answers that it will not, and does not say in its contract what that means.
    Fault(String),
    /// It is at work on it.
    InProgress(#[serde(serialize_with = "as_retry_after_ms")] Duration),
    /// Somebody asks for a look while the outcome of the command under way is unknown: a cancel, the deadline.
    Nudge,
    /// An operator wants it undone.
    Compensate,
    /// An answer that cannot be.
    Broken(String),
}

/// A wait as it reads in the log.
pub fn as_retry_after_ms<S: Serializer>(wait: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let mut object = serializer.serialize_map(Some(1))?;
    object.serialize_entry("retry_after_ms", &wait.as_millis())?;
    object.end()
}

/// What comes next.
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
    /// The undo of this step was refused for good: asked anew once a person has mended why.
    ParkRefused(Step, String),
}

impl Checkout {
    /// The next decision. Remembers in `self` what it decides to attempt.
    pub fn next(&mut self, moment: &Moment, news: News) -> Next {
        if moment.compensating {
            return self.next_undo(news);
        }
        let stop = self.stop_reason(moment);
        match (news, stop) {
            (News::Broken(what), _) => Next::Park(what),
            (News::Refused(reason), _) => self.turn_back_from_refusal(moment.step, reason),
            (News::Fault(what), _) if self.is_past_pivot() => {
                Next::Park(format!("refused where there is no way back: {what}"))
            }
            // A fault may come from somewhere on the way, so the step counts as attempted and is undone with the others.
            (News::Fault(_), _) => self.turn_back(moment.step.map_or(CancelReason::Operator, reason_of_fault)),
            (News::Compensate, _) if self.is_past_pivot() => Next::Continue,
            (News::Compensate, _) => self.turn_back(CancelReason::Operator),
            (News::Done | News::InProgress(_) | News::Nudge, Some(reason)) => self.turn_back(reason),
            (News::InProgress(after), None) => Next::Repeat(after),
            (News::Nudge, None) => Next::Continue,
            (News::Done, None) => match moment.step.map_or(Some(Step::ReserveStock), Step::following) {
                Some(step) => {
                    self.attempted.push(step);
                    Next::Do(step)
                }
                None => Next::Complete,
            },
        }
    }

    /// Why to stop here, if there is a reason and it is not too late.
    fn stop_reason(&self, moment: &Moment) -> Option<CancelReason> {
        let expired = moment.deadline_passed.then_some(CancelReason::Expired);
        moment.cancel.or(expired).filter(|_| !self.is_past_pivot())
    }

    fn is_past_pivot(&self) -> bool {
        self.attempted.contains(&Step::CapturePayment)
    }

    fn turn_back_from_refusal(&mut self, step: Option<Step>, reason: CancelReason) -> Next {
        match step {
            Some(step @ (Step::ReserveStock | Step::AuthorisePayment | Step::CapturePayment)) => {
                self.attempted.retain(|attempted| *attempted != step);
                self.turn_back(reason)
            }
            _ => Next::Park("a step was refused that cannot be".to_owned()),
        }
    }

    fn turn_back(&mut self, reason: CancelReason) -> Next {
        self.reason = Some(reason);
        self.undo_last()
    }

    fn undo_last(&self) -> Next {
        self.attempted
            .last()
            .map_or(Next::Compensated, |step| Next::Undo(*step))
    }

    fn next_undo(&mut self, news: News) -> Next {
        match news {
            News::Done => {
                self.attempted.pop();
                self.refusals = 0;
                self.undo_last()
            }
            News::InProgress(after) => Next::Repeat(after),
            News::Nudge | News::Compensate => Next::Continue,
            News::Refused(reason) => Next::Park(format!("an undo was refused: {}", reason.as_str())),
            News::Fault(what) => {
                let reason = format!("an undo was refused: {what}");
                match self.attempted.last() {
                    Some(step) => {
                        self.refusals += 1;
                        Next::ParkRefused(*step, reason)
                    }
                    None => Next::Park(reason),
                }
            }
            News::Broken(what) => Next::Park(what),
        }
    }
}

/// What a refusal outside the contract's words comes to for the customer.
fn reason_of_fault(step: Step) -> CancelReason {
    match step {
        Step::ReserveStock => CancelReason::OutOfStock,
        Step::AuthorisePayment => CancelReason::PaymentDeclined,
        // Nothing a customer did; the log says what.
        _ => CancelReason::Operator,
    }
}
