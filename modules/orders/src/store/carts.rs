//! Which carts are open, and since when nobody has changed them.
//!
//! Invariant: a cart is changed and checked out together with its row here. So it cannot be changed while it is deleted: one of the two transactions finds
//! that the other has changed the row.

use banyan_core::{Fault, Timestamp};
use banyan_durable::{fault, lost_race};
use sea_orm::{ConnectionTrait, FromQueryResult, Statement, Value};
use uuid::Uuid;

use crate::stream::EventStream;

/// Notes what the new events of a stream mean for the cart that it is, or was.
pub async fn follow(conn: &impl ConnectionTrait, stream: &EventStream) -> Result<(), Fault> {
    match stream.fresh() {
        _ if stream.ends_cart() => close(conn, stream.id()).await,
        _ if stream.view().is_some() => Ok(()),
        [created, ..] if created.version == 1 => open(conn, stream.id(), created.at).await,
        [.., changed] => touch(conn, stream.id(), changed.at).await,
        [] => Ok(()),
    }
}

/// A cart was created.
async fn open(conn: &impl ConnectionTrait, id: Uuid, at: Timestamp) -> Result<(), Fault> {
    let sql = "insert into open_cart (id, changed_at) values ($1, $2) on conflict (id) do nothing";
    execute(conn, sql, vec![id.into(), at.as_ms().into()]).await.map(drop)
}

/// A cart was changed.
///
/// # Errors
/// A lost race if the cart was deleted meanwhile.
async fn touch(conn: &impl ConnectionTrait, id: Uuid, at: Timestamp) -> Result<(), Fault> {
    let sql = "update open_cart set changed_at = $2 where id = $1";
    if execute(conn, sql, vec![id.into(), at.as_ms().into()]).await? == 1 {
        return Ok(());
    }
    // A process of the version before creates carts without a row.
    unless_deleted(conn, id).await?;
    open(conn, id, at).await
}

/// A cart was checked out.
///
/// # Errors
/// As [`touch`].
async fn close(conn: &impl ConnectionTrait, id: Uuid) -> Result<(), Fault> {
    if execute(conn, "delete from open_cart where id = $1", vec![id.into()]).await? == 1 {
        return Ok(());
    }
    unless_deleted(conn, id).await
}

async fn unless_deleted(conn: &impl ConnectionTrait, id: Uuid) -> Result<(), Fault> {
    let sql = "select order_id as id from order_event where order_id = $1 and version = 1";
    if ids(conn, sql, vec![id.into()]).await?.is_empty() {
        return Err(lost_race("the cart was deleted meanwhile"));
    }
    Ok(())
}

const ABANDONED: &str = "select id from open_cart where changed_at < $1 order by changed_at limit $2";

/// Deletes carts that nobody has changed since before this time, at most `limit`; returns their number.
pub async fn delete_abandoned(conn: &impl ConnectionTrait, before: Timestamp, limit: u64) -> Result<u64, Fault> {
    // The first condition is checked again if a customer changes the cart at this moment.
    let sql = format!("delete from open_cart where changed_at < $1 and id in ({ABANDONED}) returning id");
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let carts = ids(conn, &sql, vec![before.as_ms().into(), limit.into()]).await?;
    if carts.is_empty() {
        return Ok(0);
    }
    let these: Vec<String> = (1..=carts.len()).map(|number| format!("${number}")).collect();
    let these = these.join(", ");
    // An order is never deleted, whatever the table of carts says.
    let sql = format!(
        "delete from order_event where order_id in ({these})
         and order_id not in (select order_id from order_event where order_id in ({these}) and kind = 'placed')"
    );
    execute(conn, &sql, carts.iter().map(|id| (*id).into()).collect()).await?;
    Ok(u64::try_from(carts.len()).unwrap_or(u64::MAX))
}

async fn execute(conn: &impl ConnectionTrait, sql: &str, values: Vec<Value>) -> Result<u64, Fault> {
    let statement = Statement::from_sql_and_values(conn.get_database_backend(), sql, values);
    Ok(conn.execute_raw(statement).await.map_err(fault)?.rows_affected())
}

async fn ids(conn: &impl ConnectionTrait, sql: &str, values: Vec<Value>) -> Result<Vec<Uuid>, Fault> {
    #[derive(FromQueryResult)]
    struct Cart {
        id: Uuid,
    }
    let statement = Statement::from_sql_and_values(conn.get_database_backend(), sql, values);
    let carts = Cart::find_by_statement(statement).all(conn).await.map_err(fault)?;
    Ok(carts.into_iter().map(|cart| cart.id).collect())
}
