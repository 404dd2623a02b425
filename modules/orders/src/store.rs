//! Events and views as rows.

pub mod carts;
pub mod tickets;

use std::collections::BTreeMap;

use banyan_core::{Actor, Fault, Page, PageRequest, Timestamp};
use banyan_durable::{fault, insert_and, is_unique_violation, lost_race, newest_first};
use sea_orm::{
    ActiveModelTrait,
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select,
    sea_query::{Expr, InsertStatement, OnConflict, UpdateStatement},
};
use shared_kernel::{MaySee, Money};
use uuid::Uuid;

use crate::{
    event::{CancelReason, OrderEvent, Recorded, Status},
    stream::EventStream,
    views::{OrderView, ReadModel},
};

mod order_event {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "order_event")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub order_id: Uuid,
        #[sea_orm(primary_key, auto_increment = false)]
        pub version: i64,
        pub kind: String,
        pub data: String,
        pub at: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod order_view {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "order_view")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub user_id: Uuid,
        pub status: String,
        pub cancel_reason: Option<String>,
        pub items: String,
        pub total_amount: i64,
        pub currency: String,
        pub payment: Option<String>,
        pub shipment: Option<String>,
        pub created_at: i64,
        pub version: i64,
        pub progress: Option<String>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// Which orders a list contains.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// `None`: the orders of all users, for staff.
    pub user_id: Option<Uuid>,
    pub status: Option<Status>,
}

/// The order or cart, whoever the actor is: for methods that check the actor themselves.
pub async fn find_stream(conn: &impl ConnectionTrait, id: Uuid, now: Timestamp) -> Result<Option<EventStream>, Fault> {
    stream_of(conn, order_view::Entity::find_by_id(id), id, now).await
}

/// As [`find_stream`], and locks a placed order until the transaction ends: another writer waits instead of losing a race. For sagas and reactions.
/// Whoever also locks the order's saga does so afterwards.
pub async fn lock_stream(conn: &impl ConnectionTrait, id: Uuid, now: Timestamp) -> Result<Option<EventStream>, Fault> {
    stream_of(conn, order_view::Entity::find_by_id(id).lock_exclusive(), id, now).await
}

/// By the view's row; by its events, if there is no row that has all: a cart, or an order of an earlier version.
async fn stream_of(
    conn: &impl ConnectionTrait,
    row: Select<order_view::Entity>,
    id: Uuid,
    now: Timestamp,
) -> Result<Option<EventStream>, Fault> {
    let row = row.one(conn).await.map_err(fault)?;
    let stored = row.as_ref().map(read_model_of).transpose()?;
    if let Some(ReadModel {
        view,
        progress: Some(progress),
    }) = stored
    {
        return Ok(Some(EventStream::resume(view, progress, now)));
    }
    let recorded = events_after(conn, id, 0).await?;
    if recorded.is_empty() {
        Ok(None)
    } else {
        EventStream::of(id, &recorded, now).map(Some)
    }
}

/// The stream, if the order or cart exists and `actor` may see it.
pub async fn find_visible_stream(
    conn: &impl ConnectionTrait,
    id: Uuid,
    actor: &Actor,
    now: Timestamp,
) -> Result<Option<EventStream>, Fault> {
    Ok(find_stream(conn, id, now)
        .await?
        .filter(|stream| actor.may_see(stream.order().user_id)))
}

/// The events of the order after `version`.
pub async fn events_after(conn: &impl ConnectionTrait, id: Uuid, version: i64) -> Result<Vec<Recorded>, Fault> {
    let rows = order_event::Entity::find()
        .filter(order_event::Column::OrderId.eq(id))
        .filter(order_event::Column::Version.gt(version))
        .order_by_asc(order_event::Column::Version)
        .all(conn)
        .await
        .map_err(fault)?;
    rows.iter().map(recorded_of).collect()
}

/// Stores the new events of the stream, and the read model it now folds to. If another writer came first, the transaction runs again.
pub async fn append(conn: &impl ConnectionTrait, stream: &EventStream) -> Result<(), Fault> {
    if stream.fresh().is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = stream
        .fresh()
        .iter()
        .map(|recorded| row_of(stream.id(), recorded))
        .collect::<Result<_, _>>()?;
    let events = order_event::Entity::insert_many(rows).into_query();
    let stored = match (stream.read_model(), stream.stored_view()) {
        (Some(model), Some(version)) => insert_and(conn, events, update_view(&model, version)?).await,
        (Some(model), None) => insert_and(conn, events, insert_views(&[model])?).await,
        (None, _) => conn.execute(&events).await.map(|done| done.rows_affected()),
    };
    match stored.map_err(unless_changed)? {
        0 => Err(changed_meanwhile()),
        _ => carts::follow(conn, stream).await,
    }
}

