//! What payments does when asked: by other modules through the contract, by people through HTTP, by the provider through webhooks.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Call, Fault, Page, PageRequest, parse_id};
use banyan_durable::Db;
use payments_contract::{
    AlreadyVoided, Authorisation, AuthorisePayment, Capture, CapturePayment, Decline, FindPayment, FoundPayment,
    InProgress, PaymentReference, Payments, Refund, RefundRemaining, Refunded, Void, VoidPayment, Voided,
    authorisation, capture, refund, void,
};
use prost::Message;
use shared_kernel::Money;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    begin::{self, Begun, NewPayment},
    calls::Calls,
    command::{Asked, Kind, MoneyCommand, Outcome, State},
    payment::Payment,
    provider::Provider,
    record::{self, Recorded},
    settings::Settings,
    store,
};

pub struct Service {
    pub(crate) db: Db,
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) settings: Settings,
}

impl Service {
    pub fn new(db: Db, provider: Arc<dyn Provider>, settings: Settings) -> Self {
        let calls = Calls::new(db.clone(), provider.clone(), settings.clone());
        Service {
            db,
            provider,
            calls,
            settings,
        }
    }

    /// Sees a command through to its outcome, as far as the caller's patience goes; `None` while the outcome is unknown.
    ///
    /// # Errors
    /// The bug that stands between the command and its outcome: asking again for ever would hide it.
    async fn settle(&self, call: &Call, begun: Begun) -> Result<Option<MoneyCommand>, Fault> {
        let limit = self.settings.call_limit();
        let until = Instant::now() + call.timeout.map_or(limit, |patience| patience.min(limit));
        let (id, ended) = match begun {
            Begun::Answered(command) => return Ok(Some(*command)),
            Begun::Started(ask) => (ask.command.id, self.calls.ask(*ask).wait_until(until).await),
            Begun::Open(id) => (id, self.calls.resolve(id).wait_until(until).await),
            Begun::Waiting { void, for_command } => {
                let first = self.wait_for(for_command, until).await;
                (void, first.and(self.calls.resolve(void).wait_until(until).await))
            }
            Begun::NotYet { for_command } => return self.wait_for(for_command, until).await.map(|()| None),
        };
        let command = store::find_command(self.db.read(), id)
            .await?
            .filter(|command| !command.is_open());
        match (command, ended) {
            // Somebody else may have brought the outcome.
            (Some(command), _) => Ok(Some(command)),
            (None, ended) => ended.map(|()| None),
        }
    }

    async fn wait_for(&self, command: Option<Uuid>, until: Instant) -> Result<(), Fault> {
        match command {
            Some(command) => self.calls.resolve(command).wait_until(until).await,
            None => Ok(()),
        }
    }

    /// A refund by the staff: `wanted`, or all that is left. Answers the command as it stands when the provider has answered or the limit is
    /// over.
    ///
    /// # Errors
    /// `not_found`, `currency_mismatch`; `exceeds_captured`, `not_captured`, `nothing_to_refund` (conflict), which are remembered.
    pub async fn refund_payment(
        &self,
        call: &Call,
        payment: Uuid,
        asked: Asked,
        wanted: Option<Money>,
    ) -> Result<MoneyCommand, Fault> {
        let id = asked.id;
        let begun = begin::refund(&self.db, call, asked, payment, wanted).await?;
        let command = match self.settle(call, begun).await? {
            Some(command) => Some(command),
            None => store::find_command(self.db.read(), id).await?,
        };
        let command = command.ok_or_else(|| Fault::internal("command_lost", format!("refund {id} is not there")))?;
        match &command.state {
            State::Answered(Outcome::Refused { code, detail }) => Err(Fault::conflict(code, detail.clone())),
            _ => Ok(command),
        }
    }

    /// Hears what a provider tells unasked. Told twice, or after we knew, it changes nothing.
    ///
    /// # Errors
    /// `not_found` for a provider we do not have; `invalid_signature`, `malformed_webhook`.
    pub async fn hear_webhook(&self, provider: &str, signature: &str, body: &[u8]) -> Result<(), Fault> {
        if provider != self.provider.name() {
            return Err(Fault::not_found("payment provider"));
        }
        let event = self.provider.read_webhook(signature, body, self.db.clock().now())?;
        match record::record(&self.db, event.reference, event.answer).await? {
            Recorded::Now { void } => {
                self.calls.announce(event.reference);
                if let Some(void) = void {
                    self.calls.resolve(void);
                }
            }
            Recorded::Before => self.calls.announce(event.reference),
            Recorded::Unknown => {
                tracing::debug!(reference = %event.reference, "a webhook about a command that is not ours")
            }
        }
        Ok(())
    }

