//! The first transaction of a command: it is stored as started, and the payment moves to a state whose outcome is unknown, before the provider
//! is called.
//!
//! Each function here is one transaction. A command that came before is recognised by its id, so no command begins twice.

use std::sync::Arc;

use banyan_core::{Call, Fault};
use banyan_durable::{Db, Remembered, Tx, audit_operator, lost_race};
use banyan_http::IfMatch;
use shared_kernel::Money;
use uuid::Uuid;

use super::{CommandRequest, CommandState, Kind, MoneyCommand, Outcome, calls::ProviderCall, record};
use crate::{
    payment::{Payment, Refusal, VoidStep},
    store,
};

/// Where a command stands after its first transaction.
#[derive(Clone, Debug)]
pub enum Begun {
    /// Its outcome is known.
    Completed(Box<MoneyCommand>),
    /// The provider must be called now, for the first time.
    Started(Box<ProviderCall>),
    /// It was started before, by this process or by one that crashed.
    Open(Uuid),
    /// A void that waits for another command of its payment.
    Waiting { void: Uuid, for_command: Option<Uuid> },
    /// Nothing was stored: the command under way must complete first.
    NotYet { for_command: Option<Uuid> },
}

/// A new payment of an order.
#[derive(Clone, Debug)]
pub struct NewPayment {
    pub order_id: Uuid,
    pub user_id: Uuid,
    pub amount: Money,
    pub method: String,
}

pub async fn authorise(db: &Db, call: &Call, request: CommandRequest, new: NewPayment) -> Result<Begun, Fault> {
    let context = (call.clone(), request, new);
    let begun = db.write(context, |tx, (call, request, new)| async move {
        let (id, now) = (tx.ids().new_id(), tx.clock().now());
        let payment = Payment::authorise(id, new.order_id, new.user_id, new.amount, new.method, now);
        let command = MoneyCommand::started(&request, &call, &payment, payment.amount.amount, now);
        if !store::insert_command_unless_known(&tx, &command).await? {
            return load_begun(&tx, &request).await;
        }
        if !store::insert(&tx, &payment).await? {
            return Err(Fault::conflict("payment_exists", "This order already has a payment."));
        }
        Ok(started(command, payment))
    });
    begun.await
}

/// `authorised` are remembered payments: storing the capture finds out whether one was changed since.
pub async fn capture(
    db: &Db,
    call: &Call,
    request: CommandRequest,
    order_id: Uuid,
    authorised: &Remembered<Payment>,
) -> Result<Begun, Fault> {
    let context = (call.clone(), request, authorised.clone());
    let begun = db.write(context, move |tx, (call, request, authorised)| async move {
        // Nearly every capture is a new one, so a command that came before is only looked up if this one cannot begin.
        let remembered = authorised
            .recall(&tx, order_id)
            .filter(|payment| payment.capture().is_ok());
        let payment = match remembered {
            Some(payment) => Some(payment),
            None => store::find_of_order(tx.conn(), order_id).await?.map(Arc::new),
        };
        let Some(payment) = payment else {
            let begun = find_begun(&tx, &request).await?;
            return begun.ok_or_else(|| Fault::not_found("payment"));
        };
        let command = MoneyCommand::started(&request, &call, &payment, payment.authorised, tx.clock().now());
        match payment.capture() {
            Ok(capturing) => {
                if !store::insert_command_unless_known(&tx, &command).await? {
                    return load_begun(&tx, &request).await;
                }
                Ok(started(command, store::update(&tx, capturing).await?))
            }
            Err(refusal) => match find_begun(&tx, &request).await? {
                Some(begun) => Ok(begun),
                None => refuse(&tx, command, refusal).await,
            },
        }
    });
    begun.await
}

