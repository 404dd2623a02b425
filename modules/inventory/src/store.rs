//! The tables of stock, reservations and the movement ledger, and the queries on them.

use banyan_core::{Fault, Timestamp};
use banyan_durable::{fault, lost_race};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter, TryInsertResult,
    sea_query::{Expr, OnConflict},
};
use shared_kernel::Sku;
use uuid::Uuid;

use crate::{
    reservation::{Lines, ReservationState, Transition},
    stock::{Movement, StockItem},
};

mod stock_item {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "stock_item")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub sku: String,
        pub on_hand: i64,
        pub reserved: i64,
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
        pub order_id: Uuid,
        pub command_id: Uuid,
        pub state: String,
        pub created_at: i64,
        pub changed_at: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod reservation_line {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "reservation_line")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub order_id: Uuid,
        #[sea_orm(primary_key, auto_increment = false)]
        pub sku: String,
        pub quantity: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod movement {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "movement")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub sku: String,
        pub kind: String,
        pub quantity: i64,
        pub order_id: Option<Uuid>,
        pub actor: String,
        pub reason: Option<String>,
        pub at: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

impl TryFrom<stock_item::Model> for StockItem {
    type Error = Fault;

    fn try_from(row: stock_item::Model) -> Result<Self, Fault> {
        Ok(StockItem {
            sku: read_sku(&row.sku)?,
            on_hand: row.on_hand,
            reserved: row.reserved,
            version: row.version,
        })
    }
}

/// Parses a stored sku. Only valid ones are written, so an invalid one is a broken row.
fn read_sku(text: &str) -> Result<Sku, Fault> {
    Sku::parse(text).map_err(|_| Fault::internal("broken_row", format!("{text:?} is not a valid sku")))
}

pub async fn find_item(conn: &impl ConnectionTrait, sku: &Sku) -> Result<Option<StockItem>, Fault> {
    let row = stock_item::Entity::find_by_id(sku.as_str())
        .one(conn)
        .await
        .map_err(fault)?;
    row.map(StockItem::try_from).transpose()
}

/// Moves units of an item if the resulting level keeps the invariant, in one statement, so that two orders cannot both get the last unit. `None`
/// means that nothing was changed: the item does not exist, or has too few units.
pub async fn move_units(
    conn: &impl ConnectionTrait,
    sku: &Sku,
    kind: Movement,
    quantity: i64,
) -> Result<Option<StockItem>, Fault> {
    use stock_item::Column;
    let effect = kind.effect(quantity);
    let on_hand = || Expr::col(Column::OnHand).add(effect.on_hand);
    let reserved = || Expr::col(Column::Reserved).add(effect.reserved);
    let rows = stock_item::Entity::update_many()
        .col_expr(Column::OnHand, on_hand())
        .col_expr(Column::Reserved, reserved())
        .col_expr(Column::Version, Expr::col(Column::Version).add(1))
        .filter(Column::Sku.eq(sku.as_str()))
        .filter(reserved().gte(0))
        .filter(reserved().lte(on_hand()))
        .exec_with_returning(conn)
        .await
        .map_err(fault)?;
    rows.into_iter().next().map(StockItem::try_from).transpose()
}

/// Adds received units; the first receipt of a sku creates its item.
pub async fn receive_units(conn: &impl ConnectionTrait, sku: &Sku, quantity: i64) -> Result<StockItem, Fault> {
    use stock_item::Column;
    let new = stock_item::ActiveModel {
        sku: Set(sku.to_string()),
        on_hand: Set(quantity),
        reserved: Set(0),
        version: Set(1),
    };
    let table = stock_item::Entity;
    let add = OnConflict::column(Column::Sku)
        .value(Column::OnHand, Expr::col((table, Column::OnHand)).add(quantity))
        .value(Column::Version, Expr::col((table, Column::Version)).add(1))
        .to_owned();
    let row = stock_item::Entity::insert(new)
        .on_conflict(add)
        .exec_with_returning(conn)
        .await
        .map_err(fault)?;
    row.try_into()
}

/// A row of the ledger.
pub struct LedgerEntry {
    pub id: Uuid,
    pub sku: Sku,
    pub kind: Movement,
    pub quantity: i64,
    pub order_id: Option<Uuid>,
    /// Who moved the units, as [`Actor::label`](banyan_core::Actor::label).
    pub actor: String,
    pub reason: Option<String>,
    pub at: Timestamp,
}

/// Appends to the ledger. Its rows are never changed or deleted.
pub async fn append_movements(conn: &impl ConnectionTrait, entries: Vec<LedgerEntry>) -> Result<(), Fault> {
    let rows = entries.into_iter().map(|entry| movement::ActiveModel {
        id: Set(entry.id),
        sku: Set(entry.sku.into()),
        kind: Set(entry.kind.into_str().to_owned()),
        quantity: Set(entry.quantity),
        order_id: Set(entry.order_id),
        actor: Set(entry.actor),
        reason: Set(entry.reason),
        at: Set(entry.at.as_ms()),
    });
    movement::Entity::insert_many(rows)
        .exec_without_returning(conn)
        .await
        .map_err(fault)?;
    Ok(())
}

