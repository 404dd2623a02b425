//! Two statements as one, where a round trip costs something.

use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, StatementBuilder,
    sea_query::{CommonTableExpression, InsertStatement, SubQueryStatement, WithClause},
};

/// Runs two statements: on PostgreSQL, which may be far away, as one. Neither sees what the other does, but constraints are checked after both. Returns
/// the number of rows that the second changed.
///
/// # Errors
/// Of either statement.
pub async fn insert_and<Q>(conn: &impl ConnectionTrait, first: InsertStatement, second: Q) -> Result<u64, DbErr>
where
    Q: StatementBuilder + Into<SubQueryStatement>,
{
    let done = if conn.get_database_backend() == DbBackend::Sqlite {
        conn.execute(&first).await?;
        conn.execute(&second).await?
    } else {
        let first = CommonTableExpression::new().query(first).table_name("first").to_owned();
        conn.execute(&WithClause::new().cte(first).to_owned().query(second))
            .await?
    };
    Ok(done.rows_affected())
}