    pub async fn find(&self, call: &Call, id: Uuid) -> Result<Payment, Fault> {
        store::find_visible(self.db.read(), id, &call.actor)
            .await?
            .ok_or_else(|| Fault::not_found("payment"))
    }

    pub async fn list(&self, call: &Call, order_id: Option<Uuid>, page: &PageRequest) -> Result<Page<Payment>, Fault> {
        store::list_visible(self.db.read(), order_id, page, &call.actor).await
    }

    pub async fn find_refund(&self, call: &Call, payment: Uuid, id: Uuid) -> Result<MoneyCommand, Fault> {
        let payment = self.find(call, payment).await?;
        let command = store::find_command(self.db.read(), id).await?;
        let is_refund = |command: &MoneyCommand| {
            command.kind == Kind::Refund && command.payment_id == Some(payment.id) && command.started_at.is_some()
        };
        command.filter(is_refund).ok_or_else(|| Fault::not_found("refund"))
    }

    pub async fn list_refunds(
        &self,
        call: &Call,
        payment: Uuid,
        page: &PageRequest,
    ) -> Result<Page<MoneyCommand>, Fault> {
        let payment = self.find(call, payment).await?;
        store::list_refunds(self.db.read(), payment.id, page).await
    }

    fn in_progress(&self) -> InProgress {
        InProgress {
            retry_after_ms: i64::try_from(self.settings.retry_after_ms).unwrap_or(i64::MAX),
        }
    }
}

/// What was asked under `command_id`; the message's bytes tell one request from another.
fn asked(command_id: &str, kind: Kind, request: &impl Message) -> Result<Asked, Fault> {
    Ok(Asked::new(
        parse_id("command_id", command_id)?,
        kind,
        &request.encode_to_vec(),
    ))
}

fn outcome_of(command: &MoneyCommand) -> Result<&Outcome, Fault> {
    match &command.state {
        State::Answered(outcome) => Ok(outcome),
        State::Requested | State::Started => Err(Fault::internal(
            "command_open",
            format!("command {} has no outcome", command.id),
        )),
    }
}

fn decline(command: &MoneyCommand, code: String, detail: String) -> Decline {
    Decline {
        code,
        detail,
        payment_id: reference(command).payment_id,
    }
}

fn reference(command: &MoneyCommand) -> PaymentReference {
    PaymentReference {
        payment_id: command.payment_id.map(|id| id.to_string()).unwrap_or_default(),
    }
}

/// The answer has no word for a "no" here: voids and refunds of what exists are granted, or something needs a person.
fn refused(outcome: &Outcome) -> Fault {
    match outcome {
        Outcome::Declined { code, detail } | Outcome::Refused { code, detail } => Fault::conflict(code, detail.clone()),
        Outcome::Accepted | Outcome::Undone => Fault::internal("unexpected_outcome", format!("{outcome:?}")),
    }
}

fn check_amount(amount: Option<Money>) -> Result<Money, Fault> {
    let wrong = |detail: &str| Fault::invalid("invalid_amount", detail).at("/amount", detail);
    let amount = amount.ok_or_else(|| wrong("The amount is missing."))?;
    Money::new(amount.amount, &amount.currency).map_err(|error| wrong(&error.to_string()))?;
    if amount.amount < 0 {
        Err(wrong("The amount is negative."))
    } else {
        Ok(amount)
    }
}

fn check_method(method: String) -> Result<String, Fault> {
    if (1..=200).contains(&method.len()) {
        return Ok(method);
    }
    Err(Fault::invalid(
        "invalid_payment_method",
        "A payment method is a provider's token of 1 to 200 bytes.",
    )
    .at("/payment_method", "length"))
}

#[async_trait]
impl Payments for Service {
    async fn authorise_payment(&self, call: &Call, request: AuthorisePayment) -> Result<Authorisation, Fault> {
        use authorisation::Outcome as Answer;
        let asked = asked(&request.command_id, Kind::Authorise, &request)?;
        let new = NewPayment {
            order_id: parse_id("order_id", &request.order_id)?,
            user_id: parse_id("user_id", &request.user_id)?,
            amount: check_amount(request.amount)?,
            method: check_method(request.payment_method)?,
        };
        let begun = begin::authorise(&self.db, call, asked, new).await?;
        let answer = match self.settle(call, begun).await? {
            None => Answer::InProgress(self.in_progress()),
            Some(command) => match outcome_of(&command)?.clone() {
                Outcome::Accepted => Answer::Authorised(reference(&command)),
                Outcome::Declined { code, detail } | Outcome::Refused { code, detail } => {
                    Answer::Declined(decline(&command, code, detail))
                }
                Outcome::Undone => Answer::Undone(AlreadyVoided {}),
            },
        };
        Ok(Authorisation { outcome: Some(answer) })
    }

