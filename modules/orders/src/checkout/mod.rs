//! The checkout saga: takes a placed order through stock, payment and shipment, or undoes all of it.
//!
//! The pure [`steps`] decide what comes next. Here their commands are sent, and what the responses mean for the order is recorded in the
//! transaction that stores the decision.

pub mod steps;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Call, Fault, parse_id};
use banyan_durable::{Db, Decision, Input, Leftovers, Progress, Saga, Tx, UndoLeftover, Undone, saga};
use inventory_contract::{CommitStock, Inventory, ReleaseStock, ReserveStock, StockLine, reservation};
use payments_contract::{AuthorisePayment, CapturePayment, Payments, VoidPayment, authorisation, capture, void};
use serde::{Deserialize, Serialize};
use shipping_contract::{
    CancelShipment, ReadyShipment, ScheduleShipment, ShipmentLine, Shipping, schedule, shipment_cancellation,
};
use uuid::Uuid;

use crate::{
    cancellation,
    event::{Address, CancelReason, Line, OrderEvent},
    leftovers::Participants,
    memory::Memory,
    publish::store_and_publish,
    store,
    stream::EventStream,
};
use steps::{Checkout, Next, Situation, Step, StepOutcome};

/// The commands of a checkout to other modules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    ReserveStock(ReserveStock),
    AuthorisePayment(AuthorisePayment),
    ScheduleShipment(ScheduleShipment),
    CapturePayment(CapturePayment),
    CommitStock(CommitStock),
    ReadyShipment(ReadyShipment),
    CancelShipment(CancelShipment),
    VoidPayment(VoidPayment),
    ReleaseStock(ReleaseStock),
}

/// What the response to a command means: for the saga, and for the order.
#[derive(Clone, Debug, Serialize)]
pub struct CommandResponse {
    #[serde(flatten)]
    outcome: StepOutcome,
    /// Recorded unless it is stale.
    #[serde(rename = "means", skip_serializing_if = "Option::is_none")]
    event: Option<OrderEvent>,
}

impl From<StepOutcome> for CommandResponse {
    fn from(outcome: StepOutcome) -> Self {
        CommandResponse { outcome, event: None }
    }
}

pub struct CheckoutSaga {
    pub memory: Memory,
    pub inventory: Arc<dyn Inventory>,
    pub payments: Arc<dyn Payments>,
    pub shipping: Arc<dyn Shipping>,
}

impl CheckoutSaga {
    fn participants(&self) -> Participants<'_> {
        Participants {
            inventory: self.inventory.as_ref(),
            payments: self.payments.as_ref(),
            shipping: self.shipping.as_ref(),
        }
    }

    /// The decision on the order as this process remembers it, if it is found out should the order have changed since: by storing an event; or, since a
    /// cancellation also signals the saga, by storing the saga. The decision on the signal itself must see what the signal is about.
    fn decide_from_memory(
        &self,
        tx: &Tx,
        saga: &Progress<Checkout>,
        response: &CommandResponse,
        is_news: bool,
    ) -> Option<Decided> {
        let remembered = self.memory.recall(tx, saga.state.order_id)?;
        let decided = decide_on(remembered, saga, response.clone()).ok()?;
        let signal_tells = is_news && saga.signal.is_none() && !saga.compensating;
        (signal_tells || !decided.stream.fresh().is_empty()).then_some(decided)
    }
}

/// A decision: the order with what it records, the state after it, and what comes next.
struct Decided {
    stream: EventStream,
    state: Checkout,
    next: Next,
}

fn decide_on(mut stream: EventStream, saga: &Progress<Checkout>, response: CommandResponse) -> Result<Decided, Fault> {
    let step = saga.step.parse().ok();
    let CommandResponse { outcome, event } = response;
    let event = event.or_else(|| event_of_undo(saga, step, &outcome, &stream));
    let event = event.and_then(|event| stream.order().unless_stale(event));
    stream.record_all(event);
    let situation = Situation {
        step,
        compensating: saga.compensating,
        cancel: stream.order().cancel_requested.map(CancelReason::from),
        deadline_passed: saga.deadline_passed,
    };
    let mut state = saga.state.clone();
    let next = state.next(&situation, outcome);
    record_decision(&mut stream, &state, &next)?;
    Ok(Decided { stream, state, next })
}

#[async_trait]
impl Saga for CheckoutSaga {
    const KIND: &'static str = "checkout";
    const VERSION: i64 = 1;
    type State = Checkout;
    type Command = Command;
    type News = CommandResponse;

