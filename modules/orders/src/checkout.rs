//! The checkout saga: takes a placed order through stock, payment and shipment, or undoes all of it.
//!
//! What comes next is decided by the pure [`course`]; here its commands are sent, and what the answers mean is recorded with the order, in the
//! transaction that stores the decision.

pub mod course;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Call, Fault, parse_id};
use banyan_durable::{Decision, Input, Progress, Saga, Tx, saga};
use inventory_contract::{CommitStock, Inventory, ReleaseStock, ReserveStock, StockLine, reservation};
use payments_contract::{AuthorisePayment, CapturePayment, Payments, VoidPayment, authorisation, capture, void};
use serde::{Deserialize, Serialize};
use shipping_contract::{
    CancelShipment, ReadyShipment, ScheduleShipment, ShipmentLine, Shipping, schedule, shipment_cancellation,
};
use uuid::Uuid;

use crate::{
    announce::store_and_announce,
    cancellation,
    event::{Address, CancelReason, OrderEvent},
    store,
    stream::Stream,
};
use course::{Checkout, Moment, News, Next, Step};

/// What a checkout asks of other modules.
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

/// What an answer means: for the course, and for the order.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    #[serde(flatten)]
    news: News,
    /// To be recorded if it is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    means: Option<OrderEvent>,
}

impl From<News> for Answer {
    fn from(news: News) -> Self {
        Answer { news, means: None }
    }
}

pub struct CheckoutSaga {
    pub inventory: Arc<dyn Inventory>,
    pub payments: Arc<dyn Payments>,
    pub shipping: Arc<dyn Shipping>,
}

#[async_trait]
impl Saga for CheckoutSaga {
    const KIND: &'static str = "checkout";
    const VERSION: i64 = 1;
    type State = Checkout;
    type Command = Command;
    type News = Answer;

    async fn send(&self, call: &Call, _command_id: Uuid, command: &Command) -> Result<Answer, Fault> {
        // The command's id stands in its stored bytes.
        match command.clone() {
            Command::ReserveStock(request) => {
                let outcome = self.inventory.reserve_stock(call, request).await?.outcome;
                Ok(match outcome {
                    Some(reservation::Outcome::Reserved(_)) => News::Done.into(),
                    Some(reservation::Outcome::Insufficient(_)) => News::Refused(CancelReason::OutOfStock).into(),
                    Some(reservation::Outcome::Undone(_)) => undone("the reservation"),
                    None => unknown_answer("inventory"),
                })
            }
            Command::AuthorisePayment(request) => {
                authorised(self.payments.authorise_payment(call, request).await?.outcome)
            }
            Command::ScheduleShipment(request) => match self.shipping.schedule_shipment(call, request).await?.outcome {
                Some(schedule::Outcome::Scheduled(reference)) => {
                    let shipment_id = parse_id("shipment_id", &reference.shipment_id)?;
                    Ok(Answer {
                        news: News::Done,
                        means: Some(OrderEvent::ShipmentScheduled { shipment_id }),
                    })
                }
                Some(schedule::Outcome::Undone(_)) => Ok(undone("the shipment")),
                None => Ok(unknown_answer("shipping")),
            },
            Command::CapturePayment(request) => captured(self.payments.capture_payment(call, request).await?.outcome),
            Command::CommitStock(request) => self
                .inventory
                .commit_stock(call, request)
                .await
                .map(|_| News::Done.into()),
            Command::ReadyShipment(request) => self
                .shipping
                .ready_shipment(call, request)
                .await
                .map(|_| News::Done.into()),
            Command::CancelShipment(request) => {
                Ok(match self.shipping.cancel_shipment(call, request).await?.outcome {
                    Some(shipment_cancellation::Outcome::Cancelled(_)) => News::Done.into(),
                    // Only the end of a checkout makes a shipment ready to leave.
                    Some(shipment_cancellation::Outcome::AlreadyDispatched(_)) => {
                        News::Broken("the shipment left before the order was confirmed".to_owned()).into()
                    }
                    None => unknown_answer("shipping"),
                })
            }
            Command::VoidPayment(request) => Ok(match self.payments.void_payment(call, request).await?.outcome {
                Some(void::Outcome::Voided(_)) => News::Done.into(),
                Some(void::Outcome::InProgress(wait)) => in_progress(wait.retry_after_ms),
                None => unknown_answer("payments"),
            }),
            Command::ReleaseStock(request) => self
                .inventory
                .release_stock(call, request)
                .await
                .map(|_| News::Done.into()),
        }
    }

