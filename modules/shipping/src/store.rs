//! Shipments as rows.

use banyan_core::{Actor, Fault, Page, PageRequest, Timestamp};
use banyan_durable::{fault, lost_race, newest_ids_first};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, TryInsertResult,
    sea_query::Expr,
};
use shared_kernel::MaySee;
use uuid::Uuid;

use crate::shipment::{Shipment, Status, Step};

mod shipment {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "shipment")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub order_id: Uuid,
        pub user_id: Uuid,
        pub status: String,
        pub address: String,
        pub lines: String,
        pub tracking_number: Option<String>,
        pub carrier: Option<String>,
        pub version: i64,
        pub created_at: i64,
        pub ready_at: Option<i64>,
        pub dispatched_at: Option<i64>,
        pub delivered_at: Option<i64>,
        pub cancelled_at: Option<i64>,
        /// The command that scheduled it; null in a row of an earlier version, whose commands are remembered for ever.
        pub command_id: Option<Uuid>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// Which shipments a list contains.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub status: Option<Status>,
    pub order_id: Option<Uuid>,
}

/// Inserts a new shipment, scheduled by this command; false if the order has one.
pub async fn insert(conn: &impl ConnectionTrait, new: &Shipment, command: Uuid) -> Result<bool, Fault> {
    let row = shipment::ActiveModel {
        id: Set(new.id),
        order_id: Set(new.order_id),
        user_id: Set(new.user_id),
        status: Set(new.status.into_str().to_owned()),
        address: Set(to_json(&new.address)?),
        lines: Set(to_json(&new.lines)?),
        tracking_number: Set(new.tracking_number.clone()),
        carrier: Set(new.carrier.clone()),
        version: Set(new.version),
        created_at: Set(new.created_at.as_ms()),
        command_id: Set(Some(command)),
        ..Default::default()
    };
    let inserted = shipment::Entity::insert(row)
        .on_conflict_do_nothing_on([shipment::Column::OrderId])
        .exec_without_returning(conn);
    Ok(matches!(inserted.await.map_err(fault)?, TryInsertResult::Inserted(1)))
}

/// The order's shipment, if this command scheduled it.
pub async fn find_scheduled_by(
    conn: &impl ConnectionTrait,
    order_id: Uuid,
    command: Uuid,
) -> Result<Option<Uuid>, Fault> {
    let query = shipment::Entity::find()
        .filter(shipment::Column::OrderId.eq(order_id))
        .filter(shipment::Column::CommandId.eq(command));
    Ok(query.one(conn).await.map_err(fault)?.map(|row| row.id))
}

/// Stores the change that led to `next`. If another change came first, the transaction runs again.
pub async fn update(conn: &impl ConnectionTrait, next: &Shipment) -> Result<(), Fault> {
    use shipment::Column;
    let mut update = shipment::Entity::update_many()
        .col_expr(Column::Status, Expr::value(next.status.into_str()))
        .col_expr(Column::TrackingNumber, Expr::value(next.tracking_number.clone()))
        .col_expr(Column::Carrier, Expr::value(next.carrier.clone()))
        .col_expr(Column::Version, Expr::value(next.version));
    let entered = next
        .history
        .last()
        .and_then(|step| Some((time_of(step.status)?, step.at)));
    if let Some((column, at)) = entered {
        update = update.col_expr(column, Expr::value(at.as_ms()));
    }
    let updated = update
        .filter(Column::Id.eq(next.id))
        .filter(Column::Version.eq(next.version - 1))
        .exec(conn)
        .await
        .map_err(fault)?;
    if updated.rows_affected == 0 {
        return Err(lost_race("the shipment changed meanwhile"));
    }
    Ok(())
}

