//! What payments does: for other modules through the contract, for users through HTTP, for the provider through webhooks.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Call, Fault, Page, PageRequest, Timestamp, parse_id};
use banyan_durable::Db;
use banyan_http::IfMatch;
use parking_lot::Mutex;
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
    commands::{
        CommandRequest, CommandState, Kind, MoneyCommand, Outcome,
        begin::{self, Begun, NewPayment},
        calls::ProviderCalls,
        record::{self, Recorded},
    },
    payment::Payment,
    provider::Provider,
    settings::Settings,
    store,
    timing::Timing,
};

pub struct Service {
    pub(crate) db: Db,
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) calls: Arc<ProviderCalls>,
    pub(crate) settings: Settings,
    timing: Timing,
    /// The command that the reconciler queried last, unless it was the last one of all.
    reconciled_until: Mutex<Option<(Timestamp, Uuid)>>,
}

impl Service {
    pub fn new(db: Db, provider: Arc<dyn Provider>, settings: Settings, timing: Timing) -> Self {
        let calls = ProviderCalls::new(db.clone(), provider.clone(), timing.provider_timeout);
        Service {
            db,
            provider,
            calls,
            settings,
            timing,
            reconciled_until: Mutex::default(),
        }
    }

    /// Waits for the outcome of a command, at most for the caller's timeout; `None` while the outcome is unknown.
    ///
    /// # Errors
    /// The bug that keeps the command from completing: callers that repeat it forever would hide it.
    async fn settle(&self, call: &Call, begun: Begun) -> Result<Option<MoneyCommand>, Fault> {
        let limit = self.timing.command_timeout;
        let deadline = Instant::now() + call.timeout.map_or(limit, |timeout| timeout.min(limit));
        let (id, ended) = match begun {
            Begun::Completed(command) => return Ok(Some(*command)),
            Begun::Started(call) => (call.command.id, self.calls.send(*call).wait_until(deadline).await),
            Begun::Open(id) => (id, self.calls.resolve(id).wait_until(deadline).await),
            Begun::Waiting { void, for_command } => {
                let first = self.wait_for(for_command, deadline).await;
                (void, first.and(self.calls.resolve(void).wait_until(deadline).await))
            }
            Begun::NotYet { for_command } => return self.wait_for(for_command, deadline).await.map(|()| None),
        };
        if let Ok(Some(command)) = ended {
            return Ok(Some(command));
        }
        let command = store::find_command(self.db.read(), id)
            .await?
            .filter(|command| !command.is_open());
        match (command, ended) {
            // The webhook or another instance may have recorded the outcome.
            (Some(command), _) => Ok(Some(command)),
            (None, ended) => ended.map(|_| None),
        }
    }

    async fn wait_for(&self, command: Option<Uuid>, deadline: Instant) -> Result<(), Fault> {
        match command {
            Some(command) => self.calls.resolve(command).wait_until(deadline).await.map(drop),
            None => Ok(()),
        }
    }

    /// A refund by staff: `wanted`, or all that is left. Returns the command as it stands when the provider has responded or the timeout has passed.
    ///
    /// # Errors
    /// `not_found`, `currency_mismatch`; `exceeds_captured`, `not_captured`, `nothing_to_refund` (conflict), which are stored as its outcome.
    pub async fn refund_payment(
        &self,
        call: &Call,
        payment: (Uuid, IfMatch),
        request: CommandRequest,
        wanted: Option<Money>,
    ) -> Result<MoneyCommand, Fault> {
        let id = request.id;
        let begun = begin::refund(&self.db, call, request, payment, wanted).await?;
        let command = match self.settle(call, begun).await? {
            Some(command) => Some(command),
            None => store::find_command(self.db.read(), id).await?,
        };
        let command = command.ok_or_else(|| Fault::internal("command_lost", format!("refund {id} is not stored")))?;
        match &command.state {
            CommandState::Completed(Outcome::Refused { code, detail }) => Err(Fault::conflict(code, detail.clone())),
            _ => Ok(command),
        }
    }

