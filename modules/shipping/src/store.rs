//! Shipments as rows.

use std::collections::HashMap;

use banyan_core::{Actor, Fault, Page, PageRequest, Timestamp};
use banyan_durable::{fault, is_unique_violation, lost_race, newest_ids_first};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, sea_query::Expr,
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
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod step {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "shipment_step")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub shipment_id: Uuid,
        #[sea_orm(primary_key, auto_increment = false)]
        pub version: i64,
        pub status: String,
        pub at: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// Which shipments a list contains.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub status: Option<Status>,
    pub order_id: Option<Uuid>,
}

/// Inserts a new shipment. If the order got one meanwhile, the transaction runs again and finds it.
pub async fn insert(conn: &impl ConnectionTrait, new: &Shipment) -> Result<(), Fault> {
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
    };
    match shipment::Entity::insert(row).exec_without_returning(conn).await {
        Err(error) if is_unique_violation(&error) => return Err(lost_race("the order got a shipment meanwhile")),
        inserted => inserted.map_err(fault)?,
    };
    insert_last_step(conn, new).await
}

/// Stores the change that led to `next`. If another change came first, the transaction runs again.
pub async fn update(conn: &impl ConnectionTrait, next: &Shipment) -> Result<(), Fault> {
    let updated = shipment::Entity::update_many()
        .col_expr(shipment::Column::Status, Expr::value(next.status.into_str()))
        .col_expr(
            shipment::Column::TrackingNumber,
            Expr::value(next.tracking_number.clone()),
        )
        .col_expr(shipment::Column::Carrier, Expr::value(next.carrier.clone()))
        .col_expr(shipment::Column::Version, Expr::value(next.version))
        .filter(shipment::Column::Id.eq(next.id))
        .filter(shipment::Column::Version.eq(next.version - 1))
        .exec(conn)
        .await
        .map_err(fault)?;
    if updated.rows_affected == 0 {
        return Err(lost_race("the shipment changed meanwhile"));
    }
    insert_last_step(conn, next).await
}

async fn insert_last_step(conn: &impl ConnectionTrait, shipment: &Shipment) -> Result<(), Fault> {
    let Some(last) = shipment.history.last() else {
        return Ok(());
    };
    let row = step::ActiveModel {
        shipment_id: Set(shipment.id),
        version: Set(shipment.version),
        status: Set(last.status.into_str().to_owned()),
        at: Set(last.at.as_ms()),
    };
    step::Entity::insert(row)
        .exec_without_returning(conn)
        .await
        .map_err(fault)?;
    Ok(())
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
    Ok(page.page(with_steps(conn, rows).await?, |shipment| shipment.id))
}

async fn find_one(conn: &impl ConnectionTrait, condition: Condition) -> Result<Option<Shipment>, Fault> {
    let row = shipment::Entity::find()
        .filter(condition)
        .one(conn)
        .await
        .map_err(fault)?;
    Ok(with_steps(conn, row.into_iter().collect()).await?.pop())
}

async fn with_steps(conn: &impl ConnectionTrait, rows: Vec<shipment::Model>) -> Result<Vec<Shipment>, Fault> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let steps = step::Entity::find()
        .filter(step::Column::ShipmentId.is_in(rows.iter().map(|row| row.id)))
        .order_by_asc(step::Column::Version)
        .all(conn)
        .await
        .map_err(fault)?;
    let mut histories: HashMap<Uuid, Vec<Step>> = HashMap::new();
    for step in steps {
        let entered = Step {
            at: Timestamp::from_ms(step.at),
            status: status_of(&step.status)?,
        };
        histories.entry(step.shipment_id).or_default().push(entered);
    }
    rows.into_iter()
        .map(|row| shipment_of(&row, histories.remove(&row.id).unwrap_or_default()))
        .collect()
}

fn shipment_of(row: &shipment::Model, mut history: Vec<Step>) -> Result<Shipment, Fault> {
    // On PostgreSQL the steps are read after the row; a step that was inserted in between belongs to a later version.
    history.truncate(usize::try_from(row.version).unwrap_or(usize::MAX));
    Ok(Shipment {
        id: row.id,
        order_id: row.order_id,
        user_id: row.user_id,
        status: status_of(&row.status)?,
        address: of_json(&row.address)?,
        lines: of_json(&row.lines)?,
        tracking_number: row.tracking_number.clone(),
        carrier: row.carrier.clone(),
        history,
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
