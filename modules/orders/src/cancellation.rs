//! The cancellation saga: cancels an order whose payment was captured.
//!
//! cancel shipment -> refund what remains -> restock -> order cancelled. If the parcel was dispatched, the saga ends at once and nothing is undone.
//! It has no compensation: a command whose outcome is unknown is sent until it is known.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Call, Fault};
use banyan_durable::{Db, Decision, Input, Leftovers, Progress, Saga, Tx, UndoLeftover, Undone, saga};
use inventory_contract::{Inventory, RestockOrder};
use payments_contract::{Payments, RefundRemaining, refund};
use serde::{Deserialize, Serialize};
use shared_kernel::Money;
use shipping_contract::{CancelShipment, Shipping, shipment_cancellation};
use uuid::Uuid;

use crate::{
    checkout::{abandon_order, retry_after, steps::as_retry_after_ms},
    event::{CancelReason, OrderEvent},
    leftovers::Participants,
    memory::Memory,
    publish::store_and_publish,
    store,
    stream::EventStream,
};

/// The steps in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr, strum::VariantArray)]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum Step {
    CancelShipment,
    RefundPayment,
    RestockOrder,
}

/// What a cancellation knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancellation {
    pub order_id: Uuid,
    pub reason: CancelReason,
    /// What was refunded to the customer, once it was.
    pub refunded: Option<Money>,
    /// How many times the step under way was finally refused.
    #[serde(default)]
    pub refusals: u32,
}

/// What the saga learned about the step under way. The saga's log contains it as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[serde(tag = "outcome", content = "detail", rename_all = "snake_case")]
pub enum StepOutcome {
    Done,
    /// This amount was refunded.
    Refunded(Money),
    /// The parcel was dispatched.
    AlreadyDispatched,
    InProgress(#[serde(serialize_with = "as_retry_after_ms")] Duration),
    /// A signal, a deadline or an operator's request to compensate, which this saga cannot.
    Nudge,
    /// The other module refused, with a fault that its contract does not name.
    Refused(String),
    /// It cannot continue without an operator.
    Broken(String),
}

/// The next decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Do(Step),
    Repeat(Duration),
    Continue,
    /// Everything was undone: the order is cancelled.
    Cancelled,
    /// It was too late: the order continues.
    TooLate,
    Park(String),
    /// This step was finally refused: sent under a new id once an operator has fixed the cause.
    ParkRefused(Step, String),
}

pub fn next(step: Option<Step>, outcome: StepOutcome) -> Next {
    match (step, outcome) {
        (_, StepOutcome::Broken(what)) => Next::Park(what),
        (_, StepOutcome::InProgress(after)) => Next::Repeat(after),
        (Some(step), StepOutcome::Refused(what)) => {
            Next::ParkRefused(step, format!("{} was refused: {what}", step.into_str()))
        }
        (Some(_), StepOutcome::Nudge) => Next::Continue,
        (None, StepOutcome::Done | StepOutcome::Nudge) => Next::Do(Step::CancelShipment),
        (Some(Step::CancelShipment), StepOutcome::AlreadyDispatched) => Next::TooLate,
        (Some(Step::CancelShipment), StepOutcome::Done) => Next::Do(Step::RefundPayment),
        (Some(Step::RefundPayment), StepOutcome::Refunded(_)) => Next::Do(Step::RestockOrder),
        (Some(Step::RestockOrder), StepOutcome::Done) => Next::Cancelled,
        (step, outcome) => Next::Park(format!(
            "the outcome {} does not fit the step {}",
            <&str>::from(outcome),
            step.map_or("start", |step| step.into_str())
        )),
    }
}

/// Starts the cancellation that was requested, in the caller's transaction.
///
/// # Errors
/// As any query.
pub async fn start(tx: &Tx, call: &Call, stream: &EventStream) -> Result<(), Fault> {
    let order = stream.order();
    let by = order
        .cancel_requested
        .ok_or_else(|| Fault::internal("no_cancel", "a cancellation that was not requested"))?;
    let state = Cancellation {
        order_id: order.id,
        reason: by.into(),
        refunded: None,
        refusals: 0,
    };
    saga::start::<CancellationSaga>(tx, call, &order.id.to_string(), &state, None).await?;
    Ok(())
}

/// The commands of a cancellation to other modules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    CancelShipment(CancelShipment),
    RefundRemaining(RefundRemaining),
    RestockOrder(RestockOrder),
}

