//! The cancellation saga: takes back an order whose money was captured.
//!
//! cancel shipment -> refund what remains -> restock -> order cancelled. A parcel that has left ends it at once with nothing undone. There is
//! no way back in it: a command whose outcome is unknown is sent until it is known.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Call, Fault};
use banyan_durable::{Decision, Input, Progress, Saga, Tx, saga};
use inventory_contract::{Inventory, RestockOrder};
use payments_contract::{Payments, RefundRemaining, refund};
use serde::{Deserialize, Serialize};
use shared_kernel::Money;
use shipping_contract::{CancelShipment, Shipping, shipment_cancellation};
use uuid::Uuid;

use crate::{
    announce::store_and_announce,
    checkout::{course::as_retry_after_ms, give_up, retry_after},
    event::{CancelReason, OrderEvent},
    store,
    stream::Stream,
};

/// The steps in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    CancelShipment,
    RefundPayment,
    RestockOrder,
}

impl Step {
    const ALL: [Step; 3] = [Step::CancelShipment, Step::RefundPayment, Step::RestockOrder];

    fn name(self) -> &'static str {
        match self {
            Step::CancelShipment => "cancel_shipment",
            Step::RefundPayment => "refund_payment",
            Step::RestockOrder => "restock_order",
        }
    }

    fn find(name: &str) -> Option<Step> {
        Step::ALL.into_iter().find(|step| step.name() == name)
    }
}

/// What a cancellation knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancellation {
    pub order_id: Uuid,
    pub reason: CancelReason,
    /// What went back to the customer, once it did.
    pub refunded: Option<Money>,
    /// How often the step under way was refused for good.
    #[serde(default)]
    pub refusals: u32,
}

/// What came in. As JSON it stands in the saga's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "snake_case")]
pub enum News {
    Done,
    /// So much went back.
    Refunded(Money),
    /// The parcel has left.
    AlreadyDispatched,
    InProgress(#[serde(serialize_with = "as_retry_after_ms")] Duration),
    /// A signal, a deadline or an operator's wish to undo: there is no way back.
    Nudge,
    /// The other module will not, and does not say in its contract what that means.
    Refused(String),
    /// It cannot go on by itself.
    Broken(String),
}

impl News {
    /// As in its JSON.
    fn outcome(&self) -> &'static str {
        match self {
            News::Done => "done",
            News::Refunded(_) => "refunded",
            News::AlreadyDispatched => "already_dispatched",
            News::InProgress(_) => "in_progress",
            News::Nudge => "nudge",
            News::Refused(_) => "refused",
            News::Broken(_) => "broken",
        }
    }
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Do(Step),
    Repeat(Duration),
    Continue,
    /// All was taken back: the order is cancelled.
    Cancelled,
    /// It was too late: the order goes on.
    TooLate,
    Park(String),
    /// This step was refused for good: asked anew once a person has mended why.
    ParkRefused(Step, String),
}

/// The next decision.
pub fn next(step: Option<Step>, news: News) -> Next {
    match (step, news) {
        (_, News::Broken(what)) => Next::Park(what),
        (_, News::InProgress(after)) => Next::Repeat(after),
        (Some(step), News::Refused(what)) => Next::ParkRefused(step, format!("{} was refused: {what}", step.name())),
        (Some(_), News::Nudge) => Next::Continue,
        (None, News::Done | News::Nudge) => Next::Do(Step::CancelShipment),
        (Some(Step::CancelShipment), News::AlreadyDispatched) => Next::TooLate,
        (Some(Step::CancelShipment), News::Done) => Next::Do(Step::RefundPayment),
        (Some(Step::RefundPayment), News::Refunded(_)) => Next::Do(Step::RestockOrder),
        (Some(Step::RestockOrder), News::Done) => Next::Cancelled,
        (step, news) => Next::Park(format!(
            "{} is no answer to {}",
            news.outcome(),
            step.map_or("the beginning", Step::name)
        )),
    }
}

/// Begins the cancellation that is stored with the order, in the caller's transaction.
///
/// # Errors
/// As any query.
pub async fn start(tx: &Tx, call: &Call, stream: &Stream) -> Result<(), Fault> {
    let order = stream.order();
    let by = order
        .cancel_requested
        .ok_or_else(|| Fault::internal("no_cancel", "a cancellation that nobody asked for"))?;
    let state = Cancellation {
        order_id: order.id,
        reason: by.into(),
        refunded: None,
        refusals: 0,
    };
    saga::start::<CancellationSaga>(tx, call, &order.id.to_string(), &state, None).await?;
    Ok(())
}

/// What a cancellation asks of other modules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    CancelShipment(CancelShipment),
    RefundRemaining(RefundRemaining),
    RestockOrder(RestockOrder),
}

pub struct CancellationSaga {
    pub inventory: Arc<dyn Inventory>,
    pub payments: Arc<dyn Payments>,
    pub shipping: Arc<dyn Shipping>,
}

#[async_trait]
impl Saga for CancellationSaga {
    const KIND: &'static str = "cancellation";
    const VERSION: i64 = 1;
    type State = Cancellation;
    type Command = Command;
    type News = News;

    async fn send(&self, call: &Call, _command_id: Uuid, command: &Command) -> Result<News, Fault> {
        let unknown = || News::Broken("an answer that is unknown here".to_owned());
        match command.clone() {
            Command::CancelShipment(request) => Ok(match self.shipping.cancel_shipment(call, request).await?.outcome {
                Some(shipment_cancellation::Outcome::Cancelled(_)) => News::Done,
                Some(shipment_cancellation::Outcome::AlreadyDispatched(_)) => News::AlreadyDispatched,
                None => unknown(),
            }),
            Command::RefundRemaining(request) => {
                Ok(match self.payments.refund_remaining(call, request).await?.outcome {
                    Some(refund::Outcome::Refunded(refunded)) => refunded.amount.map_or_else(unknown, News::Refunded),
                    Some(refund::Outcome::InProgress(wait)) => News::InProgress(retry_after(wait.retry_after_ms)),
                    None => unknown(),
                })
            }
            Command::RestockOrder(request) => self.inventory.restock_order(call, request).await.map(|_| News::Done),
        }
    }

