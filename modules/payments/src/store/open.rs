//! Commands whose outcome is unknown: few among very many that have one.

use banyan_core::{Fault, Timestamp};
use banyan_durable::fault;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, ExprTrait, FromQueryResult, QueryFilter, QueryOrder,
    QuerySelect, sea_query::Expr,
};
use uuid::Uuid;

use super::{STARTED, money_command};

/// The text of each condition equals that of its index, or neither database would use the index.
const WITHOUT_OUTCOME: &str = "state in ('requested', 'started')";
const IS_STARTED: &str = "state = 'started'";

/// A command of the payment whose outcome is unknown, if there is one: others wait for it.
pub async fn find_started(conn: &impl ConnectionTrait, payment_id: Uuid) -> Result<Option<Uuid>, Fault> {
    let query = money_command::Entity::find()
        .filter(money_command::Column::PaymentId.eq(payment_id))
        .filter(money_command::Column::State.eq(STARTED))
        .order_by_asc(money_command::Column::StartedAt);
    Ok(query.one(conn).await.map_err(fault)?.map(|row| row.id))
}

/// Commands started before `before` or after `now` and still without an outcome, the oldest first, after this position, at most `limit`. One that was
/// started after `now` was started before the clock was set back.
pub async fn list_open(
    conn: &impl ConnectionTrait,
    after: Option<(Timestamp, Uuid)>,
    before: Timestamp,
    now: Timestamp,
    limit: u64,
) -> Result<Vec<(Timestamp, Uuid)>, Fault> {
    use money_command::Column;
    let mut query = money_command::Entity::find()
        .filter(Expr::cust(IS_STARTED))
        .filter(
            Condition::any()
                .add(Column::StartedAt.lte(before.as_ms()))
                .add(Column::StartedAt.gt(now.as_ms())),
        )
        .order_by_asc(Column::StartedAt)
        .order_by_asc(Column::Id)
        .limit(limit);
    if let Some((started_at, id)) = after {
        let position = Expr::tuple([Expr::value(started_at.as_ms()), Expr::value(id)]);
        query = query.filter(Expr::tuple([Expr::col(Column::StartedAt), Expr::col(Column::Id)]).gt(position));
    }
    let rows = query.all(conn).await.map_err(fault)?;
    let position = |row: money_command::Model| {
        let started_at = Timestamp::from_ms(row.started_at.unwrap_or_default());
        (started_at, row.id)
    };
    Ok(rows.into_iter().map(position).collect())
}

pub async fn count_open(conn: &impl ConnectionTrait) -> Result<u64, Fault> {
    #[derive(FromQueryResult)]
    struct Open {
        open: i64,
    }
    let count = money_command::Entity::find()
        .select_only()
        .column_as(money_command::Column::Id.count(), "open")
        .filter(Expr::cust(WITHOUT_OUTCOME));
    let row = count.into_model::<Open>().one(conn).await.map_err(fault)?;
    Ok(row.map_or(0, |row| row.open.unsigned_abs()))
}

/// Locks a command's row until the transaction ends, as a transaction does that is about to record its outcome. For PostgreSQL.
#[cfg(test)]
pub async fn lock_command(tx: &banyan_durable::Tx, id: Uuid) {
    let held = money_command::Entity::find_by_id(id)
        .lock_exclusive()
        .one(tx.conn())
        .await;
    held.expect("the row can be locked").expect("there is such a command");
}

/// The number of transactions that wait for a lock.
#[cfg(test)]
pub async fn count_waiting(conn: &impl ConnectionTrait) -> i64 {
    let sql = "select count(*) as waiting from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    #[derive(FromQueryResult)]
    struct Count {
        waiting: i64,
    }
    let count = Count::find_by_statement(sea_orm::Statement::from_string(sea_orm::DbBackend::Postgres, sql));
    let count = count.one(conn).await.expect("the activity can be read");
    count.expect("a row").waiting
}

#[cfg(test)]
mod tests {
    use banyan_durable::Connection;
    use banyan_durable_testing::SqliteHome;
    use sea_orm::{DbBackend, QueryTrait, Statement};

    use super::*;

    #[derive(Debug, FromQueryResult)]
    struct PlanStep {
        detail: String,
    }

    /// The table of commands only grows, and the books are compared every ten minutes.
    #[tokio::test]
    async fn commands_without_an_outcome_are_counted_by_an_index() {
        let home = SqliteHome::new();
        let db = Connection::open(&home.storage("payments"), "payments").await.unwrap();
        for tables in [
            include_str!("../../migrations/m0001_money.sql"),
            include_str!("../../migrations/m0002_open_commands.sql"),
            include_str!("../../migrations/m0005_actors.sql"),
        ] {
            db.execute_unprepared(tables).await.unwrap();
        }
        let query = money_command::Entity::find()
            .filter(Expr::cust(WITHOUT_OUTCOME))
            .build(DbBackend::Sqlite)
            .to_string();
        let plan = Statement::from_string(
            DbBackend::Sqlite,
            format!("explain query plan select count(*) from ({query})"),
        );
        let steps = PlanStep::find_by_statement(plan).all(&db).await.unwrap();
        assert!(
            steps
                .iter()
                .any(|step| step.detail.contains("money_command_without_outcome")),
            "{steps:#?}"
        );
    }
}
