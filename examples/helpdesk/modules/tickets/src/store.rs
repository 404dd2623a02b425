//! Tickets as rows.

use std::str::FromStr;

use banyan_core::{Fault, Page, PageRequest, Timestamp};
use banyan_durable::{fault, lost_race};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr,
};
use uuid::Uuid;

use crate::ticket::{Status, Ticket};

mod ticket {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "ticket")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub subject: String,
        pub severity: String,
        pub status: String,
        pub agent_ids: String,
        pub version: i64,
        pub opened_at: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

impl TryFrom<ticket::Model> for Ticket {
    type Error = Fault;

    fn try_from(row: ticket::Model) -> Result<Self, Fault> {
        Ok(Ticket {
            severity: read(&row.severity)?,
            status: read(&row.status)?,
            agent_ids: serde_json::from_str(&row.agent_ids)
                .map_err(|error| Fault::internal("unreadable_row", error.to_string()))?,
            id: row.id,
            subject: row.subject,
            opened_at: Timestamp::from_ms(row.opened_at),
            version: row.version,
        })
    }
}

pub async fn insert(conn: &impl ConnectionTrait, new: &Ticket) -> Result<(), Fault> {
    let row = ticket::ActiveModel {
        id: Set(new.id),
        subject: Set(new.subject.clone()),
        severity: Set(new.severity.into_str().to_owned()),
        status: Set(new.status.into_str().to_owned()),
        agent_ids: Set(write(&new.agent_ids)?),
        version: Set(new.version),
        opened_at: Set(new.opened_at.as_ms()),
    };
    ticket::Entity::insert(row)
        .exec_without_returning(conn)
        .await
        .map_err(fault)?;
    Ok(())
}

/// Stores the change that led to `next`. If another change came first, the transaction runs again.
pub async fn update(conn: &impl ConnectionTrait, next: &Ticket) -> Result<(), Fault> {
    let updated = ticket::Entity::update_many()
        .col_expr(ticket::Column::Status, Expr::value(next.status.into_str()))
        .col_expr(ticket::Column::AgentIds, Expr::value(write(&next.agent_ids)?))
        .col_expr(ticket::Column::Version, Expr::value(next.version))
        .filter(ticket::Column::Id.eq(next.id))
        .filter(ticket::Column::Version.eq(next.version - 1))
        .exec(conn)
        .await
        .map_err(fault)?;
    if updated.rows_affected == 0 {
        return Err(lost_race("the ticket changed meanwhile"));
    }
    Ok(())
}

pub async fn find(conn: &impl ConnectionTrait, id: Uuid) -> Result<Option<Ticket>, Fault> {
    let row = ticket::Entity::find_by_id(id).one(conn).await.map_err(fault)?;
    row.map(Ticket::try_from).transpose()
}

/// # Errors
/// `not_found`.
pub async fn load(conn: &impl ConnectionTrait, id: Uuid) -> Result<Ticket, Fault> {
    find(conn, id).await?.ok_or_else(|| Fault::not_found("ticket"))
}

/// Newest first. The cursor is the last id.
///
/// # Errors
/// `invalid_parameter` for a cursor of another list.
pub async fn list(
    conn: &impl ConnectionTrait,
    status: Option<Status>,
    page: &PageRequest,
) -> Result<Page<Ticket>, Fault> {
    let mut query = ticket::Entity::find();
    if let Some(status) = status {
        query = query.filter(ticket::Column::Status.eq(status.into_str()));
    }
    if let Some(after) = &page.after {
        query = query.filter(ticket::Column::Id.lt(after.id()?));
    }
    let rows = query
        .order_by_desc(ticket::Column::Id)
        .limit(page.fetch_limit())
        .all(conn)
        .await
        .map_err(fault)?;
    let tickets: Vec<Ticket> = rows.into_iter().map(Ticket::try_from).collect::<Result<_, _>>()?;
    Ok(page.page(tickets, |ticket| ticket.id))
}

fn write(agent_ids: &[Uuid]) -> Result<String, Fault> {
    serde_json::to_string(agent_ids).map_err(|error| Fault::internal("unwritable_row", error.to_string()))
}

fn read<T: FromStr>(name: &str) -> Result<T, Fault> {
    name.parse()
        .map_err(|_| Fault::internal("unreadable_row", format!("{name:?} is not a known name")))
}
