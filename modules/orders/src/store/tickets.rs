//! The tickets with which an order can be followed.

use banyan_core::{Fault, Timestamp};
use banyan_durable::fault;
use sea_orm::{ConnectionTrait, FromQueryResult, Statement, Value};
use uuid::Uuid;

/// A ticket as it is stored.
#[derive(Clone, Debug)]
pub struct Ticket {
    pub hash: String,
    pub order_id: Uuid,
    pub user_id: Uuid,
    pub expires_at: Timestamp,
}

pub async fn insert(conn: &impl ConnectionTrait, ticket: Ticket) -> Result<(), Fault> {
    let sql = "insert into event_ticket (hash, order_id, user_id, expires_at) values ($1, $2, $3, $4)";
    let Ticket {
        hash,
        order_id,
        user_id,
        expires_at,
    } = ticket;
    let values = vec![hash.into(), order_id.into(), user_id.into(), expires_at.as_ms().into()];
    conn.execute_raw(statement(conn, sql, values)).await.map_err(fault)?;
    Ok(())
}

/// Takes a ticket that has not expired: of several takers one gets its user.
pub async fn take(
    conn: &impl ConnectionTrait,
    hash: String,
    order_id: Uuid,
    now: Timestamp,
) -> Result<Option<Uuid>, Fault> {
    #[derive(FromQueryResult)]
    struct Holder {
        user_id: Uuid,
    }
    let sql = "delete from event_ticket where hash = $1 and order_id = $2 and expires_at > $3 returning user_id";
    let values = vec![hash.into(), order_id.into(), now.as_ms().into()];
    let holder = Holder::find_by_statement(statement(conn, sql, values)).one(conn).await;
    Ok(holder.map_err(fault)?.map(|holder| holder.user_id))
}

/// Deletes expired tickets, at most `limit`; returns their number.
pub async fn delete_expired(conn: &impl ConnectionTrait, now: Timestamp, limit: u64) -> Result<u64, Fault> {
    let sql = "delete from event_ticket where hash in (select hash from event_ticket where expires_at <= $1 order by expires_at limit $2)";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let done = conn
        .execute_raw(statement(conn, sql, vec![now.as_ms().into(), limit.into()]))
        .await;
    Ok(done.map_err(fault)?.rows_affected())
}

fn statement(conn: &impl ConnectionTrait, sql: &str, values: Vec<Value>) -> Statement {
    Statement::from_sql_and_values(conn.get_database_backend(), sql, values)
}