    /// Records the outcome that a webhook reports. A webhook that is repeated, or reports a known outcome, changes nothing.
    ///
    /// # Errors
    /// `not_found` for another provider than ours; `invalid_signature`, `malformed_webhook`.
    pub async fn receive_webhook(&self, provider: &str, signature: &str, body: &[u8]) -> Result<(), Fault> {
        if provider != self.provider.name() {
            return Err(Fault::not_found("payment provider"));
        }
        let event = self.provider.read_webhook(signature, body, self.db.clock().now())?;
        if self.calls.has_recorded(event.reference) {
            return Ok(());
        }
        match record::record_webhook(&self.db, event.reference, event.answer).await? {
            Recorded::Now { void, .. } => {
                self.calls.notify_recorded(event.reference);
                if let Some(void) = void {
                    self.calls.resolve(void);
                }
            }
            Recorded::Before => self.calls.notify_recorded(event.reference),
            Recorded::Unknown => {
                tracing::debug!(reference = %event.reference, "a webhook refers to an unknown command")
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
            retry_after_ms: i64::try_from(self.timing.retry_after.as_millis()).unwrap_or(i64::MAX),
        }
    }
}

/// The request that `command_id` identifies; its fingerprint is that of the message's bytes.
fn command_request(command_id: &str, kind: Kind, request: &impl Message) -> Result<CommandRequest, Fault> {
    Ok(CommandRequest::new(
        parse_id("command_id", command_id)?,
        kind,
        &request.encode_to_vec(),
    ))
}

fn outcome_of(command: &MoneyCommand) -> Result<&Outcome, Fault> {
    match &command.state {
        CommandState::Completed(outcome) => Ok(outcome),
        CommandState::Requested | CommandState::Started => Err(Fault::internal(
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

/// The contract has no outcome for a refusal here: voids and refunds of what exists are granted, or an operator must look into it.
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
        use authorisation::Outcome as Response;
        let command = command_request(&request.command_id, Kind::Authorise, &request)?;
        let new = NewPayment {
            order_id: parse_id("order_id", &request.order_id)?,
            user_id: parse_id("user_id", &request.user_id)?,
            amount: check_amount(request.amount)?,
            method: check_method(request.payment_method)?,
        };
        let begun = begin::authorise(&self.db, call, command, new).await?;
        let response = match self.settle(call, begun).await? {
            None => Response::InProgress(self.in_progress()),
            Some(command) => match outcome_of(&command)?.clone() {
                Outcome::Accepted => Response::Authorised(reference(&command)),
                Outcome::Declined { code, detail } | Outcome::Refused { code, detail } => {
                    Response::Declined(decline(&command, code, detail))
                }
                Outcome::Undone => Response::Undone(AlreadyVoided {}),
            },
        };
        Ok(Authorisation {
            outcome: Some(response),
        })
    }

    async fn capture_payment(&self, call: &Call, request: CapturePayment) -> Result<Capture, Fault> {
        use capture::Outcome as Response;
        let command = command_request(&request.command_id, Kind::Capture, &request)?;
        let order_id = parse_id("order_id", &request.order_id)?;
        let begun = begin::capture(&self.db, call, command, order_id, self.calls.authorised()).await?;
        let response = match self.settle(call, begun).await? {
            None => Response::InProgress(self.in_progress()),
            Some(command) => match outcome_of(&command)?.clone() {
                Outcome::Accepted => Response::Captured(reference(&command)),
                Outcome::Declined { code, detail } | Outcome::Refused { code, detail } => {
                    Response::Declined(decline(&command, code, detail))
                }
                Outcome::Undone => return Err(refused(&Outcome::Undone)),
            },
        };
        Ok(Capture {
            outcome: Some(response),
        })
    }

    async fn void_payment(&self, call: &Call, request: VoidPayment) -> Result<Void, Fault> {
        use void::Outcome as Response;
        let command = command_request(&request.command_id, Kind::Void, &request)?;
        let command = CommandRequest {
            reason: request.reason,
            comment: request.comment,
            ..command
        };
        let (undoes, order_id) = (
            parse_id("undoes", &request.undoes)?,
            parse_id("order_id", &request.order_id)?,
        );
        let begun = begin::void(&self.db, call, command, undoes, order_id).await?;
        let response = match self.settle(call, begun).await? {
            None => Response::InProgress(self.in_progress()),
            Some(command) => match outcome_of(&command)? {
                Outcome::Accepted => Response::Voided(Voided {}),
                other => return Err(refused(other)),
            },
        };
        Ok(Void {
            outcome: Some(response),
        })
    }

    async fn refund_remaining(&self, call: &Call, request: RefundRemaining) -> Result<Refund, Fault> {
        use refund::Outcome as Response;
        let command = command_request(&request.command_id, Kind::Refund, &request)?
            .because(&request.reason)
            .commented(request.comment.clone());
        let begun = begin::refund_remaining(&self.db, call, command, parse_id("order_id", &request.order_id)?).await?;
        let response = match self.settle(call, begun).await? {
            None => Response::InProgress(self.in_progress()),
            Some(command) => match outcome_of(&command)? {
                Outcome::Accepted => Response::Refunded(Refunded {
                    amount: Some(command.amount.clone()),
                }),
                other => return Err(refused(other)),
            },
        };
        Ok(Refund {
            outcome: Some(response),
        })
    }

    async fn find_payment(&self, call: &Call, request: FindPayment) -> Result<FoundPayment, Fault> {
        let order_id = parse_id("order_id", &request.order_id)?;
        let payment = store::find_visible_of_order(self.db.read(), order_id, &call.actor).await?;
        Ok(FoundPayment {
            payment: payment.map(message_of),
        })
    }
}

/// A payment as a message of the contract.
fn message_of(payment: Payment) -> payments_contract::Payment {
    let money = |amount| Some(payment.amount.with_amount(amount));
    payments_contract::Payment {
        id: payment.id.to_string(),
        order_id: payment.order_id.to_string(),
        user_id: payment.user_id.to_string(),
        status: payment.status.into_str().to_owned(),
        amount: money(payment.amount.amount),
        captured: money(payment.captured),
        refunded: money(payment.refunded),
    }
}

/// The maximum number of commands in one round of the reconciler.
const RECONCILE_BATCH: u64 = 500;
/// The maximum number of commands that the reconciler queries at the same time: half of the calls that the provider allows, so that customers can pay
/// while the calls of old commands hang.
const CONCURRENT_RECONCILIATIONS: usize = 32;

impl Service {
    /// Queries the provider for commands that were started at least `age` ago and have no outcome, in turn: each round goes on where the last one ended.
    /// A round starts no query after the provider's timeout. Returns the number of commands queried.
    ///
    /// # Errors
    /// As any query. A provider that does not respond is not an error: a later round queries it again.
    pub async fn reconcile(&self, age: Duration) -> Result<usize, Fault> {
        self.reconcile_some(age, RECONCILE_BATCH).await
    }

    /// As [`reconcile`](Self::reconcile), with another maximum than that of a round.
    pub(crate) async fn reconcile_some(&self, age: Duration, limit: u64) -> Result<usize, Fault> {
        let now = self.db.clock().now();
        // The clocks of instances differ a little.
        let (before, ahead) = (now.minus(age), now.plus(Duration::from_secs(60)));
        let after = self.reconciled_until.lock().take();
        let mut open = store::list_open(self.db.read(), after, before, ahead, limit).await?;
        if open.is_empty() && after.is_some() {
            open = store::list_open(self.db.read(), None, before, ahead, limit).await?;
        }
        let (mut queried, end) = (0, Instant::now() + self.timing.provider_timeout);
        for some in open.chunks(CONCURRENT_RECONCILIATIONS) {
            if Instant::now() >= end {
                break;
            }
            let pending: Vec<_> = some.iter().map(|(_, command)| self.calls.resolve(*command)).collect();
            let deadline = Instant::now() + self.timing.provider_timeout;
            for call in pending {
                // A failed call is logged where it ends, and does not stop the others.
                let _ = call.wait_until(deadline).await;
            }
            queried += some.len();
        }
        // After the last one it begins again with the oldest, so that none that stays open keeps it from the others.
        let is_last = queried == open.len() && u64::try_from(queried).is_ok_and(|queried| queried < limit);
        let reached = queried.checked_sub(1).and_then(|last| open.get(last));
        *self.reconciled_until.lock() = reached.filter(|_| !is_last).copied();
        Ok(queried)
    }
}