    async fn decide(
        &self,
        tx: &Tx,
        saga: &mut Progress<Cancellation>,
        input: Input<News>,
    ) -> Result<Decision<Command>, Fault> {
        let news = match input {
            Input::Started => News::Done,
            Input::News(news) => news,
            Input::Refused(fault) => News::Refused(fault.to_string()),
            Input::Signal(_) | Input::DeadlinePassed | Input::Compensate => News::Nudge,
        };
        let stream = store::find_stream(tx.conn(), saga.state.order_id, tx.clock().now()).await?;
        let mut stream =
            stream.ok_or_else(|| Fault::internal("order_missing", format!("cancellation {} has no order", saga.id)))?;
        let step = Step::find(&saga.step);
        record_news(&mut stream, step, &news);
        if let News::Refunded(amount) = &news {
            saga.state.refunded = Some(amount.clone());
        }
        let next = next(step, news);
        match next {
            Next::Do(_) => saga.state.refusals = 0,
            Next::ParkRefused(..) => saga.state.refusals += 1,
            Next::Cancelled => stream.record(stream.order().cancel(saga.state.reason, saga.state.refunded.clone())?),
            Next::TooLate => stream.record(OrderEvent::CancelRefused {}),
            _ => {}
        }
        store_and_announce(tx, &saga.call, &stream).await?;
        Ok(match next {
            Next::Do(step) => Decision::Do {
                step: step.name(),
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
        give_up(tx, call, business_key).await
    }
}

/// What an answer means for the order, if the order has not heard it from the other module's events.
fn record_news(stream: &mut Stream, step: Option<Step>, news: &News) {
    let order = stream.order();
    let means = match (step, news) {
        (Some(Step::CancelShipment), News::Done) => {
            order.shipment.as_ref().map(|shipment| OrderEvent::ShipmentCancelled {
                shipment_id: shipment.id,
            })
        }
        // After it nothing remains, so all of the total has gone back.
        (Some(Step::RefundPayment), News::Refunded(amount)) if amount.amount > 0 => order
            .payment
            .as_ref()
            .zip(order.placement.as_ref())
            .map(|(payment, placement)| OrderEvent::PaymentRefunded {
                payment_id: payment.id,
                amount: amount.clone(),
                refunded: placement.total.clone(),
            }),
        _ => None,
    };
    let heard = means.and_then(|event| order.hear(event));
    stream.record_all(heard);
}

fn command(saga: Uuid, cancellation: &Cancellation, step: Step) -> Command {
    let command_id = saga::attempt_id(saga, step.name(), false, cancellation.refusals).to_string();
    let order_id = cancellation.order_id.to_string();
    match step {
        Step::CancelShipment => Command::CancelShipment(CancelShipment {
            command_id,
            undoes: String::new(),
            order_id,
        }),
        Step::RefundPayment => Command::RefundRemaining(RefundRemaining {
            command_id,
            order_id,
            reason: cancellation.reason.as_str().to_owned(),
        }),
        Step::RestockOrder => Command::RestockOrder(RestockOrder { command_id, order_id }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn euros() -> Money {
        Money::new(5, "EUR").unwrap()
    }

    #[test]
    fn the_parcel_is_stopped_before_money_and_goods_go_back() {
        assert_eq!(next(None, News::Done), Next::Do(Step::CancelShipment));
        assert_eq!(
            next(Some(Step::CancelShipment), News::Done),
            Next::Do(Step::RefundPayment)
        );
        assert_eq!(
            next(Some(Step::RefundPayment), News::Refunded(euros())),
            Next::Do(Step::RestockOrder)
        );
        assert_eq!(next(Some(Step::RestockOrder), News::Done), Next::Cancelled);
    }

    #[test]
    fn a_parcel_that_has_left_ends_it_with_nothing_undone() {
        assert_eq!(next(Some(Step::CancelShipment), News::AlreadyDispatched), Next::TooLate);
        assert!(matches!(
            next(Some(Step::RefundPayment), News::AlreadyDispatched),
            Next::Park(_)
        ));
    }

    #[test]
    fn what_does_not_fit_is_said_in_the_words_of_the_log() {
        assert_eq!(
            next(None, News::AlreadyDispatched),
            Next::Park("already_dispatched is no answer to the beginning".to_owned())
        );
        let all = [
            News::Done,
            News::Refunded(euros()),
            News::AlreadyDispatched,
            News::InProgress(Duration::from_millis(7)),
            News::Nudge,
        ];
        for news in all
            .into_iter()
            .chain([News::Broken("x".to_owned()), News::Refused("x".to_owned())])
        {
            assert_eq!(serde_json::to_value(&news).unwrap()["outcome"], news.outcome());
        }
    }

    #[test]
    fn it_knows_no_way_back_and_asks_again_while_the_outcome_is_open() {
        for step in Step::ALL {
            assert_eq!(next(Some(step), News::Nudge), Next::Continue);
            assert_eq!(
                next(Some(step), News::InProgress(Duration::from_millis(7))),
                Next::Repeat(Duration::from_millis(7))
            );
            assert!(matches!(next(Some(step), News::Broken("x".to_owned())), Next::Park(_)));
            assert!(
                matches!(next(Some(step), News::Refused("x".to_owned())), Next::ParkRefused(refused, _) if refused == step)
            );
        }
    }
}
