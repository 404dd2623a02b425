//! The module's tables, and every query on them.

use std::collections::BTreeSet;

use banyan_core::{Actor, Fault, Page, PageRequest, Timestamp};
use sea_orm::{
    ActiveValue::{Set, Unchanged},
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, ExprTrait, Query},
};
use shared_kernel::MaySee;
use uuid::Uuid;

use crate::{
    email::EmailAddress,
    person_name::PersonName,
    session::{RefreshToken, RevokedReason, Session},
    throttle::{Limits, LoginAttempt},
    user::User,
};

/// A connection for queries: the module's database, or a transaction on it.
pub use sea_orm::ConnectionTrait as Readable;

mod user {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "users")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub email: String,
        pub email_lower: String,
        pub name: String,
        pub password_hash: String,
        pub roles: String,
        pub addresses: String,
        pub version: i64,
        pub created_at: i64,
        pub updated_at: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod session {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "session")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub user_id: Uuid,
        pub created_at: i64,
        pub revoked_at: Option<i64>,
        pub revoked_reason: Option<String>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod refresh_token {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "refresh_token")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub hash: String,
        pub session_id: Uuid,
        pub issued_at: i64,
        pub expires_at: i64,
        pub rotated_at: Option<i64>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod signing_key {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "signing_key")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub kid: String,
        pub seed: String,
        pub state: String,
        pub created_at: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

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

/// The maximum number of tokens one clean-up transaction deletes, so that it stays short.
const CLEANUP_BATCH: u64 = 500;

/// # Errors
/// `email_taken`.
pub async fn insert_user(conn: &impl ConnectionTrait, user: &User, password_hash: &str) -> Result<(), Fault> {
    let row = user::ActiveModel {
        id: Set(user.id),
        email: Set(user.email.as_str().to_owned()),
        email_lower: Set(user.email.lower()),
        name: Set(user.name.as_str().to_owned()),
        password_hash: Set(password_hash.to_owned()),
        roles: Set(to_json(&user.roles)?),
        addresses: Set(to_json(&user.addresses)?),
        version: Set(user.version),
        created_at: Set(user.created_at.as_ms()),
        updated_at: Set(user.updated_at.as_ms()),
    };
    match user::Entity::insert(row).exec_without_returning(conn).await {
        Err(error) if banyan_durable::is_unique_violation(&error) => Err(email_taken()),
        other => other.map(drop).map_err(banyan_durable::fault),
    }
}

pub fn email_taken() -> Fault {
    Fault::conflict("email_taken", "There is a user with this email address already.").at("/email", "is taken")
}

/// Stores a changed user.
///
/// # Errors
/// A lost race, if the stored version is not the one before the change.
pub async fn update_user(conn: &impl ConnectionTrait, user: &User) -> Result<(), Fault> {
    let row = user::ActiveModel {
        id: Unchanged(user.id),
        name: Set(user.name.as_str().to_owned()),
        roles: Set(to_json(&user.roles)?),
        addresses: Set(to_json(&user.addresses)?),
        version: Set(user.version),
        updated_at: Set(user.updated_at.as_ms()),
        ..Default::default()
    };
    let update = user::Entity::update_many()
        .set(row)
        .filter(user::Column::Id.eq(user.id))
        .filter(user::Column::Version.eq(user.version - 1));
    let done = update.exec(conn).await.map_err(banyan_durable::fault)?;
    if done.rows_affected == 1 {
        Ok(())
    } else {
        Err(banyan_durable::lost_race("the user changed meanwhile"))
    }
}

/// Replaces a hash with outdated parameters, unless the password was changed concurrently.
pub async fn replace_hash(conn: &impl ConnectionTrait, user_id: Uuid, old: &str, new: &str) -> Result<(), Fault> {
    let update = user::Entity::update_many().col_expr(user::Column::PasswordHash, Expr::value(new));
    let update = update
        .filter(user::Column::Id.eq(user_id))
        .filter(user::Column::PasswordHash.eq(old));
    update.exec(conn).await.map(drop).map_err(banyan_durable::fault)
}

/// The user, if `actor` may see them: a user who may not be seen is reported like one who does not exist.
pub async fn find_visible_user(conn: &impl ConnectionTrait, id: Uuid, actor: &Actor) -> Result<Option<User>, Fault> {
    if !actor.may_see(id) {
        return Ok(None);
    }
    find_user(conn, id).await
}

