//! The tables of mails about accounts, and of their tokens.

use banyan_core::{Fault, Timestamp};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QuerySelect,
    sea_query::Expr,
};
use strum::VariantArray;
use uuid::Uuid;

use crate::account_mail::{AccountMail, Kind, WINDOW};

mod account_mail {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "account_mail")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub user_id: Uuid,
        pub kind: String,
        pub address: String,
        pub requested_at: i64,
        pub expires_at: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod account_token {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "account_token")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub hash: String,
        pub mail_id: Uuid,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub async fn insert_mail(conn: &impl ConnectionTrait, mail: &AccountMail) -> Result<(), Fault> {
    let row = account_mail::ActiveModel {
        id: Set(mail.id),
        user_id: Set(mail.user_id),
        kind: Set(mail.kind.into_str().to_owned()),
        address: Set(mail.address.clone()),
        requested_at: Set(mail.requested_at.as_ms()),
        expires_at: Set(mail.expires_at.as_ms()),
    };
    account_mail::Entity::insert(row)
        .exec_without_returning(conn)
        .await
        .map(drop)
        .map_err(banyan_durable::fault)
}

/// The number of mails of this kind that were requested for the user after `since`.
pub async fn count_mails(
    conn: &impl ConnectionTrait,
    user_id: Uuid,
    kind: Kind,
    since: Timestamp,
) -> Result<u64, Fault> {
    use account_mail::{Column, Entity};
    let query = Entity::find()
        .filter(Column::UserId.eq(user_id))
        .filter(Column::Kind.eq(kind.into_str()))
        .filter(Column::RequestedAt.gt(since.as_ms()));
    query.count(conn).await.map_err(banyan_durable::fault)
}

pub async fn find_mail(conn: &impl ConnectionTrait, id: Uuid) -> Result<Option<AccountMail>, Fault> {
    let row = account_mail::Entity::find_by_id(id).one(conn).await;
    row.map_err(banyan_durable::fault)?.map(to_mail).transpose()
}

/// The mail that a token was sent in.
pub async fn find_mail_of_token(conn: &impl ConnectionTrait, hash: &str) -> Result<Option<AccountMail>, Fault> {
    let token = account_token::Entity::find_by_id(hash).one(conn).await;
    match token.map_err(banyan_durable::fault)? {
        Some(token) => find_mail(conn, token.mail_id).await,
        None => Ok(None),
    }
}

pub async fn insert_token(conn: &impl ConnectionTrait, hash: &str, mail_id: Uuid) -> Result<(), Fault> {
    let row = account_token::ActiveModel {
        hash: Set(hash.to_owned()),
        mail_id: Set(mail_id),
    };
    account_token::Entity::insert(row)
        .exec_without_returning(conn)
        .await
        .map(drop)
        .map_err(banyan_durable::fault)
}

/// Ends all mails of the user that have a token: they are not sent any more, nor are their tokens accepted.
pub async fn expire_tokens(conn: &impl ConnectionTrait, user_id: Uuid, now: Timestamp) -> Result<(), Fault> {
    let kinds = Kind::VARIANTS.iter().copied().filter(|kind| kind.has_token());
    expire(conn, user_id, kinds.collect(), now).await
}

/// The same for one kind.
pub async fn expire_tokens_of_kind(
    conn: &impl ConnectionTrait,
    user_id: Uuid,
    kind: Kind,
    now: Timestamp,
) -> Result<(), Fault> {
    expire(conn, user_id, vec![kind], now).await
}

async fn expire(conn: &impl ConnectionTrait, user_id: Uuid, kinds: Vec<Kind>, now: Timestamp) -> Result<(), Fault> {
    use account_mail::{Column, Entity};
    // The rows stay, because they count against the limit of the account.
    let update = Entity::update_many()
        .col_expr(Column::ExpiresAt, Expr::value(now.as_ms()))
        .filter(Column::UserId.eq(user_id))
        .filter(Column::Kind.is_in(kinds.iter().map(Kind::into_str)))
        .filter(Column::ExpiresAt.gt(now.as_ms()));
    update.exec(conn).await.map(drop).map_err(banyan_durable::fault)
}

/// Deletes a batch of mails that have expired and count no more, with their tokens; returns their number.
pub async fn delete_old_mails(conn: &impl ConnectionTrait, now: Timestamp, batch: u64) -> Result<u64, Fault> {
    let old = account_mail::Entity::find()
        .filter(account_mail::Column::ExpiresAt.lte(now.minus(WINDOW).as_ms()))
        .limit(batch);
    let old = old.all(conn).await.map_err(banyan_durable::fault)?;
    if old.is_empty() {
        return Ok(0);
    }
    let ids: Vec<Uuid> = old.into_iter().map(|mail| mail.id).collect();
    let tokens = account_token::Entity::delete_many().filter(account_token::Column::MailId.is_in(ids.iter().copied()));
    tokens.exec(conn).await.map_err(banyan_durable::fault)?;
    let mails = account_mail::Entity::delete_many().filter(account_mail::Column::Id.is_in(ids));
    let deleted = mails.exec(conn).await.map_err(banyan_durable::fault)?;
    Ok(deleted.rows_affected)
}

fn to_mail(row: account_mail::Model) -> Result<AccountMail, Fault> {
    let kind = row.kind.parse();
    let kind = kind.map_err(|_| Fault::internal("broken_mail", format!("account mail {}: {}", row.id, row.kind)))?;
    Ok(AccountMail {
        id: row.id,
        user_id: row.user_id,
        kind,
        address: row.address,
        requested_at: Timestamp::from_ms(row.requested_at),
        expires_at: Timestamp::from_ms(row.expires_at),
    })
}
