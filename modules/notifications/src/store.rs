//! The table of notifications, and the claim by which several instances share the sending.

use std::{str::FromStr, time::Duration};

use banyan_core::{Actor, Fault, Page, PageRequest, Timestamp};
use banyan_durable::{Tx, fault, newest_ids_first};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect, TryInsertResult,
    sea_query::{Expr, LockBehavior, LockType},
};
use shared_kernel::MaySee;
use uuid::Uuid;

use crate::notification::{ClaimedMail, Mail, Next, Notification, Status};

mod notification {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "notification")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub cause: Uuid,
        pub user_id: Uuid,
        pub kind: String,
        pub subject: String,
        pub body: String,
        pub recipient: Option<String>,
        pub status: String,
        pub attempts: i64,
        pub refusals: i64,
        pub next_attempt_at: i64,
        pub lease_token: i64,
        pub traceparent: Option<String>,
        pub created_at: i64,
        pub sent_at: Option<i64>,
        pub last_error: Option<String>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

use notification::{ActiveModel, Column, Entity, Model};

/// Queues a mail; false if its cause has one already.
pub async fn insert(
    conn: &impl ConnectionTrait,
    id: Uuid,
    cause: Uuid,
    traceparent: Option<String>,
    mail: &Mail,
    now: Timestamp,
) -> Result<bool, Fault> {
    let row = ActiveModel {
        id: Set(id),
        cause: Set(cause),
        user_id: Set(mail.user_id),
        kind: Set(mail.kind.into_str().to_owned()),
        subject: Set(mail.subject.clone()),
        body: Set(mail.body.clone()),
        recipient: Set(None),
        status: Set(Status::Queued.into_str().to_owned()),
        attempts: Set(0),
        refusals: Set(0),
        // Due at once. Claims compare with the database's clock, which may differ from ours.
        next_attempt_at: Set(0),
        lease_token: Set(0),
        traceparent: Set(traceparent),
        created_at: Set(now.as_ms()),
        sent_at: Set(None),
        last_error: Set(None),
    };
    let inserted = Entity::insert(row)
        .on_conflict_do_nothing_on([Column::Cause])
        .exec_without_returning(conn)
        .await
        .map_err(fault)?;
    Ok(matches!(inserted, TryInsertResult::Inserted(1..)))
}

/// The text of the condition equals that of the index, or neither database would use the index.
const IS_QUEUED: &str = "status = 'queued'";

/// Claims up to `limit` due mails for this instance, oldest first. No other instance claims them before `lease` has passed.
pub async fn claim_due(tx: &Tx, limit: u64, lease: Duration) -> Result<Vec<ClaimedMail>, Fault> {
    let now = tx.database_now().await?;
    let due = Entity::find()
        .filter(Expr::cust(IS_QUEUED))
        .filter(Column::NextAttemptAt.lte(now.as_ms()))
        .order_by_asc(Column::NextAttemptAt)
        .order_by_asc(Column::Id)
        .limit(limit)
        // SQLite has a single writer and ignores the lock.
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        .all(tx.conn())
        .await
        .map_err(fault)?;
    if due.is_empty() {
        return Ok(Vec::new());
    }
    Entity::update_many()
        .col_expr(Column::NextAttemptAt, Expr::value(now.plus(lease).as_ms()))
        .col_expr(Column::LeaseToken, Expr::col(Column::LeaseToken).add(1))
        .col_expr(Column::Attempts, Expr::col(Column::Attempts).add(1))
        .filter(Column::Id.is_in(due.iter().map(|row| row.id)))
        .exec(tx.conn())
        .await
        .map_err(fault)?;
    due.into_iter().map(claimed_of).collect()
}

/// Stores the outcome of an attempt; false if another instance has claimed the mail since, whose outcome counts.
pub async fn record(tx: &Tx, mail: &ClaimedMail, next: &Next, now: Timestamp) -> Result<bool, Fault> {
    let update = Entity::update_many();
    let update = match next {
        Next::Sent { to } => update
            .col_expr(Column::Status, Expr::value(Status::Sent.into_str()))
            .col_expr(Column::Recipient, Expr::value(to.as_str()))
            .col_expr(Column::SentAt, Expr::value(now.as_ms())),
        Next::Captured { to } => update
            .col_expr(Column::Status, Expr::value(Status::Captured.into_str()))
            .col_expr(Column::Recipient, Expr::value(to.as_str())),
        Next::Failed { error } => update
            .col_expr(Column::Status, Expr::value(Status::Failed.into_str()))
            .col_expr(Column::LastError, Expr::value(error.detail.as_str())),
        Next::Retry { after, refusals, error } => {
            let due_at = tx.database_now().await?.plus(*after);
            update
                .col_expr(Column::NextAttemptAt, Expr::value(due_at.as_ms()))
                .col_expr(Column::Refusals, Expr::value(i64::from(*refusals)))
                .col_expr(Column::LastError, Expr::value(error.detail.as_str()))
        }
    };
    let recorded = update
        .filter(Column::Id.eq(mail.id))
        .filter(Column::LeaseToken.eq(mail.token))
        .filter(Column::Status.eq(Status::Queued.into_str()))
        .exec(tx.conn())
        .await
        .map_err(fault)?;
    Ok(recorded.rows_affected == 1)
}

/// A user's notifications, newest first; none if `actor` may not see them. The cursor is the last id.
///
/// # Errors
/// `invalid_parameter` for a cursor of another list.
pub async fn list_visible(
    conn: &impl ConnectionTrait,
    actor: &Actor,
    user_id: Uuid,
    page: &PageRequest,
) -> Result<Page<Notification>, Fault> {
    if !actor.may_see(user_id) {
        return Ok(Page {
            items: Vec::new(),
            next: None,
        });
    }
    let query = newest_ids_first(Entity::find().filter(Column::UserId.eq(user_id)), Column::Id, page)?;
    let rows = query.all(conn).await.map_err(fault)?;
    let items = rows.into_iter().map(notification_of).collect::<Result<Vec<_>, _>>()?;
    Ok(page.page(items, |notification| notification.id))
}

fn claimed_of(row: Model) -> Result<ClaimedMail, Fault> {
    Ok(ClaimedMail {
        id: row.id,
        user_id: row.user_id,
        kind: parse(&row.kind)?,
        subject: row.subject,
        body: row.body,
        attempts: u32::try_from(row.attempts).unwrap_or(u32::MAX).saturating_add(1),
        refusals: u32::try_from(row.refusals).unwrap_or(u32::MAX),
        token: row.lease_token + 1,
        created_at: Timestamp::from_ms(row.created_at),
        traceparent: row.traceparent,
    })
}

fn notification_of(row: Model) -> Result<Notification, Fault> {
    Ok(Notification {
        id: row.id,
        kind: parse(&row.kind)?,
        subject: row.subject,
        body: row.body,
        to: row.recipient,
        status: parse(&row.status)?,
        created_at: Timestamp::from_ms(row.created_at),
        sent_at: row.sent_at.map(Timestamp::from_ms),
    })
}

/// Parses a stored kind or status.
fn parse<T: FromStr>(name: &str) -> Result<T, Fault> {
    name.parse()
        .map_err(|_| Fault::internal("unreadable_row", format!("a notification cannot be {name}")))
}
