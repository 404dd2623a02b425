//! Agents and their reservations as rows.

use banyan_core::{Fault, Page, PageRequest};
use banyan_durable::{fault, lost_race};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait, sea_query::Expr,
};
use uuid::Uuid;

use crate::agent::Agent;

mod agent {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "agent")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub name: String,
        pub capacity: i64,
        pub reserved: i64,
        pub closed_tickets: i64,
        pub version: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod reservation {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "reservation")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub ticket_id: Uuid,
        pub agent_id: Uuid,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

impl From<agent::Model> for Agent {
    fn from(row: agent::Model) -> Self {
        Agent {
            id: row.id,
            name: row.name,
            capacity: row.capacity,
            reserved: row.reserved,
            closed_tickets: row.closed_tickets,
            version: row.version,
        }
    }
}

pub async fn insert(conn: &impl ConnectionTrait, new: &Agent) -> Result<(), Fault> {
    let row = agent::ActiveModel {
        id: Set(new.id),
        name: Set(new.name.clone()),
        capacity: Set(new.capacity),
        reserved: Set(new.reserved),
        closed_tickets: Set(new.closed_tickets),
        version: Set(new.version),
    };
    agent::Entity::insert(row)
        .exec_without_returning(conn)
        .await
        .map_err(fault)?;
    Ok(())
}

/// Stores the change that led to `next`. If another change came first, the transaction runs again.
pub async fn update(conn: &impl ConnectionTrait, next: &Agent) -> Result<(), Fault> {
    let updated = agent::Entity::update_many()
        .col_expr(agent::Column::Reserved, Expr::value(next.reserved))
        .col_expr(agent::Column::ClosedTickets, Expr::value(next.closed_tickets))
        .col_expr(agent::Column::Version, Expr::value(next.version))
        .filter(agent::Column::Id.eq(next.id))
        .filter(agent::Column::Version.eq(next.version - 1))
        .exec(conn)
        .await
        .map_err(fault)?;
    if updated.rows_affected == 0 {
        return Err(lost_race("the agent changed meanwhile"));
    }
    Ok(())
}

pub async fn find(conn: &impl ConnectionTrait, id: Uuid) -> Result<Option<Agent>, Fault> {
    let row = agent::Entity::find_by_id(id).one(conn).await.map_err(fault)?;
    Ok(row.map(Agent::from))
}

/// Newest first. The cursor is the last id.
///
/// # Errors
/// `invalid_parameter` for a cursor of another list.
pub async fn list(conn: &impl ConnectionTrait, page: &PageRequest) -> Result<Page<Agent>, Fault> {
    let mut query = agent::Entity::find();
    if let Some(after) = &page.after {
        query = query.filter(agent::Column::Id.lt(after.id()?));
    }
    let rows = query
        .order_by_desc(agent::Column::Id)
        .limit(page.fetch_limit())
        .all(conn)
        .await
        .map_err(fault)?;
    Ok(page.page(rows.into_iter().map(Agent::from).collect(), |agent| agent.id))
}

/// The agent with the most free places who does not work on this ticket yet; of several, the one who was added first.
pub async fn find_freest(conn: &impl ConnectionTrait, ticket_id: Uuid) -> Result<Option<Agent>, Fault> {
    use agent::Column;
    let on_ticket = reservation::Entity::find()
        .select_only()
        .column(reservation::Column::AgentId)
        .filter(reservation::Column::TicketId.eq(ticket_id))
        .into_query();
    let row = agent::Entity::find()
        .filter(Expr::col(Column::Reserved).lt(Expr::col(Column::Capacity)))
        .filter(Column::Id.not_in_subquery(on_ticket))
        .order_by_desc(Expr::col(Column::Capacity).sub(Expr::col(Column::Reserved)))
        .order_by_asc(Column::Id)
        .one(conn)
        .await
        .map_err(fault)?;
    Ok(row.map(Agent::from))
}

/// Inserts the reservation that the command `id` made.
pub async fn insert_reservation(
    conn: &impl ConnectionTrait,
    id: Uuid,
    ticket_id: Uuid,
    agent_id: Uuid,
) -> Result<(), Fault> {
    let row = reservation::ActiveModel {
        id: Set(id),
        ticket_id: Set(ticket_id),
        agent_id: Set(agent_id),
    };
    reservation::Entity::insert(row)
        .exec_without_returning(conn)
        .await
        .map_err(fault)?;
    Ok(())
}

/// Deletes the reservation that the command `id` made. Returns its agent; `None` if there is no such reservation.
pub async fn delete_reservation(conn: &impl ConnectionTrait, id: Uuid) -> Result<Option<Uuid>, Fault> {
    let deleted = reservation::Entity::delete_many()
        .filter(reservation::Column::Id.eq(id))
        .exec_with_returning(conn)
        .await
        .map_err(fault)?;
    Ok(deleted.into_iter().next().map(|row| row.agent_id))
}

/// Deletes the reservations of a ticket. Returns their agents, sorted, so that two transactions cannot deadlock on them.
pub async fn delete_reservations_of(conn: &impl ConnectionTrait, ticket_id: Uuid) -> Result<Vec<Uuid>, Fault> {
    let deleted = reservation::Entity::delete_many()
        .filter(reservation::Column::TicketId.eq(ticket_id))
        .exec_with_returning(conn)
        .await
        .map_err(fault)?;
    let mut agents: Vec<Uuid> = deleted.into_iter().map(|row| row.agent_id).collect();
    agents.sort();
    Ok(agents)
}
