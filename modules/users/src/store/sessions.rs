//! The tables of sessions and their refresh tokens.

use std::collections::BTreeSet;

use banyan_core::{Fault, Timestamp};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QuerySelect,
    sea_query::{Expr, ExprTrait, Query},
};
use uuid::Uuid;

use crate::session::{RefreshToken, RevokedReason, Session};

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
        pub end_reason: Option<String>,
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

/// The maximum number of tokens one clean-up transaction deletes, so that it stays short.
const CLEANUP_BATCH: u64 = 500;

/// Stores a session with its first refresh token.
pub async fn insert_session(conn: &impl ConnectionTrait, session: &Session, token: &RefreshToken) -> Result<(), Fault> {
    let row = session::ActiveModel {
        id: Set(session.id),
        user_id: Set(session.user_id),
        created_at: Set(session.created_at.as_ms()),
        revoked_at: Set(None),
        revoked_reason: Set(None),
        end_reason: Set(None),
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
    revoke(conn, session::Column::Id.eq(id), reason, now).await
}

/// Revokes all sessions of a user.
pub async fn revoke_sessions_of(
    conn: &impl ConnectionTrait,
    user_id: Uuid,
    reason: RevokedReason,
    now: Timestamp,
) -> Result<(), Fault> {
    revoke(conn, session::Column::UserId.eq(user_id), reason, now).await
}

async fn revoke(
    conn: &impl ConnectionTrait,
    which: impl Into<Condition>,
    reason: RevokedReason,
    now: Timestamp,
) -> Result<(), Fault> {
    // `revoked_reason` admits the reasons of its table's first version alone; `end_reason` has the exact one.
    let first_reason = match reason {
        RevokedReason::TokenReused => RevokedReason::TokenReused,
        _ => RevokedReason::LoggedOut,
    };
    let update = session::Entity::update_many()
        .col_expr(session::Column::RevokedAt, Expr::value(now.as_ms()))
        .col_expr(session::Column::RevokedReason, Expr::value(first_reason.into_str()))
        .col_expr(session::Column::EndReason, Expr::value(reason.into_str()))
        .filter(which.into())
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