    async fn capture_payment(&self, call: &Call, request: CapturePayment) -> Result<Capture, Fault> {
        use capture::Outcome as Answer;
        let asked = asked(&request.command_id, Kind::Capture, &request)?;
        let begun = begin::capture(&self.db, call, asked, parse_id("order_id", &request.order_id)?).await?;
        let answer = match self.settle(call, begun).await? {
            None => Answer::InProgress(self.in_progress()),
            Some(command) => match outcome_of(&command)?.clone() {
                Outcome::Accepted => Answer::Captured(reference(&command)),
                Outcome::Declined { code, detail } | Outcome::Refused { code, detail } => {
                    Answer::Declined(decline(&command, code, detail))
                }
                Outcome::Undone => return Err(refused(&Outcome::Undone)),
            },
        };
        Ok(Capture { outcome: Some(answer) })
    }

    async fn void_payment(&self, call: &Call, request: VoidPayment) -> Result<Void, Fault> {
        use void::Outcome as Answer;
        let asked = asked(&request.command_id, Kind::Void, &request)?;
        let (undoes, order_id) = (
            parse_id("undoes", &request.undoes)?,
            parse_id("order_id", &request.order_id)?,
        );
        let begun = begin::void(&self.db, call, asked, undoes, order_id).await?;
        let answer = match self.settle(call, begun).await? {
            None => Answer::InProgress(self.in_progress()),
            Some(command) => match outcome_of(&command)? {
                Outcome::Accepted => Answer::Voided(Voided {}),
                other => return Err(refused(other)),
            },
        };
        Ok(Void { outcome: Some(answer) })
    }

    async fn refund_remaining(&self, call: &Call, request: RefundRemaining) -> Result<Refund, Fault> {
        use refund::Outcome as Answer;
        let asked = asked(&request.command_id, Kind::Refund, &request)?.because(&request.reason);
        let begun = begin::refund_remaining(&self.db, call, asked, parse_id("order_id", &request.order_id)?).await?;
        let answer = match self.settle(call, begun).await? {
            None => Answer::InProgress(self.in_progress()),
            Some(command) => match outcome_of(&command)? {
                Outcome::Accepted => Answer::Refunded(Refunded {
                    amount: Some(command.amount.clone()),
                }),
                other => return Err(refused(other)),
            },
        };
        Ok(Refund { outcome: Some(answer) })
    }

    async fn find_payment(&self, call: &Call, request: FindPayment) -> Result<FoundPayment, Fault> {
        let order_id = parse_id("order_id", &request.order_id)?;
        let payment = store::find_visible_of_order(self.db.read(), order_id, &call.actor).await?;
        Ok(FoundPayment {
            payment: payment.map(told),
        })
    }
}

/// A payment as the contract tells it.
fn told(payment: Payment) -> payments_contract::Payment {
    let money = |amount| Some(payment.amount.with_amount(amount));
    payments_contract::Payment {
        id: payment.id.to_string(),
        order_id: payment.order_id.to_string(),
        user_id: payment.user_id.to_string(),
        status: payment.status.as_str().to_owned(),
        amount: money(payment.amount.amount),
        captured: money(payment.captured),
        refunded: money(payment.refunded),
    }
}

/// How many commands one round of the reconciler asks about.
const RECONCILE_BATCH: u64 = 500;

impl Service {
    /// Asks the provider about every command that was started at least `age` ago and has no outcome; answers how many there were.
    ///
    /// # Errors
    /// As any query. A provider that does not answer is no error: the next round asks again.
    pub async fn reconcile(&self, age: Duration) -> Result<usize, Fault> {
        let before = self.db.clock().now().minus(age);
        let open = store::list_open(self.db.read(), before, RECONCILE_BATCH).await?;
        let under_way: Vec<_> = open.iter().map(|command| self.calls.resolve(*command)).collect();
        let until = Instant::now() + self.settings.call_give_up();
        for call in under_way {
            // What it met is in the log, and does not keep the others from being asked about.
            let _ = call.wait_until(until).await;
        }
        Ok(open.len())
    }
}
