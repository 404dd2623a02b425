//! The tables of stock, reservations and the movement ledger, and the queries on them.

use banyan_core::{Cursor, Fault, Page, PageRequest, Timestamp};
use banyan_durable::{fault, lost_race};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, ExprTrait, FromQueryResult, QueryFilter, QueryOrder,
    QuerySelect, Statement, TryInsertResult, Value,
    sea_query::{Alias, Expr, OnConflict},
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

/// A page of the items, by sku: in the order of the primary key, whichever collation the database has.
///
/// # Errors
/// `invalid_parameter` for a cursor of another list.
pub async fn list_items(conn: &impl ConnectionTrait, page: &PageRequest) -> Result<Page<StockItem>, Fault> {
    use stock_item::Column;
    let mut list = stock_item::Entity::find()
        .order_by_asc(Column::Sku)
        .limit(page.fetch_limit());
    if let Some(Cursor(last)) = &page.after {
        let last = Sku::parse(last).map_err(|_| Cursor::invalid())?;
        list = list.filter(Column::Sku.gt(last.as_str()));
    }
    let rows = list.all(conn).await.map_err(fault)?;
    let items = rows.into_iter().map(StockItem::try_from);
    let items = items.collect::<Result<Vec<_>, Fault>>()?;
    Ok(page.page(items, |last| Cursor(last.sku.to_string())))
}

/// The item, locked until the transaction ends: its level does not change meanwhile.
pub async fn lock_item(conn: &impl ConnectionTrait, sku: &Sku) -> Result<Option<StockItem>, Fault> {
    let row = stock_item::Entity::find_by_id(sku.as_str()).lock_exclusive();
    let row = row.one(conn).await.map_err(fault)?;
    row.map(StockItem::try_from).transpose()
}

/// Moves units of several items, of each only if its resulting level keeps the invariant, in one statement, so that two orders cannot both get the last
/// unit. Returns the new levels in the order of their skus; an item that is missing from them was not changed: it does not exist, or has too few units.
pub async fn move_units(
    conn: &impl ConnectionTrait,
    kind: Movement,
    lines: impl Iterator<Item = (&Sku, i64)>,
) -> Result<Vec<StockItem>, Fault> {
    let mut values: Vec<Value> = Vec::new();
    let mut rows: Vec<String> = Vec::new();
    for (sku, quantity) in lines {
        let (effect, first) = (kind.effect(quantity), values.len() + 1);
        rows.push(format!("(${first}, ${}, ${})", first + 1, first + 2));
        values.extend([sku.as_str().into(), effect.on_hand.into(), effect.reserved.into()]);
    }
    // PostgreSQL would lock the items in whatever order it finds them, and two orders could deadlock. So they are locked first, in the order of their
    // bytes, which is that of `Sku` too, and no harder than the update itself locks them. SQLite has a single writer.
    let (locked, join) = match conn.get_database_backend() {
        DbBackend::Postgres => (
            ", locked as (select sku from stock_item where sku in (select sku from change) order by sku collate \"C\" for no key update)",
            "join locked on locked.sku = change.sku",
        ),
        _ => ("", ""),
    };
    let sql = format!(
        "with change (sku, on_hand, reserved) as (values {}) {locked}
         update stock_item set on_hand = stock_item.on_hand + change.on_hand, reserved = stock_item.reserved + change.reserved,
             version = stock_item.version + 1
         from change {join}
         where stock_item.sku = change.sku and stock_item.reserved + change.reserved >= 0
             and stock_item.reserved + change.reserved <= stock_item.on_hand + change.on_hand
         returning stock_item.sku, stock_item.on_hand, stock_item.reserved, stock_item.version",
        rows.join(", ")
    );
    let statement = Statement::from_sql_and_values(conn.get_database_backend(), sql, values);
    let moved = stock_item::Model::find_by_statement(statement).all(conn).await;
    read_items(moved.map_err(fault)?)
}

/// Adds received units, of each item once; the first receipt of a sku creates its item. Returns the new levels in the order of their skus.
pub async fn receive_units(conn: &impl ConnectionTrait, receipts: &Lines) -> Result<Vec<StockItem>, Fault> {
    use stock_item::Column;
    let table = stock_item::Entity;
    let new = receipts.iter().map(|(sku, quantity)| stock_item::ActiveModel {
        sku: Set(sku.to_string()),
        on_hand: Set(quantity),
        reserved: Set(0),
        version: Set(1),
    });
    let received = Expr::col((Alias::new("excluded"), Column::OnHand));
    let add = OnConflict::column(Column::Sku)
        .value(Column::OnHand, Expr::col((table, Column::OnHand)).add(received))
        .value(Column::Version, Expr::col((table, Column::Version)).add(1))
        .to_owned();
    let rows = stock_item::Entity::insert_many(new)
        .on_conflict(add)
        .exec_with_returning(conn)
        .await
        .map_err(fault)?;
    read_items(rows)
}

/// A statement returns its rows in any order.
fn read_items(rows: Vec<stock_item::Model>) -> Result<Vec<StockItem>, Fault> {
    let mut items = rows
        .into_iter()
        .map(StockItem::try_from)
        .collect::<Result<Vec<_>, Fault>>()?;
    items.sort_unstable_by(|one, other| one.sku.cmp(&other.sku));
    Ok(items)
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
    pub lines: Lines,
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

/// The reservation of an order with its lines.
pub async fn find_reservation(conn: &impl ConnectionTrait, order_id: Uuid) -> Result<Option<Reservation>, Fault> {
    #[derive(FromQueryResult)]
    struct Row {
        command_id: Uuid,
        state: String,
        sku: String,
        quantity: i64,
    }
    // A reservation is inserted with its lines, of which it has at least one.
    let sql = "select reservation.command_id, reservation.state, reservation_line.sku, reservation_line.quantity from reservation
               join reservation_line on reservation_line.order_id = reservation.order_id where reservation.order_id = $1";
    let statement = Statement::from_sql_and_values(conn.get_database_backend(), sql, [order_id.into()]);
    let rows = Row::find_by_statement(statement).all(conn).await.map_err(fault)?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let (command_id, state) = (first.command_id, read_state(&first.state)?);
    let lines = rows.iter().map(|row| Ok((read_sku(&row.sku)?, row.quantity)));
    Ok(Some(Reservation {
        command_id,
        state,
        lines: Lines::from_rows(lines.collect::<Result<Vec<_>, Fault>>()?),
    }))
}

fn read_state(text: &str) -> Result<ReservationState, Fault> {
    text.parse()
        .map_err(|_| Fault::internal("broken_row", format!("{text:?} is not a reservation state")))
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