pub struct CancellationSaga {
    pub memory: Memory,
    pub inventory: Arc<dyn Inventory>,
    pub payments: Arc<dyn Payments>,
    pub shipping: Arc<dyn Shipping>,
}

impl CancellationSaga {
    fn participants(&self) -> Participants<'_> {
        Participants {
            inventory: self.inventory.as_ref(),
            payments: self.payments.as_ref(),
            shipping: self.shipping.as_ref(),
        }
    }
}

#[async_trait]
impl Saga for CancellationSaga {
    const KIND: &'static str = "cancellation";
    const VERSION: i64 = 1;
    type State = Cancellation;
    type Command = Command;
    type News = StepOutcome;

    async fn send(&self, call: &Call, command: &Command) -> Result<StepOutcome, Fault> {
        let unknown = || StepOutcome::Broken("the response has an outcome that this build does not know".to_owned());
        match command.clone() {
            Command::CancelShipment(request) => Ok(match self.shipping.cancel_shipment(call, request).await?.outcome {
                Some(shipment_cancellation::Outcome::Cancelled(_)) => StepOutcome::Done,
                Some(shipment_cancellation::Outcome::AlreadyDispatched(_)) => StepOutcome::AlreadyDispatched,
                None => unknown(),
            }),
            Command::RefundRemaining(request) => {
                Ok(match self.payments.refund_remaining(call, request).await?.outcome {
                    Some(refund::Outcome::Refunded(refunded)) => {
                        refunded.amount.map_or_else(unknown, StepOutcome::Refunded)
                    }
                    Some(refund::Outcome::InProgress(progress)) => {
                        StepOutcome::InProgress(retry_after(progress.retry_after_ms))
                    }
                    None => unknown(),
                })
            }
            Command::RestockOrder(request) => self
                .inventory
                .restock_order(call, request)
                .await
                .map(|_| StepOutcome::Done),
        }
    }

    async fn decide(
        &self,
        tx: &Tx,
        saga: &mut Progress<Cancellation>,
        input: Input<StepOutcome>,
    ) -> Result<Decision<Command>, Fault> {
        let outcome = match input {
            Input::Started => StepOutcome::Done,
            Input::News(outcome) => outcome,
            Input::Refused(fault) => StepOutcome::Refused(fault.to_string()),
            Input::Signal(_) | Input::DeadlinePassed | Input::Compensate => StepOutcome::Nudge,
        };
        let stream = store::lock_stream(tx.conn(), saga.state.order_id, tx.clock().now()).await?;
        let mut stream =
            stream.ok_or_else(|| Fault::internal("order_missing", format!("cancellation {} has no order", saga.id)))?;
        let step = saga.step.parse().ok();
        record_outcome(&mut stream, step, &outcome);
        if let StepOutcome::Refunded(amount) = &outcome {
            saga.state.refunded = Some(amount.clone());
        }
        let next = next(step, outcome);
        match next {
            Next::Do(_) => saga.state.refusals = 0,
            Next::ParkRefused(..) => saga.state.refusals += 1,
            Next::Cancelled => stream.record(stream.order().cancel(saga.state.reason, saga.state.refunded.clone())?),
            Next::TooLate => stream.record(OrderEvent::CancelRefused {}),
            _ => {}
        }
        store_and_publish(tx, &saga.call, &self.memory, &stream).await?;
        Ok(match next {
            Next::Do(step) => Decision::Do {
                step: step.into_str(),
                command: command(saga.id, &saga.state, step),
            },
            Next::Repeat(after) => Decision::Repeat { after },
            Next::Continue => Decision::Continue,
            Next::Cancelled | Next::TooLate => Decision::Complete,
            Next::Park(reason) => Decision::Park { reason },
            Next::ParkRefused(step, reason) => {
                let command = command(saga.id, &saga.state, step);
                Decision::ParkRefused {
                    reason,
                    attempt: saga.state.refusals,
                    command,
                }
            }
        })
    }

    fn shown(state: &Cancellation) -> serde_json::Value {
        serde_json::to_value(state).unwrap_or_default()
    }

    async fn abandon(&self, tx: &Tx, call: &Call, business_key: &str) -> Result<(), Fault> {
        abandon_order(tx, call, &self.memory, business_key).await
    }

    async fn leftovers(&self, call: &Call, business_key: &str) -> Leftovers {
        self.participants().list(call, business_key).await
    }

