//! Rows and queries of payments and their commands. Every change of a payment is conditional on the version it was loaded with.

mod open;

use banyan_core::{Actor, Fault, Page, PageRequest, Timestamp};
use banyan_durable::{Tx, fault, is_unique_violation, lost_race, newest_first, newest_ids_first};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, TryInsertResult,
    sea_query::Expr,
};
use shared_kernel::{Money, Role};
use uuid::Uuid;

use crate::{
    commands::{CommandState, Kind, MoneyCommand, Outcome},
    payment::Payment,
};

pub use open::{count_open, find_started, list_open};
#[cfg(test)]
pub use open::{count_waiting, lock_command};

mod payment {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "payment")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub order_id: Uuid,
        pub user_id: Uuid,
        pub status: String,
        pub amount: i64,
        pub currency: String,
        pub authorised_amount: i64,
        pub captured_amount: i64,
        pub refunded_amount: i64,
        pub refunding_amount: i64,
        pub payment_method: String,
        pub provider_authorisation: Option<String>,
        pub decline_code: Option<String>,
        pub void_requested: bool,
        pub created_at: i64,
        pub updated_at: i64,
        pub version: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod money_command {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "money_command")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub kind: String,
        pub fingerprint: String,
        pub payment_id: Option<Uuid>,
        pub order_id: Uuid,
        pub amount: i64,
        pub currency: String,
        pub reason: Option<String>,
        pub state: String,
        pub outcome: Option<String>,
        pub actor: Option<String>,
        pub traceparent: Option<String>,
        pub created_at: i64,
        pub started_at: Option<i64>,
        pub answered_at: Option<i64>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// The payment of an order, whoever the actor is: for the commands.
pub async fn find_of_order(conn: &impl ConnectionTrait, order_id: Uuid) -> Result<Option<Payment>, Fault> {
    let row = payment::Entity::find()
        .filter(payment::Column::OrderId.eq(order_id))
        .one(conn)
        .await
        .map_err(fault)?;
    row.map(Payment::try_from).transpose()
}

pub async fn load(conn: &impl ConnectionTrait, id: Uuid) -> Result<Payment, Fault> {
    let row = payment::Entity::find_by_id(id).one(conn).await.map_err(fault)?;
    row.ok_or_else(|| Fault::not_found("payment"))?.try_into()
}

/// The payment if the actor may see it; another user's payment looks like a missing one.
pub async fn find_visible(conn: &impl ConnectionTrait, id: Uuid, actor: &Actor) -> Result<Option<Payment>, Fault> {
    let row = payment::Entity::find_by_id(id)
        .filter(visible_to(actor))
        .one(conn)
        .await
        .map_err(fault)?;
    row.map(Payment::try_from).transpose()
}

/// The payment of an order if the actor may see it.
pub async fn find_visible_of_order(
    conn: &impl ConnectionTrait,
    order_id: Uuid,
    actor: &Actor,
) -> Result<Option<Payment>, Fault> {
    let query = payment::Entity::find()
        .filter(payment::Column::OrderId.eq(order_id))
        .filter(visible_to(actor));
    query.one(conn).await.map_err(fault)?.map(Payment::try_from).transpose()
}

/// What the actor may see, newest first.
pub async fn list_visible(
    conn: &impl ConnectionTrait,
    order_id: Option<Uuid>,
    page: &PageRequest,
    actor: &Actor,
) -> Result<Page<Payment>, Fault> {
    let mut query = payment::Entity::find().filter(visible_to(actor));
    if let Some(order_id) = order_id {
        query = query.filter(payment::Column::OrderId.eq(order_id));
    }
    let query = newest_ids_first(query, payment::Column::Id, page)?;
    let rows = query.all(conn).await.map_err(fault)?;
    let payments = rows.into_iter().map(Payment::try_from).collect::<Result<Vec<_>, _>>()?;
    Ok(page.page(payments, |payment| payment.id))
}

