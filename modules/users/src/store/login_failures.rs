//! The tables of failed log-ins and of the addresses that accounts log in from.

use banyan_core::{Fault, Timestamp};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::OnConflict,
};
use uuid::Uuid;

use crate::throttle::{self, Failure, History, Limits, LoginAttempt};

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
        pub known_address: bool,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod known_address {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "known_address")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub account: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub address: String,
        pub last_login_at: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// The latest failures of the attempt's account and address, and whether the account logged in from there before.
pub async fn load_history(
    conn: &impl ConnectionTrait,
    attempt: &LoginAttempt,
    limits: Limits,
) -> Result<History, Fault> {
    use login_failure::{Column, Entity};
    let since = attempt.at.minus(throttle::WINDOW).as_ms();
    let latest = |limit: u64| {
        let query = Entity::find().filter(Column::FailedAt.gt(since));
        query.order_by_desc(Column::FailedAt).limit(limit)
    };
    let of_account = latest(limits.account_per_hour).filter(Column::Account.eq(&attempt.account));
    let of_account = of_account.all(conn).await.map_err(banyan_durable::fault)?;
    let of_address = latest(limits.counted_of_address())
        .filter(Column::Address.eq(&attempt.address))
        .filter(Column::KnownAddress.eq(false));
    let of_address = of_address.all(conn).await.map_err(banyan_durable::fault)?;
    let known = known_address::Entity::find_by_id((attempt.account.clone(), attempt.address.clone()));
    let known = known.one(conn).await.map_err(banyan_durable::fault)?;
    let failure = |row: login_failure::Model| Failure {
        at: Timestamp::from_ms(row.failed_at),
        same_address: row.address == attempt.address,
    };
    Ok(History {
        last_login: known.map(|row| Timestamp::from_ms(row.last_login_at)),
        of_account: of_account.into_iter().map(failure).collect(),
        of_address: of_address
            .into_iter()
            .map(|row| Timestamp::from_ms(row.failed_at))
            .collect(),
    })
}

/// Counts an attempt as failed, and deletes failures that count no more.
pub async fn insert_failure(
    conn: &impl ConnectionTrait,
    attempt: &LoginAttempt,
    known_address: bool,
) -> Result<(), Fault> {
    let since = attempt.at.minus(throttle::WINDOW);
    let old = login_failure::Entity::delete_many().filter(login_failure::Column::FailedAt.lte(since.as_ms()));
    old.exec(conn).await.map_err(banyan_durable::fault)?;
    let row = login_failure::ActiveModel {
        id: Set(attempt.id),
        account: Set(attempt.account.clone()),
        address: Set(attempt.address.clone()),
        failed_at: Set(attempt.at.as_ms()),
        known_address: Set(known_address),
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

/// Uncounts all failures of an account.
pub async fn forget_failures(conn: &impl ConnectionTrait, account: &str) -> Result<(), Fault> {
    let failures = login_failure::Entity::delete_many().filter(login_failure::Column::Account.eq(account));
    failures.exec(conn).await.map(drop).map_err(banyan_durable::fault)
}

/// Stores that the account logged in from the address of the attempt. Of the account's addresses the latest [`throttle::MAX_KNOWN`] are kept.
pub async fn remember_address(conn: &impl ConnectionTrait, attempt: &LoginAttempt) -> Result<(), Fault> {
    use known_address::{Column, Entity};
    let row = known_address::ActiveModel {
        account: Set(attempt.account.clone()),
        address: Set(attempt.address.clone()),
        last_login_at: Set(attempt.at.as_ms()),
    };
    let update = OnConflict::columns([Column::Account, Column::Address])
        .update_column(Column::LastLoginAt)
        .to_owned();
    Entity::insert(row)
        .on_conflict(update)
        .exec_without_returning(conn)
        .await
        .map_err(banyan_durable::fault)?;
    let surplus = Entity::find()
        .filter(Column::Account.eq(&attempt.account))
        .order_by_desc(Column::LastLoginAt)
        .offset(throttle::MAX_KNOWN)
        .limit(throttle::MAX_KNOWN);
    for row in surplus.all(conn).await.map_err(banyan_durable::fault)? {
        Entity::delete_by_id((row.account, row.address))
            .exec(conn)
            .await
            .map_err(banyan_durable::fault)?;
    }
    Ok(())
}

/// Forgets the addresses that an account logged in from, but one: whoever knew its old password may be at one of them.
pub async fn forget_addresses(conn: &impl ConnectionTrait, account: &str, except: Option<&str>) -> Result<(), Fault> {
    use known_address::{Column, Entity};
    let mut which = Entity::delete_many().filter(Column::Account.eq(account));
    if let Some(address) = except {
        which = which.filter(Column::Address.ne(address));
    }
    which.exec(conn).await.map(drop).map_err(banyan_durable::fault)
}

/// Deletes a batch of the addresses without a log-in since `since`; returns their number.
pub async fn delete_old_addresses(conn: &impl ConnectionTrait, since: Timestamp, batch: u64) -> Result<u64, Fault> {
    use known_address::{Column, Entity};
    let old = Entity::find()
        .filter(Column::LastLoginAt.lte(since.as_ms()))
        .limit(batch);
    let old = old.all(conn).await.map_err(banyan_durable::fault)?;
    let Some(newest) = old.iter().map(|row| row.last_login_at).max() else {
        return Ok(0);
    };
    let accounts = old.iter().map(|row| row.account.as_str());
    let delete = Entity::delete_many()
        .filter(Column::Account.is_in(accounts))
        .filter(Column::LastLoginAt.lte(newest));
    let done = delete.exec(conn).await.map_err(banyan_durable::fault)?;
    Ok(done.rows_affected)
}