    async fn decide(
        &self,
        tx: &Tx,
        saga: &mut Progress<Checkout>,
        input: Input<Answer>,
    ) -> Result<Decision<Command>, Fault> {
        let order_id = saga.state.order_id;
        let stream = store::find_stream(tx.conn(), order_id, tx.clock().now()).await?;
        let mut stream =
            stream.ok_or_else(|| Fault::internal("order_missing", format!("checkout {} has no order", saga.id)))?;
        let step = Step::find(&saga.step);
        let Answer { news, means } = read(input, saga);
        let news_of_order = means.or_else(|| undo_means(saga, step, &news, &stream));
        let heard = news_of_order.and_then(|event| stream.order().hear(event));
        stream.record_all(heard);
        let moment = Moment {
            step,
            compensating: saga.compensating,
            cancel: stream.order().cancel_requested.map(CancelReason::from),
            deadline_passed: saga.deadline_passed,
        };
        let next = saga.state.next(&moment, news);
        record_decision(&mut stream, &saga.state, &next)?;
        store_and_announce(tx, &saga.call, &stream).await?;
        if next == Next::Complete && stream.order().cancel_requested.is_some() {
            cancellation::start(tx, &saga.call, &stream).await?;
        }
        Ok(match next {
            Next::Do(step) => Decision::Do {
                step: step.name(),
                command: command(saga.id, &saga.state, step),
            },
            Next::Undo(step) => match undo_command(saga.id, &saga.state, step) {
                Some(command) => Decision::Undo {
                    step: step.name(),
                    command,
                },
                None => Decision::Park {
                    reason: format!("{} cannot be undone", step.name()),
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
        // Neither what was ordered nor where it goes, nor how it is paid.
        let Checkout {
            order_id,
            user_id,
            attempted,
            reason,
            refusals,
            ..
        } = state;
        let attempted: Vec<&str> = attempted.iter().map(|step| step.name()).collect();
        serde_json::json!({
            "order_id": order_id,
            "user_id": user_id,
            "attempted": attempted,
            "reason": reason.map(CancelReason::as_str),
            "refusals": refusals,
        })
    }

    async fn abandon(&self, tx: &Tx, call: &Call, business_key: &str) -> Result<(), Fault> {
        give_up(tx, call, business_key).await
    }
}

/// Records the end of the order whose saga, this one or the cancellation, was given up: no order is left without one.
pub(crate) async fn give_up(tx: &Tx, call: &Call, business_key: &str) -> Result<(), Fault> {
    let order_id = parse_id("business_key", business_key)?;
    let Some(mut stream) = store::find_stream(tx.conn(), order_id, tx.clock().now()).await? else {
        return Ok(());
    };
    let end = stream.order().give_up();
    stream.record_all(end);
    store_and_announce(tx, call, &stream).await
}

fn read(input: Input<Answer>, saga: &Progress<Checkout>) -> Answer {
    match input {
        Input::Started => News::Done.into(),
        Input::News(answer) => answer,
        Input::Refused(fault) => {
            tracing::error!(saga = %saga.id, order = %saga.business_key, step = saga.step, %fault, "a command was refused for good");
            News::Fault(fault.to_string()).into()
        }
        Input::Signal(_) | Input::DeadlinePassed => News::Nudge.into(),
        Input::Compensate => News::Compensate.into(),
    }
}

/// What the undo of a step means for the order; the other module's answer does not carry the id, the order knows it.
fn undo_means(saga: &Progress<Checkout>, step: Option<Step>, news: &News, stream: &Stream) -> Option<OrderEvent> {
    if !saga.compensating || !matches!(news, News::Done) {
        return None;
    }
    let order = stream.order();
    match step? {
        Step::AuthorisePayment => order
            .payment
            .as_ref()
            .map(|payment| OrderEvent::PaymentVoided { payment_id: payment.id }),
        Step::ScheduleShipment => order.shipment.as_ref().map(|shipment| OrderEvent::ShipmentCancelled {
            shipment_id: shipment.id,
        }),
        _ => None,
    }
}

/// What a decision makes true of the order.
fn record_decision(stream: &mut Stream, checkout: &Checkout, next: &Next) -> Result<(), Fault> {
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

fn authorised(outcome: Option<authorisation::Outcome>) -> Result<Answer, Fault> {
    Ok(match outcome {
        Some(authorisation::Outcome::Authorised(reference)) => {
            let payment_id = parse_id("payment_id", &reference.payment_id)?;
            Answer {
                news: News::Done,
                means: Some(OrderEvent::PaymentAuthorised { payment_id }),
            }
        }
        Some(authorisation::Outcome::Declined(decline)) => {
            let payment_id = parse_id("payment_id", &decline.payment_id)?;
            Answer {
                news: News::Refused(CancelReason::PaymentDeclined),
                means: Some(OrderEvent::PaymentDeclined {
                    payment_id,
                    code: decline.code,
                }),
            }
        }
        Some(authorisation::Outcome::InProgress(wait)) => in_progress(wait.retry_after_ms),
        Some(authorisation::Outcome::Undone(_)) => undone("the payment"),
        None => unknown_answer("payments"),
    })
}

fn captured(outcome: Option<capture::Outcome>) -> Result<Answer, Fault> {
    Ok(match outcome {
        Some(capture::Outcome::Captured(reference)) => {
            let payment_id = parse_id("payment_id", &reference.payment_id)?;
            Answer {
                news: News::Done,
                means: Some(OrderEvent::PaymentCaptured { payment_id }),
            }
        }
        Some(capture::Outcome::Declined(_)) => News::Refused(CancelReason::PaymentDeclined).into(),
        Some(capture::Outcome::InProgress(wait)) => in_progress(wait.retry_after_ms),
        None => unknown_answer("payments"),
    })
}

pub(crate) fn retry_after(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn in_progress(retry_after_ms: i64) -> Answer {
    News::InProgress(retry_after(retry_after_ms)).into()
}

fn undone(what: &str) -> Answer {
    News::Broken(format!("{what} was undone by somebody else")).into()
}

/// An outcome that this build does not know: a newer module's.
fn unknown_answer(module: &str) -> Answer {
    News::Broken(format!("{module} answered with an outcome that is unknown here")).into()
}

fn command(saga: Uuid, checkout: &Checkout, step: Step) -> Command {
    let command_id = saga::command_id(saga, step.name(), false).to_string();
    let order_id = checkout.order_id.to_string();
    let user_id = checkout.user_id.to_string();
    match step {
        Step::ReserveStock => {
            let line = |line: &crate::event::Line| StockLine {
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
            let line = |line: &crate::event::Line| ShipmentLine {
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
    let command_id = saga::attempt_id(saga, step.name(), true, checkout.refusals).to_string();
    let undoes = saga::command_id(saga, step.name(), false).to_string();
    let order_id = checkout.order_id.to_string();
    match step {
        Step::ReserveStock => Some(Command::ReleaseStock(ReleaseStock {
            command_id,
            undoes,
            order_id,
        })),
        Step::AuthorisePayment => Some(Command::VoidPayment(VoidPayment {
            command_id,
            undoes,
            order_id,
        })),
        Step::ScheduleShipment => Some(Command::CancelShipment(CancelShipment {
            command_id,
            undoes,
            order_id,
        })),
        Step::CapturePayment | Step::CommitStock | Step::ReadyShipment => None,
    }
}

fn address_message(address: &Address) -> shipping_contract::Address {
    shipping_contract::Address {
        name: address.name.clone(),
        line1: address.line1.clone(),
        line2: address.line2.clone(),
        city: address.city.clone(),
        postal_code: address.postal_code.clone(),
        country: address.country.to_string(),
    }
}