/// `undoes` is the id of the authorisation's command. If that never arrived, a tombstone takes its place, so that it does nothing if it still
/// arrives.
pub async fn void(db: &Db, call: &Call, request: CommandRequest, undoes: Uuid, order_id: Uuid) -> Result<Begun, Fault> {
    let begun = db.write((call.clone(), request), move |tx, (call, request)| async move {
        if let Some(begun) = find_begun(&tx, &request).await? {
            return Ok(begun);
        }
        let undone = find_or_bury(&tx, undoes, order_id).await?;
        if undone.kind != Kind::Authorise || undone.order_id != order_id {
            return Err(
                Fault::invalid("undoes_another", "undoes must name the authorisation of this order.")
                    .at("/undoes", "another command"),
            );
        }
        // Of an operator only; a refusal rolls it back.
        let target = format!("order/{order_id}");
        let (reason, comment) = (request.reason.as_deref(), request.comment.as_deref());
        audit_operator(&tx, &call.actor, "void", &target, reason, comment).await?;
        let Some(payment_id) = undone.payment_id else {
            let command = MoneyCommand {
                actor: Some(call.actor.label()),
                ..without_payment(&tx, request.id, Kind::Void, request.fingerprint, order_id)
            };
            return complete(&tx, command, Outcome::Accepted).await;
        };
        let payment = store::load(tx.conn(), payment_id).await?;
        let command = MoneyCommand::started(&request, &call, &payment, payment.authorised, tx.clock().now());
        match payment.void() {
            VoidStep::Start(payment) => start(&tx, command, payment).await,
            VoidStep::Wait(changed) => wait(&tx, command.requested(), changed).await,
            VoidStep::Nothing => complete(&tx, command, Outcome::Accepted).await,
            VoidStep::Refused(refusal) => refuse(&tx, command, refusal).await,
        }
    });
    begun.await
}

pub async fn refund_remaining(db: &Db, call: &Call, request: CommandRequest, order_id: Uuid) -> Result<Begun, Fault> {
    let begun = db.write((call.clone(), request), move |tx, (call, request)| async move {
        if let Some(begun) = find_begun(&tx, &request).await? {
            return Ok(begun);
        }
        let payment = payment_of(&tx, order_id).await?;
        let command = |amount| MoneyCommand::started(&request, &call, &payment, amount, tx.clock().now());
        match payment.refund_remaining() {
            Ok((reserved, amount)) => {
                let command = command(amount);
                audit_refund(&tx, &call, &request, &command).await?;
                if amount == 0 {
                    return complete(&tx, command, Outcome::Accepted).await;
                }
                start(&tx, command, reserved).await
            }
            Err(refusal) => refuse(&tx, command(0), refusal).await,
        }
    });
    begun.await
}

/// A refund requested by staff: `wanted`, or all that is left. What our own rules refuse is stored as refused, so that a repeat with the same id
/// has the same outcome.
pub async fn refund(
    db: &Db,
    call: &Call,
    request: CommandRequest,
    (payment_id, version): (Uuid, IfMatch),
    wanted: Option<Money>,
) -> Result<Begun, Fault> {
    let context = (call.clone(), request, version, wanted);
    let begun = db.write(context, move |tx, (call, request, version, wanted)| async move {
        // A refund that has begun is not refused because of the version that it has itself changed.
        if let Some(begun) = find_begun(&tx, &request).await? {
            return Ok(begun);
        }
        let payment = store::load(tx.conn(), payment_id).await?;
        version.check(&banyan_http::etag(payment.version))?;
        if let Some(wanted) = &wanted
            && wanted.currency != payment.amount.currency
        {
            let detail = format!("This payment is in {}.", payment.amount.currency);
            return Err(Fault::invalid("currency_mismatch", &detail).at("/amount/currency", detail));
        }
        let wanted = wanted.map(|wanted| wanted.amount);
        let command = |amount| MoneyCommand::started(&request, &call, &payment, amount, tx.clock().now());
        match payment.refund(wanted) {
            Ok((reserved, amount)) => {
                let command = command(amount);
                audit_refund(&tx, &call, &request, &command).await?;
                start(&tx, command, reserved).await
            }
            Err(Refusal::Conflict { code, detail }) => {
                let refused = Outcome::Refused {
                    code: code.to_owned(),
                    detail: detail.to_owned(),
                };
                complete(&tx, command(wanted.unwrap_or_default()), refused).await
            }
            Err(refusal) => refuse(&tx, command(0), refusal).await,
        }
    });
    begun.await
}

/// The audit row of a refund by a person, with the amount.
async fn audit_refund(tx: &Tx, call: &Call, request: &CommandRequest, command: &MoneyCommand) -> Result<(), Fault> {
    let target = record::topic(command.payment_id.unwrap_or_default());
    let amount = command.amount.to_string();
    let comment = match &request.comment {
        Some(comment) => format!("{amount}; {comment}"),
        None => amount,
    };
    audit_operator(
        tx,
        &call.actor,
        "refund",
        &target,
        request.reason.as_deref(),
        Some(&comment),
    )
    .await
}

