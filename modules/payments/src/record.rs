//! The transaction `answered`: what the provider said becomes true here, once, whoever brings it.
//!
//! The response, the webhook and the reconciler all come through [`record`]. The first wins by a conditional update of the command; the payment,
//! the ledger, the event, and a void that waited for this outcome follow in the same transaction.

use banyan_core::{Call, Fault, TraceParent};
use banyan_durable::{Db, Tx, outbox};
use payments_contract::{PaymentAuthorised, PaymentCaptured, PaymentDeclined, PaymentRefunded, PaymentVoided};
use uuid::Uuid;

use crate::{
    command::{MoneyCommand, Outcome, State},
    ledger,
    payment::{News, Payment, Voids},
    provider::Answer,
    store,
};

/// What recording came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The outcome is known from now on. A void that waited for it has been started and must be sent.
    Now { void: Option<Uuid> },
    /// It was known, or is no longer awaited: nothing changed.
    Before,
    /// There is no such command.
    Unknown,
}

/// Records what the provider said about a command.
///
/// # Errors
/// `unexpected_news`: the answer fits no state the payment is in, which a person must look into; nothing is changed.
pub async fn record(db: &Db, id: Uuid, answer: Answer) -> Result<Recorded, Fault> {
    let result = if matches!(answer, Answer::Accepted { .. }) {
        "accepted"
    } else {
        "declined"
    };
    let recorded = db.write(answer, move |tx, answer| async move {
        let Some(command) = store::find_command(tx.conn(), id).await? else {
            return Ok(Recorded::Unknown);
        };
        let (State::Started, Some(payment_id)) = (&command.state, command.payment_id) else {
            return Ok(Recorded::Before);
        };
        if !store::answer_started(&tx, id, &Outcome::from(&answer)).await? {
            return Ok(Recorded::Before);
        }
        let payment = store::load(tx.conn(), payment_id).await?;
        let news = command.news(&answer);
        let void = hear(&tx, &command, &payment, &news).await?;
        tx.wake(topic(payment_id));
        Ok(Recorded::Now { void })
    });
    let recorded = recorded.await?;
    if let Recorded::Now { .. } = recorded {
        metrics::counter!("banyan_payments_provider_answers_total", "result" => result).increment(1);
    }
    Ok(recorded)
}

/// What a payment's events are told about.
pub fn topic(payment: Uuid) -> String {
    format!("payment/{payment}")
}

async fn hear(tx: &Tx, command: &MoneyCommand, payment: &Payment, news: &News) -> Result<Option<Uuid>, Fault> {
    let heard = payment.hear(news).map_err(|_| {
        let detail = format!(
            "payment {} is {} and hears {news:?} of command {}",
            payment.id,
            payment.status.as_str(),
            command.id
        );
        Fault::internal("unexpected_news", detail)
    })?;
    let after = heard.payment;
    store::update(tx, &after).await?;
    let moved = ledger::transaction_of(news, &after)
        .map_err(|error| Fault::internal("ledger_unbalanced", error.to_string()))?;
    if let Some(transaction) = moved {
        ledger::store::append(tx, after.id, command.id, &transaction).await?;
    }
    tell(tx, command, &after, news).await?;
    match heard.voids {
        Voids::Untouched => Ok(None),
        Voids::Start => store::start_requested_void(tx, after.id).await.map(Some),
        Voids::Done => store::answer_voids(tx, after.id, &Outcome::Accepted)
            .await
            .map(|()| None),
        Voids::Refused(code) => {
            let detail = "The authorisation can no longer be given up.".to_owned();
            let refused = Outcome::Refused {
                code: code.to_owned(),
                detail,
            };
            store::answer_voids(tx, after.id, &refused).await.map(|()| None)
        }
    }
}

async fn tell(tx: &Tx, command: &MoneyCommand, payment: &Payment, news: &News) -> Result<(), Fault> {
    let call = Call::by_module(tx.module()).traced(command.trace.as_deref().and_then(TraceParent::parse));
    let subject = topic(payment.id);
    let (payment_id, order_id, user_id) = (
        payment.id.to_string(),
        payment.order_id.to_string(),
        payment.user_id.to_string(),
    );
    let money = |amount| Some(payment.amount.with_amount(amount));
    match news {
        News::Authorised { .. } => {
            let event = PaymentAuthorised {
                payment_id,
                order_id,
                user_id,
                amount: money(payment.authorised),
            };
            outbox::append(tx, &call, &subject, &event).await?;
        }
        News::AuthorisationDeclined { code } => {
            let event = PaymentDeclined {
                payment_id,
                order_id,
                user_id,
                code: code.clone(),
            };
            outbox::append(tx, &call, &subject, &event).await?;
        }
        News::Captured => {
            let event = PaymentCaptured {
                payment_id,
                order_id,
                user_id,
                amount: money(payment.captured),
            };
            outbox::append(tx, &call, &subject, &event).await?;
        }
        News::Voided => {
            outbox::append(
                tx,
                &call,
                &subject,
                &PaymentVoided {
                    payment_id,
                    order_id,
                    user_id,
                },
            )
            .await?;
        }
        News::Refunded { amount } => {
            let (amount, refunded) = (money(*amount), money(payment.refunded));
            let reason = command.reason.clone().unwrap_or_default();
            let event = PaymentRefunded {
                payment_id,
                order_id,
                user_id,
                amount,
                refunded,
                reason,
            };
            outbox::append(tx, &call, &subject, &event).await?;
        }
        // The payment stands as before: whoever asked is told, and nobody else listens.
        News::CaptureDeclined | News::VoidDeclined | News::RefundDeclined { .. } => {}
    }
    Ok(())
}