/// What events may have changed in the view that has this version.
fn update_view(model: &ReadModel, version: i64) -> Result<UpdateStatement, Fault> {
    let mut row = row_of_model(model)?;
    for placed in [
        order_view::Column::Id,
        order_view::Column::UserId,
        order_view::Column::Items,
        order_view::Column::TotalAmount,
        order_view::Column::Currency,
        order_view::Column::CreatedAt,
    ] {
        row.not_set(placed);
    }
    Ok(order_view::Entity::update_many()
        .set(row)
        .filter(order_view::Column::Id.eq(model.view.id))
        .filter(order_view::Column::Version.eq(version))
        .into_query())
}

/// Another writer has taken the next version.
fn unless_changed(error: DbErr) -> Fault {
    if is_unique_violation(&error) {
        changed_meanwhile()
    } else {
        fault(error)
    }
}

fn changed_meanwhile() -> Fault {
    lost_race("the order changed meanwhile")
}

/// Writes the read models, unless newer ones are stored.
pub async fn write_views(conn: &impl ConnectionTrait, models: &[ReadModel]) -> Result<(), Fault> {
    if models.is_empty() {
        return Ok(());
    }
    conn.execute(&insert_views(models)?).await.map(drop).map_err(fault)
}

fn insert_views(models: &[ReadModel]) -> Result<InsertStatement, Fault> {
    let rows: Vec<_> = models.iter().map(row_of_model).collect::<Result<_, _>>()?;
    let newer = OnConflict::column(order_view::Column::Id)
        .update_columns([
            order_view::Column::UserId,
            order_view::Column::Status,
            order_view::Column::CancelReason,
            order_view::Column::Items,
            order_view::Column::TotalAmount,
            order_view::Column::Currency,
            order_view::Column::Payment,
            order_view::Column::Shipment,
            order_view::Column::CreatedAt,
            order_view::Column::Version,
            order_view::Column::Progress,
        ])
        .action_and_where(Expr::cust("order_view.version <= excluded.version"))
        .to_owned();
    Ok(order_view::Entity::insert_many(rows).on_conflict(newer).into_query())
}

/// Deletes the views of these orders, to be folded again.
pub async fn delete_views(conn: &impl ConnectionTrait, ids: &[Uuid]) -> Result<(), Fault> {
    let these = order_view::Column::Id.is_in(ids.iter().copied());
    order_view::Entity::delete_many()
        .filter(these)
        .exec(conn)
        .await
        .map_err(fault)?;
    Ok(())
}

/// The events of each of these orders, whoever the actor is.
pub async fn streams_of(conn: &impl ConnectionTrait, ids: &[Uuid]) -> Result<BTreeMap<Uuid, Vec<Recorded>>, Fault> {
    let these = order_event::Column::OrderId.is_in(ids.iter().copied());
    let rows = order_event::Entity::find()
        .filter(these)
        .order_by_asc(order_event::Column::Version)
        .all(conn)
        .await
        .map_err(fault)?;
    let mut streams: BTreeMap<Uuid, Vec<Recorded>> = BTreeMap::new();
    for row in &rows {
        streams.entry(row.order_id).or_default().push(recorded_of(row)?);
    }
    Ok(streams)
}

/// The read models of these orders, whoever the actor is: for comparing.
pub async fn read_models_of(conn: &impl ConnectionTrait, ids: &[Uuid]) -> Result<BTreeMap<Uuid, ReadModel>, Fault> {
    let these = order_view::Column::Id.is_in(ids.iter().copied());
    let rows = order_view::Entity::find()
        .filter(these)
        .all(conn)
        .await
        .map_err(fault)?;
    rows.iter().map(|row| Ok((row.id, read_model_of(row)?))).collect()
}

/// The view, whoever the actor is.
pub async fn find_view(conn: &impl ConnectionTrait, id: Uuid) -> Result<Option<OrderView>, Fault> {
    let row = order_view::Entity::find_by_id(id).one(conn).await.map_err(fault)?;
    row.as_ref().map(view_of).transpose()
}

/// The order, if it was placed and `actor` may see it.
pub async fn find_visible(conn: &impl ConnectionTrait, id: Uuid, actor: &Actor) -> Result<Option<OrderView>, Fault> {
    Ok(find_view(conn, id).await?.filter(|view| actor.may_see(view.user_id)))
}