    async fn undo_leftover(&self, db: &Db, call: &Call, undo: UndoLeftover) -> Result<Undone, Fault> {
        self.participants().undo(db, call, undo).await
    }
}

/// Records what the outcome of a step means for the order, unless the other module's event was recorded before.
fn record_outcome(stream: &mut EventStream, step: Option<Step>, outcome: &StepOutcome) {
    let order = stream.order();
    let event = match (step, outcome) {
        (Some(Step::CancelShipment), StepOutcome::Done) => {
            order.shipment.as_ref().map(|shipment| OrderEvent::ShipmentCancelled {
                shipment_id: shipment.id,
            })
        }
        // After it nothing remains, so the whole total is refunded.
        (Some(Step::RefundPayment), StepOutcome::Refunded(amount)) if amount.amount > 0 => order
            .payment
            .as_ref()
            .zip(stream.view())
            .map(|(payment, view)| OrderEvent::PaymentRefunded {
                payment_id: payment.id,
                amount: amount.clone(),
                refunded: view.total.clone(),
            }),
        _ => None,
    };
    let event = event.and_then(|event| order.unless_stale(event));
    stream.record_all(event);
}

fn command(saga: Uuid, cancellation: &Cancellation, step: Step) -> Command {
    let command_id = saga::attempt_id(saga, step.into_str(), false, cancellation.refusals).to_string();
    let order_id = cancellation.order_id.to_string();
    match step {
        Step::CancelShipment => Command::CancelShipment(CancelShipment {
            command_id,
            undoes: String::new(),
            order_id,
            ..CancelShipment::default()
        }),
        Step::RefundPayment => Command::RefundRemaining(RefundRemaining {
            command_id,
            order_id,
            reason: cancellation.reason.to_string(),
            comment: None,
        }),
        Step::RestockOrder => Command::RestockOrder(RestockOrder {
            command_id,
            order_id,
            ..RestockOrder::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;

    fn euros() -> Money {
        Money::new(5, "EUR").unwrap()
    }

    #[test]
    fn the_shipment_is_cancelled_before_the_refund_and_the_restocking() {
        assert_eq!(next(None, StepOutcome::Done), Next::Do(Step::CancelShipment));
        assert_eq!(
            next(Some(Step::CancelShipment), StepOutcome::Done),
            Next::Do(Step::RefundPayment)
        );
        assert_eq!(
            next(Some(Step::RefundPayment), StepOutcome::Refunded(euros())),
            Next::Do(Step::RestockOrder)
        );
        assert_eq!(next(Some(Step::RestockOrder), StepOutcome::Done), Next::Cancelled);
    }

    #[test]
    fn a_dispatched_parcel_ends_it_with_nothing_undone() {
        assert_eq!(
            next(Some(Step::CancelShipment), StepOutcome::AlreadyDispatched),
            Next::TooLate
        );
        assert!(matches!(
            next(Some(Step::RefundPayment), StepOutcome::AlreadyDispatched),
            Next::Park(_)
        ));
    }

    #[test]
    fn an_outcome_that_does_not_fit_is_named_as_in_the_log() {
        assert_eq!(
            next(None, StepOutcome::AlreadyDispatched),
            Next::Park("the outcome already_dispatched does not fit the step start".to_owned())
        );
        let all = [
            StepOutcome::Done,
            StepOutcome::Refunded(euros()),
            StepOutcome::AlreadyDispatched,
            StepOutcome::InProgress(Duration::from_millis(7)),
            StepOutcome::Nudge,
        ];
        for outcome in all.into_iter().chain([
            StepOutcome::Broken("x".to_owned()),
            StepOutcome::Refused("x".to_owned()),
        ]) {
            let in_log = serde_json::to_value(&outcome).unwrap();
            assert_eq!(in_log["outcome"], <&str>::from(outcome));
        }
    }

    #[test]
    fn it_never_compensates_and_repeats_a_step_while_its_outcome_is_unknown() {
        for &step in Step::VARIANTS {
            assert_eq!(next(Some(step), StepOutcome::Nudge), Next::Continue);
            assert_eq!(
                next(Some(step), StepOutcome::InProgress(Duration::from_millis(7))),
                Next::Repeat(Duration::from_millis(7))
            );
            assert!(matches!(
                next(Some(step), StepOutcome::Broken("x".to_owned())),
                Next::Park(_)
            ));
            assert!(
                matches!(next(Some(step), StepOutcome::Refused("x".to_owned())), Next::ParkRefused(refused, _) if refused == step)
            );
        }
    }
}