/// The user, without a check of who may see them.
pub async fn find_user(conn: &impl ConnectionTrait, id: Uuid) -> Result<Option<User>, Fault> {
    user::Entity::find_by_id(id)
        .one(conn)
        .await
        .map_err(banyan_durable::fault)?
        .map(to_user)
        .transpose()
}

/// The user with this lower-case email address, and the hash of their password.
pub async fn find_credentials(conn: &impl ConnectionTrait, email_lower: &str) -> Result<Option<(User, String)>, Fault> {
    let row = user::Entity::find()
        .filter(user::Column::EmailLower.eq(email_lower))
        .one(conn)
        .await
        .map_err(banyan_durable::fault)?;
    row.map(|row| {
        let hash = row.password_hash.clone();
        Ok((to_user(row)?, hash))
    })
    .transpose()
}

/// Newest first.
///
/// # Errors
/// `invalid_parameter` for a cursor of another list.
pub async fn list_users(
    conn: &impl ConnectionTrait,
    request: &PageRequest,
    email_lower: Option<&str>,
) -> Result<Page<User>, Fault> {
    let mut query = user::Entity::find();
    if let Some(email) = email_lower {
        query = query.filter(user::Column::EmailLower.eq(email));
    }
    let query = banyan_durable::newest_first::<_, Uuid>(query, (user::Column::CreatedAt, user::Column::Id), request)?;
    let rows = query.all(conn).await.map_err(banyan_durable::fault)?;
    let users = rows.into_iter().map(to_user).collect::<Result<Vec<_>, _>>()?;
    Ok(request.page(users, |user| (user.created_at, user.id)))
}

/// Stores a session with its first refresh token.
pub async fn insert_session(conn: &impl ConnectionTrait, session: &Session, token: &RefreshToken) -> Result<(), Fault> {
    let row = session::ActiveModel {
        id: Set(session.id),
        user_id: Set(session.user_id),
        created_at: Set(session.created_at.as_ms()),
        revoked_at: Set(None),
        revoked_reason: Set(None),
    };
    session::Entity::insert(row)
        .exec_without_returning(conn)
        .await
        .map_err(banyan_durable::fault)?;
    insert_token(conn, token).await
}

async fn insert_token(conn: &impl ConnectionTrait, token: &RefreshToken) -> Result<(), Fault> {
    let row = refresh_token::ActiveModel {
        hash: Set(token.hash.clone()),
        session_id: Set(token.session_id),
        issued_at: Set(token.issued_at.as_ms()),
        expires_at: Set(token.expires_at.as_ms()),
        rotated_at: Set(None),
    };
    refresh_token::Entity::insert(row)
        .exec_without_returning(conn)
        .await
        .map(drop)
        .map_err(banyan_durable::fault)
}

/// The token with this hash, and its session.
pub async fn find_token(conn: &impl ConnectionTrait, hash: &str) -> Result<Option<(RefreshToken, Session)>, Fault> {
    let Some(token) = refresh_token::Entity::find_by_id(hash)
        .one(conn)
        .await
        .map_err(banyan_durable::fault)?
    else {
        return Ok(None);
    };
    let session = session::Entity::find_by_id(token.session_id)
        .one(conn)
        .await
        .map_err(banyan_durable::fault)?;
    let session = session.ok_or_else(|| Fault::internal("broken_session", "a refresh token has no session"))?;
    let token = RefreshToken {
        hash: token.hash,
        session_id: token.session_id,
        issued_at: Timestamp::from_ms(token.issued_at),
        expires_at: Timestamp::from_ms(token.expires_at),
        rotated_at: token.rotated_at.map(Timestamp::from_ms),
    };
    let session = Session {
        id: session.id,
        user_id: session.user_id,
        created_at: Timestamp::from_ms(session.created_at),
        revoked_at: session.revoked_at.map(Timestamp::from_ms),
    };
    Ok(Some((token, session)))
}

/// Exchanges a token for the next one of its session.
///
/// # Errors
/// A lost race, if it was exchanged concurrently; the transaction then runs again and finds it used.
pub async fn rotate_token(conn: &impl ConnectionTrait, hash: &str, next: &RefreshToken) -> Result<(), Fault> {
    let update = refresh_token::Entity::update_many()
        .col_expr(refresh_token::Column::RotatedAt, Expr::value(next.issued_at.as_ms()))
        .filter(refresh_token::Column::Hash.eq(hash))
        .filter(refresh_token::Column::RotatedAt.is_null());
    let done = update.exec(conn).await.map_err(banyan_durable::fault)?;
    if done.rows_affected != 1 {
        return Err(banyan_durable::lost_race("the refresh token was used meanwhile"));
    }
    insert_token(conn, next).await
}