/// Orders, newest first, without carts. The filter says whose; the caller has checked that the actor may see them.
///
/// # Errors
/// `invalid_parameter` for a cursor of another list.
pub async fn list(conn: &impl ConnectionTrait, filter: &Filter, page: &PageRequest) -> Result<Page<OrderView>, Fault> {
    let mut query = order_view::Entity::find();
    if let Some(user_id) = filter.user_id {
        query = query.filter(order_view::Column::UserId.eq(user_id));
    }
    if let Some(status) = filter.status {
        query = query.filter(order_view::Column::Status.eq(status.into_str()));
    }
    let sorted_by = (order_view::Column::CreatedAt, order_view::Column::Id);
    let query = newest_first::<_, Uuid>(query, sorted_by, page)?;
    let rows = query.all(conn).await.map_err(fault)?;
    let views = rows.iter().map(view_of).collect::<Result<Vec<_>, _>>()?;
    Ok(page.page(views, |view| (view.created_at, view.id)))
}

/// The next orders and carts by id: for visiting all of them.
pub async fn stream_ids_after(
    conn: &impl ConnectionTrait,
    after: Option<Uuid>,
    limit: u64,
) -> Result<Vec<Uuid>, Fault> {
    let mut query = order_event::Entity::find()
        .select_only()
        .column(order_event::Column::OrderId);
    // Every stream has a first event, and only one.
    query = query.filter(order_event::Column::Version.eq(1));
    if let Some(after) = after {
        query = query.filter(order_event::Column::OrderId.gt(after));
    }
    query
        .order_by_asc(order_event::Column::OrderId)
        .limit(limit)
        .into_tuple()
        .all(conn)
        .await
        .map_err(fault)
}

/// The next views by id: for finding those without a stream.
pub async fn view_ids_after(conn: &impl ConnectionTrait, after: Option<Uuid>, limit: u64) -> Result<Vec<Uuid>, Fault> {
    let mut query = order_view::Entity::find().select_only().column(order_view::Column::Id);
    if let Some(after) = after {
        query = query.filter(order_view::Column::Id.gt(after));
    }
    query
        .order_by_asc(order_view::Column::Id)
        .limit(limit)
        .into_tuple()
        .all(conn)
        .await
        .map_err(fault)
}

fn row_of(order_id: Uuid, recorded: &Recorded) -> Result<order_event::ActiveModel, Fault> {
    let (kind, data) = recorded.event.to_parts()?;
    Ok(order_event::ActiveModel {
        order_id: Set(order_id),
        version: Set(recorded.version),
        kind: Set(kind),
        data: Set(data.to_string()),
        at: Set(recorded.at.as_ms()),
    })
}

fn recorded_of(row: &order_event::Model) -> Result<Recorded, Fault> {
    let event = OrderEvent::of_parts(&row.kind, &row.data)?;
    Ok(Recorded {
        version: row.version,
        at: Timestamp::from_ms(row.at),
        event,
    })
}

fn row_of_model(model: &ReadModel) -> Result<order_view::ActiveModel, Fault> {
    let ReadModel { view, progress } = model;
    Ok(order_view::ActiveModel {
        id: Set(view.id),
        user_id: Set(view.user_id),
        status: Set(view.status.to_string()),
        cancel_reason: Set(view.cancel_reason.map(|reason| reason.to_string())),
        items: Set(to_json(&view.items)?),
        total_amount: Set(view.total.amount),
        currency: Set(view.total.currency.clone()),
        payment: Set(view.payment.as_ref().map(to_json).transpose()?),
        shipment: Set(view.shipment.as_ref().map(to_json).transpose()?),
        created_at: Set(view.created_at.as_ms()),
        version: Set(view.version),
        progress: Set(progress.as_ref().map(to_json).transpose()?),
    })
}

fn read_model_of(row: &order_view::Model) -> Result<ReadModel, Fault> {
    Ok(ReadModel {
        view: view_of(row)?,
        progress: row.progress.as_deref().map(of_json).transpose()?,
    })
}

fn view_of(row: &order_view::Model) -> Result<OrderView, Fault> {
    let unreadable = |what: &str| Fault::internal("unreadable_row", format!("order {}: {what}", row.id));
    let cancel_reason = match &row.cancel_reason {
        Some(name) => Some(name.parse::<CancelReason>().map_err(|_| unreadable("cancel_reason"))?),
        None => None,
    };
    Ok(OrderView {
        id: row.id,
        user_id: row.user_id,
        status: row.status.parse().map_err(|_| unreadable("status"))?,
        cancel_reason,
        items: of_json(&row.items)?,
        total: Money {
            amount: row.total_amount,
            currency: row.currency.clone(),
        },
        payment: row.payment.as_deref().map(of_json).transpose()?,
        shipment: row.shipment.as_deref().map(of_json).transpose()?,
        created_at: Timestamp::from_ms(row.created_at),
        version: row.version,
    })
}

fn to_json(value: &impl serde::Serialize) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| Fault::internal("unwritable_row", error.to_string()))
}

fn of_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| Fault::internal("unreadable_row", error.to_string()))
}