/// Where a command stands that came before, if it did.
async fn find_begun(tx: &Tx, request: &CommandRequest) -> Result<Option<Begun>, Fault> {
    let Some(known) = store::find_command(tx.conn(), request.id).await? else {
        return Ok(None);
    };
    known.check_same(request)?;
    Ok(Some(match (&known.state, known.payment_id) {
        (CommandState::Completed(_), _) => Begun::Completed(Box::new(known)),
        (CommandState::Requested, Some(payment)) => Begun::Waiting {
            void: known.id,
            for_command: store::find_started(tx.conn(), payment).await?,
        },
        (CommandState::Started | CommandState::Requested, _) => Begun::Open(known.id),
    }))
}

/// Where the command stands whose id was found to be taken.
async fn load_begun(tx: &Tx, request: &CommandRequest) -> Result<Begun, Fault> {
    let begun = find_begun(tx, request).await?;
    begun.ok_or_else(|| lost_race("a command's row was rolled back"))
}

async fn payment_of(tx: &Tx, order_id: Uuid) -> Result<Payment, Fault> {
    store::find_of_order(tx.conn(), order_id)
        .await?
        .ok_or_else(|| Fault::not_found("payment"))
}

/// The authorisation that a void names, or the tombstone that takes its place if it has not arrived.
async fn find_or_bury(tx: &Tx, authorisation: Uuid, order_id: Uuid) -> Result<MoneyCommand, Fault> {
    if let Some(known) = store::find_command(tx.conn(), authorisation).await? {
        return Ok(known);
    }
    let tombstone = without_payment(tx, authorisation, Kind::Authorise, String::new(), order_id);
    let tombstone = tombstone.completed(Outcome::Undone);
    store::insert_command(tx, &tombstone).await?;
    Ok(tombstone)
}

async fn start(tx: &Tx, command: MoneyCommand, payment: Payment) -> Result<Begun, Fault> {
    store::insert_command(tx, &command).await?;
    Ok(started(command, store::update(tx, payment).await?))
}

/// Stores a void that waits for another command of its payment.
async fn wait(tx: &Tx, void: MoneyCommand, payment: Payment) -> Result<Begun, Fault> {
    let for_command = store::find_started(tx.conn(), payment.id).await?;
    store::insert_command(tx, &void).await?;
    // Even if nothing changed: a transaction that records an outcome at the same time then loses the race, runs again and sees this void.
    store::update(tx, payment).await?;
    Ok(Begun::Waiting {
        void: void.id,
        for_command,
    })
}

/// Stores a command with its outcome, without calling the provider.
async fn complete(tx: &Tx, command: MoneyCommand, outcome: Outcome) -> Result<Begun, Fault> {
    let command = command.completed(outcome);
    store::insert_command(tx, &command).await?;
    Ok(Begun::Completed(Box::new(command)))
}

fn started(command: MoneyCommand, payment: Payment) -> Begun {
    Begun::Started(Box::new(ProviderCall { command, payment }))
}

/// A definite refusal is stored as the command's outcome; one that only holds for now is not.
///
/// On PostgreSQL a concurrent repeat may have begun this very command after we looked for it, and changed the payment that we then loaded. The
/// command is looked up again, so that no command is refused because of itself.
async fn refuse(tx: &Tx, command: MoneyCommand, refusal: Refusal) -> Result<Begun, Fault> {
    if store::find_command(tx.conn(), command.id).await?.is_some() {
        return Err(lost_race("the command came in twice"));
    }
    match refusal {
        Refusal::Declined { code, detail } => {
            let declined = Outcome::Declined {
                code: code.to_owned(),
                detail: detail.to_owned(),
            };
            complete(tx, command, declined).await
        }
        Refusal::Conflict { code, detail } => Err(Fault::conflict(code, detail)),
        Refusal::NotYet => {
            let payment = command
                .payment_id
                .ok_or_else(|| lost_race("a command without a payment"))?;
            Ok(Begun::NotYet {
                for_command: store::find_started(tx.conn(), payment).await?,
            })
        }
    }
}

/// A command for an order that has no payment.
fn without_payment(tx: &Tx, id: Uuid, kind: Kind, fingerprint: String, order_id: Uuid) -> MoneyCommand {
    MoneyCommand {
        id,
        kind,
        fingerprint,
        payment_id: None,
        order_id,
        amount: Money {
            amount: 0,
            currency: String::new(),
        },
        actor: None,
        reason: None,
        state: CommandState::Started,
        trace: None,
        created_at: tx.clock().now(),
        started_at: None,
        completed_at: None,
    }
}