/// Revokes a session; one that is revoked already stays unchanged.
pub async fn revoke_session(
    conn: &impl ConnectionTrait,
    id: Uuid,
    reason: RevokedReason,
    now: Timestamp,
) -> Result<(), Fault> {
    let update = session::Entity::update_many()
        .col_expr(session::Column::RevokedAt, Expr::value(now.as_ms()))
        .col_expr(session::Column::RevokedReason, Expr::value(reason.into_str()))
        .filter(session::Column::Id.eq(id))
        .filter(session::Column::RevokedAt.is_null());
    update.exec(conn).await.map(drop).map_err(banyan_durable::fault)
}

/// Deletes a batch of expired refresh tokens, and the sessions that have no token left; returns the number of deleted rows. Nothing else leaves
/// a session without a token, so only the sessions of these tokens are checked: there may be very many others.
pub async fn delete_expired(conn: &impl ConnectionTrait, now: Timestamp) -> Result<u64, Fault> {
    use refresh_token::Column;
    let expired = refresh_token::Entity::find()
        .filter(Column::ExpiresAt.lte(now.as_ms()))
        .limit(CLEANUP_BATCH);
    let expired = expired.all(conn).await.map_err(banyan_durable::fault)?;
    let hashes = expired.iter().map(|token| token.hash.as_str());
    let tokens = refresh_token::Entity::delete_many()
        .filter(Column::Hash.is_in(hashes))
        .exec(conn)
        .await
        .map_err(banyan_durable::fault)?;
    let remaining = Query::select()
        .expr(Expr::val(1))
        .from(refresh_token::Entity)
        .and_where(Expr::col((refresh_token::Entity, Column::SessionId)).equals((session::Entity, session::Column::Id)))
        .to_owned();
    let touched: BTreeSet<Uuid> = expired.iter().map(|token| token.session_id).collect();
    let empty = session::Entity::delete_many()
        .filter(session::Column::Id.is_in(touched))
        .filter(Expr::exists(remaining).not());
    Ok(tokens.rows_affected + empty.exec(conn).await.map_err(banyan_durable::fault)?.rows_affected)
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

/// The seeds of the stored keys, the one that signs first.
pub async fn list_signing_seeds(conn: &impl ConnectionTrait) -> Result<Vec<String>, Fault> {
    // `signing` sorts after `retired`.
    let query = signing_key::Entity::find()
        .order_by_desc(signing_key::Column::State)
        .order_by_desc(signing_key::Column::CreatedAt);
    Ok(query
        .all(conn)
        .await
        .map_err(banyan_durable::fault)?
        .into_iter()
        .map(|row| row.seed)
        .collect())
}

/// Stores the key that signs.
///
/// # Errors
/// A lost race, if another instance stored one first; the transaction then runs again and finds that one.
pub async fn insert_signing_key(
    conn: &impl ConnectionTrait,
    kid: &str,
    seed: &str,
    now: Timestamp,
) -> Result<(), Fault> {
    let row = signing_key::ActiveModel {
        kid: Set(kid.to_owned()),
        seed: Set(seed.to_owned()),
        state: Set("signing".to_owned()),
        created_at: Set(now.as_ms()),
    };
    match signing_key::Entity::insert(row).exec_without_returning(conn).await {
        Err(error) if banyan_durable::is_unique_violation(&error) => {
            Err(banyan_durable::lost_race("another instance made a signing key"))
        }
        other => other.map(drop).map_err(banyan_durable::fault),
    }
}

fn to_user(row: user::Model) -> Result<User, Fault> {
    let broken = |what: &str| Fault::internal("broken_user", format!("user {}: {what}", row.id));
    let roles: Vec<String> = serde_json::from_str(&row.roles).map_err(|error| broken(&error.to_string()))?;
    Ok(User {
        id: row.id,
        email: EmailAddress::parse(&row.email).map_err(|fault| broken(&fault.detail))?,
        name: PersonName::parse(&row.name).map_err(|fault| broken(&fault.detail))?,
        // A role that only a newer version knows grants nothing here.
        roles: roles.iter().filter_map(|name| name.parse().ok()).collect(),
        addresses: serde_json::from_str(&row.addresses).map_err(|error| broken(&error.to_string()))?,
        version: row.version,
        created_at: Timestamp::from_ms(row.created_at),
        updated_at: Timestamp::from_ms(row.updated_at),
    })
}

fn to_json(value: &impl serde::Serialize) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| Fault::internal("unwritable_user", error.to_string()))
}