/// The refunds of a payment, newest first, without those that our own rules refused.
pub async fn list_refunds(
    conn: &impl ConnectionTrait,
    payment_id: Uuid,
    page: &PageRequest,
) -> Result<Page<MoneyCommand>, Fault> {
    use money_command::Column;
    let query = money_command::Entity::find()
        .filter(Column::PaymentId.eq(payment_id))
        .filter(Expr::cust(STARTED_REFUND));
    let query = newest_first::<_, Uuid>(query, (Column::CreatedAt, Column::Id), page)?;
    let rows = query.all(conn).await.map_err(fault)?;
    let refunds = rows
        .into_iter()
        .map(MoneyCommand::try_from)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(page.page(refunds, |refund| (refund.created_at, refund.id)))
}

fn visible_to(actor: &Actor) -> Condition {
    match actor {
        Actor::Module { .. } => Condition::all(),
        Actor::User { .. } if actor.has_role(Role::Staff) => Condition::all(),
        // No payment has the nil id for an owner, so an actor without a user sees nothing.
        _ => Condition::all().add(payment::Column::UserId.eq(actor.user_id().unwrap_or_default())),
    }
}

/// False if the order has a payment already.
pub async fn insert(tx: &Tx, new: &Payment) -> Result<bool, Fault> {
    let insert = payment::Entity::insert(new_row(new, tx.clock().now()));
    let done = insert
        .on_conflict_do_nothing_on([payment::Column::OrderId])
        .exec_without_returning(tx.conn())
        .await;
    Ok(matches!(done.map_err(fault)?, TryInsertResult::Inserted(1)))
}

/// Stores a payment that was changed since it was loaded, and returns it as it is stored.
///
/// # Errors
/// [`lost_race`] if another transaction changed it meanwhile.
pub async fn update(tx: &Tx, changed: Payment) -> Result<Payment, Fault> {
    let stored = update_unless_changed(tx, changed).await?;
    stored.ok_or_else(|| lost_race("the payment changed meanwhile"))
}

/// As [`update`], but `None` if the payment was changed by another transaction since it was loaded.
pub async fn update_unless_changed(tx: &Tx, changed: Payment) -> Result<Option<Payment>, Fault> {
    let stored = Payment {
        version: changed.version + 1,
        ..changed
    };
    let update = payment::Entity::update_many()
        .set(changed_row(&stored, tx.clock().now()))
        .filter(payment::Column::Id.eq(stored.id))
        .filter(payment::Column::Version.eq(changed.version));
    let updated = update.exec(tx.conn()).await.map_err(fault)?.rows_affected == 1;
    Ok(updated.then_some(stored))
}

pub async fn find_command(conn: &impl ConnectionTrait, id: Uuid) -> Result<Option<MoneyCommand>, Fault> {
    let row = money_command::Entity::find_by_id(id).one(conn).await.map_err(fault)?;
    row.map(MoneyCommand::try_from).transpose()
}

/// Stores a command; false if its id is taken.
///
/// # Errors
/// [`lost_race`] if another command like it came in at the same time: the transaction then runs again and finds it.
pub async fn insert_command_unless_known(tx: &Tx, command: &MoneyCommand) -> Result<bool, Fault> {
    let insert = money_command::Entity::insert(command_row(command)?).on_conflict_do_nothing();
    match insert.exec_without_returning(tx.conn()).await {
        Ok(inserted) => Ok(matches!(inserted, TryInsertResult::Inserted(1))),
        // PostgreSQL may find a concurrent repeat by the index on open commands before it finds it by its id.
        Err(error) if is_unique_violation(&error) => {
            Err(lost_race("the command, or another like it, came in at the same time"))
        }
        Err(error) => Err(fault(error)),
    }
}

/// Stores a command.
///
/// # Errors
/// [`lost_race`] if its id was taken meanwhile: the transaction then runs again and finds it.
pub async fn insert_command(tx: &Tx, command: &MoneyCommand) -> Result<(), Fault> {
    if insert_command_unless_known(tx, command).await? {
        Ok(())
    } else {
        Err(lost_race("the command came in twice"))
    }
}