/// The reservation of an order.
pub struct Reservation {
    /// The command that created it.
    pub command_id: Uuid,
    pub state: ReservationState,
}

/// Inserts a held reservation without its lines; false if the order already has one.
pub async fn insert_reservation(
    conn: &impl ConnectionTrait,
    order_id: Uuid,
    command_id: Uuid,
    now: Timestamp,
) -> Result<bool, Fault> {
    let row = reservation::ActiveModel {
        order_id: Set(order_id),
        command_id: Set(command_id),
        state: Set(ReservationState::Held.into_str().to_owned()),
        created_at: Set(now.as_ms()),
        changed_at: Set(now.as_ms()),
    };
    let inserted = reservation::Entity::insert(row)
        .on_conflict_do_nothing_on([reservation::Column::OrderId])
        .exec_without_returning(conn);
    Ok(matches!(inserted.await.map_err(fault)?, TryInsertResult::Inserted(1)))
}

/// Inserts the lines of a reservation. The items must exist.
pub async fn insert_lines(conn: &impl ConnectionTrait, order_id: Uuid, lines: &Lines) -> Result<(), Fault> {
    let rows = lines.iter().map(|(sku, quantity)| reservation_line::ActiveModel {
        order_id: Set(order_id),
        sku: Set(sku.to_string()),
        quantity: Set(quantity),
    });
    reservation_line::Entity::insert_many(rows)
        .exec_without_returning(conn)
        .await
        .map_err(fault)?;
    Ok(())
}

pub async fn find_reservation(conn: &impl ConnectionTrait, order_id: Uuid) -> Result<Option<Reservation>, Fault> {
    let row = reservation::Entity::find_by_id(order_id)
        .one(conn)
        .await
        .map_err(fault)?;
    row.map(|row| {
        let state = row.state.parse().map_err(|_| {
            let detail = format!("{:?} is not a reservation state", row.state);
            Fault::internal("broken_row", detail)
        })?;
        Ok(Reservation {
            command_id: row.command_id,
            state,
        })
    })
    .transpose()
}

pub async fn load_lines(conn: &impl ConnectionTrait, order_id: Uuid) -> Result<Lines, Fault> {
    let rows = reservation_line::Entity::find()
        .filter(reservation_line::Column::OrderId.eq(order_id))
        .all(conn)
        .await
        .map_err(fault)?;
    let lines: Result<Vec<_>, Fault> = rows
        .into_iter()
        .map(|row| Ok((read_sku(&row.sku)?, row.quantity)))
        .collect();
    Ok(Lines::from_rows(lines?))
}

/// Makes a transition of a reservation.
///
/// # Errors
/// A lost race, if the reservation is not in the state from which the transition starts.
pub async fn update_state(
    conn: &impl ConnectionTrait,
    order_id: Uuid,
    transition: Transition,
    now: Timestamp,
) -> Result<(), Fault> {
    use reservation::Column;
    let updated = reservation::Entity::update_many()
        .col_expr(Column::State, Expr::value(transition.to.into_str()))
        .col_expr(Column::ChangedAt, Expr::value(now.as_ms()))
        .filter(Column::OrderId.eq(order_id))
        .filter(Column::State.eq(transition.from.into_str()))
        .exec(conn)
        .await
        .map_err(fault)?;
    if updated.rows_affected == 1 {
        Ok(())
    } else {
        Err(lost_race("the reservation changed meanwhile"))
    }
}

/// The units moved in an item's ledger, by kind of movement.
#[cfg(test)]
pub async fn sum_ledger(conn: &impl ConnectionTrait, sku: &Sku) -> std::collections::BTreeMap<String, i64> {
    let rows = movement::Entity::find()
        .filter(movement::Column::Sku.eq(sku.as_str()))
        .all(conn)
        .await
        .expect("the ledger can be read");
    rows.into_iter()
        .fold(std::collections::BTreeMap::new(), |mut sums, row| {
            *sums.entry(row.kind).or_insert(0) += row.quantity;
            sums
        })
}

/// The units of an item in reservations that are held.
#[cfg(test)]
pub async fn sum_held(conn: &impl ConnectionTrait, sku: &Sku) -> i64 {
    let lines = reservation_line::Entity::find()
        .filter(reservation_line::Column::Sku.eq(sku.as_str()))
        .all(conn)
        .await;
    let mut held = 0;
    for line in lines.expect("the lines can be read") {
        let reservation = find_reservation(conn, line.order_id)
            .await
            .expect("reservations can be read")
            .expect("a line has its reservation");
        held += if reservation.state == ReservationState::Held {
            line.quantity
        } else {
            0
        };
    }
    held
}
