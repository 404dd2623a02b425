//! The last transaction of a command: records what the provider said, once, whichever way it arrives.
//!
//! The response, the webhook and the reconciler all come through [`record()`]. The first wins by a conditional update of the command; the payment,
//! the ledger, the event, and a void that waited for this outcome follow in the same transaction.

use banyan_core::{Call, Fault, TraceParent};
use banyan_durable::{Db, Tx, outbox};
use payments_contract::{PaymentAuthorised, PaymentCaptured, PaymentDeclined, PaymentRefunded, PaymentVoided};
use uuid::Uuid;

use super::{CommandState, MoneyCommand, Outcome};
use crate::{
    ledger,
    payment::{Payment, PaymentUpdate, Voids},
    provider::Response,
    store,
};

/// What recording came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The outcome is known from now on. A void that waited for it has been started and must be sent.
    Now {
        command: Box<MoneyCommand>,
        /// As it is stored now.
        payment: Box<Payment>,
        void: Option<Uuid>,
    },
    /// It was known, or is no longer awaited: nothing changed.
    Before,
    /// There is no such command.
    Unknown,
}

/// Records what the provider said about a command. `payment` is the command's payment as the caller knows it, which saves loading it; it may have
/// changed since.
///
/// # Errors
/// `unexpected_news`: the response fits no state the payment is in, which an operator must look into; nothing is changed.
pub async fn record(db: &Db, id: Uuid, response: Response, payment: Option<Payment>) -> Result<Recorded, Fault> {
    let result = if matches!(response, Response::Accepted { .. }) {
        "accepted"
    } else {
        "declined"
    };
    let recorded = db.write((response, payment), move |tx, (response, payment)| async move {
        let Some(command) = store::complete_started(&tx, id, &Outcome::from(&response)).await? else {
            return Ok(match store::find_command(tx.conn(), id).await? {
                Some(_) => Recorded::Before,
                None => Recorded::Unknown,
            });
        };
        let update = command.update(&response);
        let (payment, voids) = update_payment(&tx, &command, payment, &update).await?;
        let void = follow_up(&tx, &command, &payment, &update, voids).await?;
        tx.wake(topic(payment.id));
        Ok(Recorded::Now {
            command: Box::new(command),
            payment: Box::new(payment),
            void,
        })
    });
    let recorded = recorded.await?;
    if let Recorded::Now { .. } = recorded {
        metrics::counter!("banyan_payments_provider_answers_total", "result" => result).increment(1);
    }
    Ok(recorded)
}

/// Records what a webhook reports. Nearly always the provider's response came first: a read finds that out, and no transaction is opened.
///
/// # Errors
/// As [`record()`].
pub async fn record_webhook(db: &Db, id: Uuid, response: Response) -> Result<Recorded, Fault> {
    match store::find_command(db.read(), id).await? {
        None => Ok(Recorded::Unknown),
        Some(command) if command.state == CommandState::Started => record(db, id, response, None).await,
        Some(_) => Ok(Recorded::Before),
    }
}

/// The subject of a payment's events, and the topic that wakes those who wait for it.
pub fn topic(payment: Uuid) -> String {
    format!("payment/{payment}")
}

/// Applies the update to the payment as the caller knew it, or as it is stored if it has changed since.
async fn update_payment(
    tx: &Tx,
    command: &MoneyCommand,
    known: Option<Payment>,
    update: &PaymentUpdate,
) -> Result<(Payment, Voids), Fault> {
    if let Some(Ok(applied)) = known.map(|payment| payment.apply(update))
        && let Some(payment) = store::update_unless_changed(tx, applied.payment).await?
    {
        return Ok((payment, applied.voids));
    }
    let payment = command
        .payment_id
        .ok_or_else(|| Fault::internal("payment_lost", "a started command has no payment"))?;
    let payment = store::load(tx.conn(), payment).await?;
    let applied = payment.apply(update).map_err(|_| {
        let (id, status) = (payment.id, payment.status.into_str());
        let detail = format!("payment {id} is {status}, and command {} brings {update:?}", command.id);
        Fault::internal("unexpected_news", detail)
    })?;
    Ok((store::update(tx, applied.payment).await?, applied.voids))
}

/// What an update of a payment brings with it: the ledger, the event, and the voids that waited; returns a void to be sent.
async fn follow_up(
    tx: &Tx,
    command: &MoneyCommand,
    after: &Payment,
    update: &PaymentUpdate,
    voids: Voids,
) -> Result<Option<Uuid>, Fault> {
    let moved = ledger::transaction_of(update, after)
        .map_err(|error| Fault::internal("ledger_unbalanced", error.to_string()))?;
    if let Some(transaction) = moved {
        ledger::store::append(tx, after.id, command.id, &transaction).await?;
    }
    publish(tx, command, after, update).await?;
    match voids {
        Voids::Untouched => Ok(None),
        Voids::Start => store::start_requested_void(tx, after.id).await.map(Some),
        Voids::Done => store::complete_voids(tx, after.id, &Outcome::Accepted)
            .await
            .map(|()| None),
        Voids::Refused(code) => {
            let refused = Outcome::Refused {
                code: code.to_owned(),
                detail: "The authorisation can no longer be given up.".to_owned(),
            };
            store::complete_voids(tx, after.id, &refused).await.map(|()| None)
        }
    }
}

async fn publish(tx: &Tx, command: &MoneyCommand, payment: &Payment, update: &PaymentUpdate) -> Result<(), Fault> {
    let call = Call::by_module(tx.module()).traced(command.trace.as_deref().and_then(TraceParent::parse));
    let subject = topic(payment.id);
    let (payment_id, order_id, user_id) = (
        payment.id.to_string(),
        payment.order_id.to_string(),
        payment.user_id.to_string(),
    );
    let money = |amount| Some(payment.amount.with_amount(amount));
    match update {
        PaymentUpdate::Authorised { .. } => {
            let event = PaymentAuthorised {
                payment_id,
                order_id,
                user_id,
                amount: money(payment.authorised),
            };
            outbox::append(tx, &call, &subject, &event).await?;
        }
        PaymentUpdate::AuthorisationDeclined { code } => {
            let event = PaymentDeclined {
                payment_id,
                order_id,
                user_id,
                code: code.clone(),
            };
            outbox::append(tx, &call, &subject, &event).await?;
        }
        PaymentUpdate::Captured => {
            let event = PaymentCaptured {
                payment_id,
                order_id,
                user_id,
                amount: money(payment.captured),
            };
            outbox::append(tx, &call, &subject, &event).await?;
        }
        PaymentUpdate::Voided => {
            let event = PaymentVoided {
                payment_id,
                order_id,
                user_id,
            };
            outbox::append(tx, &call, &subject, &event).await?;
        }
        PaymentUpdate::Refunded { amount } => {
            let event = PaymentRefunded {
                payment_id,
                order_id,
                user_id,
                amount: money(*amount),
                refunded: money(payment.refunded),
                reason: command.reason.clone().unwrap_or_default(),
            };
            outbox::append(tx, &call, &subject, &event).await?;
        }
        // The payment stands as before: the caller gets the outcome, and no event is published.
        PaymentUpdate::CaptureDeclined | PaymentUpdate::VoidDeclined | PaymentUpdate::RefundDeclined { .. } => {}
    }
    Ok(())
}