/// Records the outcome of a command that was started and has none yet, and returns the command; `None` if it has one. **Everything** the provider says
/// goes through here: its response, its webhook, and what the reconciler finds.
pub async fn complete_started(tx: &Tx, id: Uuid, outcome: &Outcome) -> Result<Option<MoneyCommand>, Fault> {
    let update = money_command::Entity::update_many()
        .set(completed_row(tx, outcome)?)
        .filter(money_command::Column::Id.eq(id))
        .filter(money_command::Column::State.eq(STARTED));
    let rows = update.exec_with_returning(tx.conn()).await.map_err(fault)?;
    rows.into_iter().next().map(MoneyCommand::try_from).transpose()
}

/// Gives this outcome to every void of the payment that still waits.
pub async fn complete_voids(tx: &Tx, payment_id: Uuid, outcome: &Outcome) -> Result<(), Fault> {
    let update = money_command::Entity::update_many()
        .set(completed_row(tx, outcome)?)
        .filter(money_command::Column::PaymentId.eq(payment_id))
        .filter(money_command::Column::Kind.eq(Kind::Void.into_str()))
        .filter(money_command::Column::State.eq(REQUESTED));
    update.exec(tx.conn()).await.map_err(fault).map(drop)
}

/// Starts the void that has waited longest; returns its id.
pub async fn start_requested_void(tx: &Tx, payment_id: Uuid) -> Result<Uuid, Fault> {
    use money_command::Column;
    let waiting = money_command::Entity::find()
        .filter(Column::PaymentId.eq(payment_id))
        .filter(Column::Kind.eq(Kind::Void.into_str()))
        .filter(Column::State.eq(REQUESTED))
        .order_by_asc(Column::CreatedAt)
        .order_by_asc(Column::Id);
    let row = waiting.one(tx.conn()).await.map_err(fault)?;
    let id = row
        .ok_or_else(|| {
            Fault::internal(
                "void_lost",
                format!("payment {payment_id} has a requested void that is not stored"),
            )
        })?
        .id;
    let started = money_command::ActiveModel {
        state: Set(STARTED.to_owned()),
        started_at: Set(Some(tx.clock().now().as_ms())),
        ..Default::default()
    };
    money_command::Entity::update_many()
        .set(started)
        .filter(Column::Id.eq(id))
        .exec(tx.conn())
        .await
        .map_err(fault)?;
    Ok(id)
}

/// The text of the condition equals that of its index, or neither database would use the index.
const STARTED_REFUND: &str = "kind = 'refund' and started_at is not null";

const REQUESTED: &str = "requested";
const STARTED: &str = "started";
/// The stored name of [`CommandState::Completed`].
const COMPLETED: &str = "answered";

fn new_row(payment: &Payment, now: Timestamp) -> payment::ActiveModel {
    payment::ActiveModel {
        id: Set(payment.id),
        order_id: Set(payment.order_id),
        user_id: Set(payment.user_id),
        amount: Set(payment.amount.amount),
        currency: Set(payment.amount.currency.clone()),
        payment_method: Set(payment.method.clone()),
        created_at: Set(payment.created_at.as_ms()),
        ..changed_row(payment, now)
    }
}

/// What a change of a payment can change.
fn changed_row(payment: &Payment, now: Timestamp) -> payment::ActiveModel {
    payment::ActiveModel {
        status: Set(payment.status.into_str().to_owned()),
        authorised_amount: Set(payment.authorised),
        captured_amount: Set(payment.captured),
        refunded_amount: Set(payment.refunded),
        refunding_amount: Set(payment.refunding),
        provider_authorisation: Set(payment.authorisation.clone()),
        decline_code: Set(payment.decline_code.clone()),
        void_requested: Set(payment.void_requested),
        updated_at: Set(now.as_ms()),
        version: Set(payment.version),
        ..Default::default()
    }
}