    async fn send(&self, call: &Call, command: &Command) -> Result<CommandResponse, Fault> {
        match command.clone() {
            Command::ReserveStock(request) => {
                let outcome = self.inventory.reserve_stock(call, request).await?.outcome;
                Ok(match outcome {
                    Some(reservation::Outcome::Reserved(_)) => StepOutcome::Done.into(),
                    Some(reservation::Outcome::Insufficient(_)) => {
                        StepOutcome::Refused(CancelReason::OutOfStock).into()
                    }
                    Some(reservation::Outcome::Undone(_)) => undone("the reservation"),
                    None => unknown_outcome("inventory"),
                })
            }
            Command::AuthorisePayment(request) => {
                authorised(self.payments.authorise_payment(call, request).await?.outcome)
            }
            Command::ScheduleShipment(request) => match self.shipping.schedule_shipment(call, request).await?.outcome {
                Some(schedule::Outcome::Scheduled(reference)) => {
                    let shipment_id = parse_id("shipment_id", &reference.shipment_id)?;
                    Ok(CommandResponse {
                        outcome: StepOutcome::Done,
                        event: Some(OrderEvent::ShipmentScheduled { shipment_id }),
                    })
                }
                Some(schedule::Outcome::Undone(_)) => Ok(undone("the shipment")),
                None => Ok(unknown_outcome("shipping")),
            },
            Command::CapturePayment(request) => captured(self.payments.capture_payment(call, request).await?.outcome),
            Command::CommitStock(request) => self
                .inventory
                .commit_stock(call, request)
                .await
                .map(|_| StepOutcome::Done.into()),
            Command::ReadyShipment(request) => self
                .shipping
                .ready_shipment(call, request)
                .await
                .map(|_| StepOutcome::Done.into()),
            Command::CancelShipment(request) => {
                Ok(match self.shipping.cancel_shipment(call, request).await?.outcome {
                    Some(shipment_cancellation::Outcome::Cancelled(_)) => StepOutcome::Done.into(),
                    // Only the last step of a checkout makes a shipment ready for dispatch.
                    Some(shipment_cancellation::Outcome::AlreadyDispatched(_)) => {
                        StepOutcome::Broken("the shipment was dispatched before the order was confirmed".to_owned())
                            .into()
                    }
                    None => unknown_outcome("shipping"),
                })
            }
            Command::VoidPayment(request) => Ok(match self.payments.void_payment(call, request).await?.outcome {
                Some(void::Outcome::Voided(_)) => StepOutcome::Done.into(),
                Some(void::Outcome::InProgress(progress)) => in_progress(progress.retry_after_ms),
                None => unknown_outcome("payments"),
            }),
            Command::ReleaseStock(request) => self
                .inventory
                .release_stock(call, request)
                .await
                .map(|_| StepOutcome::Done.into()),
        }
    }

    fn begin(id: Uuid, checkout: &mut Checkout) -> Option<(&'static str, Command)> {
        let begins = Situation {
            step: None,
            compensating: false,
            cancel: None,
            deadline_passed: false,
        };
        match checkout.next(&begins, StepOutcome::Done) {
            Next::Do(step) => Some((step.into_str(), command(id, checkout, step))),
            _ => None,
        }
    }

    async fn decide(
        &self,
        tx: &Tx,
        saga: &mut Progress<Checkout>,
        input: Input<CommandResponse>,
    ) -> Result<Decision<Command>, Fault> {
        let is_news = matches!(input, Input::News(_));
        let response = read(input, saga);
        let Decided { stream, state, next } = match self.decide_from_memory(tx, saga, &response, is_news) {
            Some(decided) => decided,
            None => {
                let stream = store::lock_stream(tx.conn(), saga.state.order_id, tx.clock().now()).await?;
                let missing = || Fault::internal("order_missing", format!("checkout {} has no order", saga.id));
                decide_on(stream.ok_or_else(missing)?, saga, response)?
            }
        };
        saga.state = state;
        store_and_publish(tx, &saga.call, &self.memory, &stream).await?;
        if next == Next::Complete && stream.order().cancel_requested.is_some() {
            cancellation::start(tx, &saga.call, &stream).await?;
        }
        Ok(match next {
            Next::Do(step) => Decision::Do {
                step: step.into_str(),
                command: command(saga.id, &saga.state, step),
            },
            Next::Undo(step) => match undo_command(saga.id, &saga.state, step) {
                Some(command) => Decision::Undo {
                    step: step.into_str(),
                    command,
                },
                None => Decision::Park {
                    reason: format!("{} cannot be undone", step.into_str()),
                },
            },
            Next::Repeat(after) => Decision::Repeat { after },
            Next::Continue => Decision::Continue,
            Next::Complete => Decision::Complete,
            Next::Compensated => Decision::Compensated,
            Next::Park(reason) => Decision::Park { reason },
            Next::ParkRefused(step, reason) => match undo_command(saga.id, &saga.state, step) {
                Some(command) => Decision::ParkRefused {
                    reason,
                    attempt: saga.state.refusals,
                    command,
                },
                None => Decision::Park { reason },
            },
        })
    }

