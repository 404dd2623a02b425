//! The table of failed log-ins.

use banyan_core::{Fault, Timestamp};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};
use uuid::Uuid;

use crate::throttle::{Limits, LoginAttempt};

mod login_failure {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "login_failure")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub account: String,
        pub address: String,
        pub failed_at: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// The times of the latest failed log-ins since `since`, of the account and of the network address: newest first, at most as many as the limits.
pub async fn latest_failures(
    conn: &impl ConnectionTrait,
    attempt: &LoginAttempt,
    since: Timestamp,
    limits: Limits,
) -> Result<(Vec<Timestamp>, Vec<Timestamp>), Fault> {
    let account = latest(
        conn,
        login_failure::Column::Account.eq(&attempt.account),
        since,
        limits.per_account,
    )
    .await?;
    let address = latest(
        conn,
        login_failure::Column::Address.eq(&attempt.address),
        since,
        limits.per_address,
    )
    .await?;
    Ok((account, address))
}

async fn latest(
    conn: &impl ConnectionTrait,
    of: impl Into<Condition>,
    since: Timestamp,
    limit: u64,
) -> Result<Vec<Timestamp>, Fault> {
    let query = login_failure::Entity::find()
        .filter(of.into())
        .filter(login_failure::Column::FailedAt.gt(since.as_ms()));
    let rows = query
        .order_by_desc(login_failure::Column::FailedAt)
        .limit(limit)
        .all(conn)
        .await
        .map_err(banyan_durable::fault)?;
    Ok(rows.into_iter().map(|row| Timestamp::from_ms(row.failed_at)).collect())
}

/// Counts an attempt as failed, and deletes failures older than `since`.
pub async fn insert_failure(
    conn: &impl ConnectionTrait,
    attempt: &LoginAttempt,
    since: Timestamp,
) -> Result<(), Fault> {
    let old = login_failure::Entity::delete_many().filter(login_failure::Column::FailedAt.lte(since.as_ms()));
    old.exec(conn).await.map_err(banyan_durable::fault)?;
    let row = login_failure::ActiveModel {
        id: Set(attempt.id),
        account: Set(attempt.account.clone()),
        address: Set(attempt.address.clone()),
        failed_at: Set(attempt.at.as_ms()),
    };
    login_failure::Entity::insert(row)
        .exec_without_returning(conn)
        .await
        .map(drop)
        .map_err(banyan_durable::fault)
}

/// Uncounts an attempt that has succeeded.
pub async fn delete_failure(conn: &impl ConnectionTrait, id: Uuid) -> Result<(), Fault> {
    login_failure::Entity::delete_by_id(id)
        .exec(conn)
        .await
        .map(drop)
        .map_err(banyan_durable::fault)
}