impl TryFrom<payment::Model> for Payment {
    type Error = Fault;

    fn try_from(row: payment::Model) -> Result<Self, Fault> {
        let status = row.status.parse().map_err(|_| unreadable("status", &row.status))?;
        Ok(Payment {
            id: row.id,
            order_id: row.order_id,
            user_id: row.user_id,
            status,
            amount: Money {
                amount: row.amount,
                currency: row.currency,
            },
            authorised: row.authorised_amount,
            captured: row.captured_amount,
            refunded: row.refunded_amount,
            refunding: row.refunding_amount,
            method: row.payment_method,
            authorisation: row.provider_authorisation,
            decline_code: row.decline_code,
            void_requested: row.void_requested,
            created_at: Timestamp::from_ms(row.created_at),
            version: row.version,
        })
    }
}

fn command_row(command: &MoneyCommand) -> Result<money_command::ActiveModel, Fault> {
    let (state, outcome) = match &command.state {
        CommandState::Requested => (REQUESTED, None),
        CommandState::Started => (STARTED, None),
        CommandState::Completed(outcome) => (COMPLETED, Some(write_outcome(outcome)?)),
    };
    Ok(money_command::ActiveModel {
        id: Set(command.id),
        kind: Set(command.kind.into_str().to_owned()),
        fingerprint: Set(command.fingerprint.clone()),
        payment_id: Set(command.payment_id),
        order_id: Set(command.order_id),
        amount: Set(command.amount.amount),
        currency: Set(command.amount.currency.clone()),
        reason: Set(command.reason.clone()),
        state: Set(state.to_owned()),
        outcome: Set(outcome),
        actor: Set(command.actor.clone()),
        traceparent: Set(command.trace.clone()),
        created_at: Set(command.created_at.as_ms()),
        started_at: Set(command.started_at.map(Timestamp::as_ms)),
        answered_at: Set(command.completed_at.map(Timestamp::as_ms)),
    })
}

fn completed_row(tx: &Tx, outcome: &Outcome) -> Result<money_command::ActiveModel, Fault> {
    Ok(money_command::ActiveModel {
        state: Set(COMPLETED.to_owned()),
        outcome: Set(Some(write_outcome(outcome)?)),
        answered_at: Set(Some(tx.clock().now().as_ms())),
        ..Default::default()
    })
}

impl TryFrom<money_command::Model> for MoneyCommand {
    type Error = Fault;

    fn try_from(row: money_command::Model) -> Result<Self, Fault> {
        let kind = row.kind.parse().map_err(|_| unreadable("kind", &row.kind))?;
        let state = match (row.state.as_str(), &row.outcome) {
            (REQUESTED, _) => CommandState::Requested,
            (STARTED, _) => CommandState::Started,
            (COMPLETED, Some(json)) => {
                CommandState::Completed(serde_json::from_str(json).map_err(|_| unreadable("outcome", json))?)
            }
            (other, _) => return Err(unreadable("state", other)),
        };
        Ok(MoneyCommand {
            id: row.id,
            kind,
            fingerprint: row.fingerprint,
            payment_id: row.payment_id,
            order_id: row.order_id,
            amount: Money {
                amount: row.amount,
                currency: row.currency,
            },
            reason: row.reason,
            state,
            actor: row.actor,
            trace: row.traceparent,
            created_at: Timestamp::from_ms(row.created_at),
            started_at: row.started_at.map(Timestamp::from_ms),
            completed_at: row.answered_at.map(Timestamp::from_ms),
        })
    }
}

fn write_outcome(outcome: &Outcome) -> Result<String, Fault> {
    serde_json::to_string(outcome).map_err(|error| Fault::internal("unwritable_outcome", error.to_string()))
}

fn unreadable(column: &str, value: &str) -> Fault {
    Fault::internal("unreadable_row", format!("{column} is {value:?}"))
}