    fn shown(state: &Checkout) -> serde_json::Value {
        // Without personal data: no items, no address, no payment method.
        let Checkout {
            order_id,
            user_id,
            attempted,
            reason,
            refusals,
            ..
        } = state;
        let attempted: Vec<&str> = attempted.iter().map(|step| step.into_str()).collect();
        serde_json::json!({
            "order_id": order_id,
            "user_id": user_id,
            "attempted": attempted,
            "reason": reason.map(|reason| reason.into_str()),
            "refusals": refusals,
        })
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

/// Ends the order whose saga, this one or the cancellation, an operator has abandoned: no order is left without an end.
pub(crate) async fn abandon_order(tx: &Tx, call: &Call, memory: &Memory, business_key: &str) -> Result<(), Fault> {
    let order_id = parse_id("business_key", business_key)?;
    let Some(mut stream) = store::lock_stream(tx.conn(), order_id, tx.clock().now()).await? else {
        return Ok(());
    };
    let end = stream.order().abandon();
    stream.record_all(end);
    store_and_publish(tx, call, memory, &stream).await
}

fn read(input: Input<CommandResponse>, saga: &Progress<Checkout>) -> CommandResponse {
    match input {
        Input::Started => StepOutcome::Done.into(),
        Input::News(response) => response,
        Input::Refused(fault) => {
            tracing::error!(saga = %saga.id, order = %saga.business_key, step = saga.step, %fault, "a command was finally refused");
            StepOutcome::Fault(fault.to_string()).into()
        }
        Input::Signal(_) | Input::DeadlinePassed => StepOutcome::Nudge.into(),
        Input::Compensate => StepOutcome::Compensate.into(),
    }
}

/// What the undo of a step means for the order. The other module's response does not contain the id; the order knows it.
fn event_of_undo(
    saga: &Progress<Checkout>,
    step: Option<Step>,
    outcome: &StepOutcome,
    stream: &EventStream,
) -> Option<OrderEvent> {
    if !saga.compensating || !matches!(outcome, StepOutcome::Done) {
        return None;
    }
    let order = stream.order();
    match step? {
        // A declined payment had nothing to void.
        Step::AuthorisePayment => order
            .payment
            .as_ref()
            .filter(|payment| !payment.is_declined())
            .map(|payment| OrderEvent::PaymentVoided { payment_id: payment.id }),
        Step::ScheduleShipment => order.shipment.as_ref().map(|shipment| OrderEvent::ShipmentCancelled {
            shipment_id: shipment.id,
        }),
        _ => None,
    }
}

/// Records what a decision means for the order.
fn record_decision(stream: &mut EventStream, checkout: &Checkout, next: &Next) -> Result<(), Fault> {
    match next {
        Next::Do(Step::CapturePayment) => stream.record(stream.order().decide_capture()?),
        Next::Do(Step::ReadyShipment) => stream.record(stream.order().confirm()?),
        Next::Complete => stream.record(OrderEvent::ShipmentReady {}),
        Next::Compensated => {
            let reason = checkout.reason.unwrap_or(CancelReason::Operator);
            stream.record(stream.order().cancel(reason, None)?);
        }
        _ => {}
    }
    Ok(())
}

fn authorised(outcome: Option<authorisation::Outcome>) -> Result<CommandResponse, Fault> {
    Ok(match outcome {
        Some(authorisation::Outcome::Authorised(reference)) => {
            let payment_id = parse_id("payment_id", &reference.payment_id)?;
            CommandResponse {
                outcome: StepOutcome::Done,
                event: Some(OrderEvent::PaymentAuthorised { payment_id }),
            }
        }
        Some(authorisation::Outcome::Declined(decline)) => {
            let payment_id = parse_id("payment_id", &decline.payment_id)?;
            CommandResponse {
                outcome: StepOutcome::Refused(CancelReason::PaymentDeclined),
                event: Some(OrderEvent::PaymentDeclined {
                    payment_id,
                    code: decline.code,
                }),
            }
        }
        Some(authorisation::Outcome::InProgress(progress)) => in_progress(progress.retry_after_ms),
        Some(authorisation::Outcome::Undone(_)) => undone("the payment"),
        None => unknown_outcome("payments"),
    })
}

fn captured(outcome: Option<capture::Outcome>) -> Result<CommandResponse, Fault> {
    Ok(match outcome {
        Some(capture::Outcome::Captured(reference)) => {
            let payment_id = parse_id("payment_id", &reference.payment_id)?;
            CommandResponse {
                outcome: StepOutcome::Done,
                event: Some(OrderEvent::PaymentCaptured { payment_id }),
            }
        }
        Some(capture::Outcome::Declined(_)) => StepOutcome::Refused(CancelReason::PaymentDeclined).into(),
        Some(capture::Outcome::InProgress(progress)) => in_progress(progress.retry_after_ms),
        None => unknown_outcome("payments"),
    })
}

pub(crate) fn retry_after(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn in_progress(retry_after_ms: i64) -> CommandResponse {
    StepOutcome::InProgress(retry_after(retry_after_ms)).into()
}

fn undone(what: &str) -> CommandResponse {
    StepOutcome::Broken(format!("{what} was undone outside this saga")).into()
}

/// An outcome that this build does not know, of a newer version of the module.
fn unknown_outcome(module: &str) -> CommandResponse {
    StepOutcome::Broken(format!(
        "the response of {module} has an outcome that this build does not know"
    ))
    .into()
}

fn command(saga: Uuid, checkout: &Checkout, step: Step) -> Command {
    let command_id = saga::command_id(saga, step.into_str(), false).to_string();
    let order_id = checkout.order_id.to_string();
    let user_id = checkout.user_id.to_string();
    match step {
        Step::ReserveStock => {
            let line = |line: &Line| StockLine {
                sku: line.sku.to_string(),
                quantity: line.quantity.get(),
            };
            Command::ReserveStock(ReserveStock {
                command_id,
                order_id,
                lines: checkout.lines.iter().map(line).collect(),
            })
        }
        Step::AuthorisePayment => Command::AuthorisePayment(AuthorisePayment {
            command_id,
            order_id,
            user_id,
            amount: Some(checkout.total.clone()),
            payment_method: checkout.payment_method.clone(),
        }),
        Step::ScheduleShipment => {
            let line = |line: &Line| ShipmentLine {
                sku: line.sku.to_string(),
                quantity: line.quantity.get(),
            };
            Command::ScheduleShipment(ScheduleShipment {
                command_id,
                order_id,
                user_id,
                address: Some(address_message(&checkout.address)),
                lines: checkout.lines.iter().map(line).collect(),
            })
        }
        Step::CapturePayment => Command::CapturePayment(CapturePayment { command_id, order_id }),
        Step::CommitStock => Command::CommitStock(CommitStock { command_id, order_id }),
        Step::ReadyShipment => Command::ReadyShipment(ReadyShipment { command_id, order_id }),
    }
}

/// `None` for a step that has no undo.
fn undo_command(saga: Uuid, checkout: &Checkout, step: Step) -> Option<Command> {
    let command_id = saga::attempt_id(saga, step.into_str(), true, checkout.refusals).to_string();
    let undoes = saga::command_id(saga, step.into_str(), false).to_string();
    let order_id = checkout.order_id.to_string();
    match step {
        Step::ReserveStock => Some(Command::ReleaseStock(ReleaseStock {
            command_id,
            undoes,
            order_id,
            ..ReleaseStock::default()
        })),
        Step::AuthorisePayment => Some(Command::VoidPayment(VoidPayment {
            command_id,
            undoes,
            order_id,
            ..VoidPayment::default()
        })),
        Step::ScheduleShipment => Some(Command::CancelShipment(CancelShipment {
            command_id,
            undoes,
            order_id,
            ..CancelShipment::default()
        })),
        Step::CapturePayment | Step::CommitStock | Step::ReadyShipment => None,
    }
}

fn address_message(address: &Address) -> shipping_contract::Address {
    shipping_contract::Address {
        name: address.name.clone(),
        line1: address.line1.clone(),
        line2: address.line2.clone(),
        city: address.city.clone().unwrap_or_default(),
        postal_code: address.postal_code.clone().unwrap_or_default(),
        country: address.country.to_string(),
        region: address.region.clone(),
        phone: address.phone.clone(),
    }
}