/// The column with the time at which a shipment entered this status.
fn time_of(status: Status) -> Option<shipment::Column> {
    match status {
        Status::Scheduled => None,
        Status::Ready => Some(shipment::Column::ReadyAt),
        Status::Dispatched => Some(shipment::Column::DispatchedAt),
        Status::Delivered => Some(shipment::Column::DeliveredAt),
        Status::Cancelled => Some(shipment::Column::CancelledAt),
    }
}

/// The shipment, if it exists and `actor` may see it.
pub async fn find_visible(conn: &impl ConnectionTrait, id: Uuid, actor: &Actor) -> Result<Option<Shipment>, Fault> {
    let found = find_one(conn, Condition::all().add(shipment::Column::Id.eq(id))).await?;
    Ok(found.filter(|shipment| actor.may_see(shipment.user_id)))
}

/// The order's shipment, if it has one and `actor` may see it.
pub async fn find_visible_of_order(
    conn: &impl ConnectionTrait,
    order_id: Uuid,
    actor: &Actor,
) -> Result<Option<Shipment>, Fault> {
    Ok(find_of_order(conn, order_id)
        .await?
        .filter(|shipment| actor.may_see(shipment.user_id)))
}

/// The order's shipment, for commands of other modules, which act for the order and not for a user.
pub async fn find_of_order(conn: &impl ConnectionTrait, order_id: Uuid) -> Result<Option<Shipment>, Fault> {
    find_one(conn, Condition::all().add(shipment::Column::OrderId.eq(order_id))).await
}

/// Everybody's shipments, newest first: for the back office alone. The cursor is the last id.
///
/// # Errors
/// `invalid_parameter` for a cursor of another list.
pub async fn list_all(
    conn: &impl ConnectionTrait,
    filter: &Filter,
    page: &PageRequest,
) -> Result<Page<Shipment>, Fault> {
    let mut query = shipment::Entity::find();
    if let Some(status) = filter.status {
        query = query.filter(shipment::Column::Status.eq(status.into_str()));
    }
    if let Some(order_id) = filter.order_id {
        query = query.filter(shipment::Column::OrderId.eq(order_id));
    }
    let query = newest_ids_first(query, shipment::Column::Id, page)?;
    let rows = query.all(conn).await.map_err(fault)?;
    let shipments = rows.iter().map(shipment_of).collect::<Result<Vec<_>, _>>()?;
    Ok(page.page(shipments, |shipment| shipment.id))
}

async fn find_one(conn: &impl ConnectionTrait, condition: Condition) -> Result<Option<Shipment>, Fault> {
    let row = shipment::Entity::find()
        .filter(condition)
        .one(conn)
        .await
        .map_err(fault)?;
    row.as_ref().map(shipment_of).transpose()
}

fn shipment_of(row: &shipment::Model) -> Result<Shipment, Fault> {
    let entered = [
        (Status::Scheduled, Some(row.created_at)),
        (Status::Ready, row.ready_at),
        (Status::Dispatched, row.dispatched_at),
        (Status::Delivered, row.delivered_at),
        (Status::Cancelled, row.cancelled_at),
    ];
    let history = entered.into_iter().filter_map(|(status, at)| {
        Some(Step {
            at: Timestamp::from_ms(at?),
            status,
        })
    });
    Ok(Shipment {
        id: row.id,
        order_id: row.order_id,
        user_id: row.user_id,
        status: status_of(&row.status)?,
        address: of_json(&row.address)?,
        lines: of_json(&row.lines)?,
        tracking_number: row.tracking_number.clone(),
        carrier: row.carrier.clone(),
        history: history.collect(),
        created_at: Timestamp::from_ms(row.created_at),
        version: row.version,
    })
}

fn status_of(name: &str) -> Result<Status, Fault> {
    name.parse()
        .map_err(|_| Fault::internal("unreadable_row", format!("{name:?} is not a status of a shipment")))
}

fn to_json(value: &impl serde::Serialize) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| Fault::internal("unwritable_row", error.to_string()))
}

fn of_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| Fault::internal("unreadable_row", error.to_string()))
}
