//! The table of notifications.

pub mod queue;

use std::str::FromStr;

use banyan_core::{Actor, Fault, Page, PageRequest, Timestamp};
use banyan_durable::{fault, newest_ids_first};
use sea_orm::{ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, TryInsertResult};
use shared_kernel::MaySee;
use uuid::Uuid;

use crate::notification::{Kind, Mail, Notification, Status};

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
        pub account_mail: Option<Uuid>,
        pub account_kind: Option<String>,
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
        kind: Set(first_kind(mail).into_str().to_owned()),
        subject: Set(mail.subject.clone()),
        body: Set(mail.body.clone()),
        recipient: Set(None),
        status: Set(Status::Queued.into_str().to_owned()),
        attempts: Set(0),
        refusals: Set(0),
        // Due at once, whatever the database's clock says, which may differ from ours.
        next_attempt_at: Set(0),
        lease_token: Set(0),
        traceparent: Set(traceparent),
        created_at: Set(now.as_ms()),
        sent_at: Set(None),
        last_error: Set(None),
        account_mail: Set(mail.account_mail),
        account_kind: Set(mail.account_mail.map(|_| mail.kind.into_str().to_owned())),
    };
    let inserted = Entity::insert(row)
        .on_conflict_do_nothing_on([Column::Cause])
        .exec_without_returning(conn)
        .await
        .map_err(fault)?;
    Ok(matches!(inserted, TryInsertResult::Inserted(1..)))
}

/// The kind that the first version of the table admits.
fn first_kind(mail: &Mail) -> Kind {
    match mail.account_mail {
        Some(_) => Kind::Welcome,
        None => mail.kind,
    }
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

fn notification_of(row: Model) -> Result<Notification, Fault> {
    Ok(Notification {
        id: row.id,
        kind: parse(row.account_kind.as_deref().unwrap_or(&row.kind))?,
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
