//! The tables of sessions and their refresh tokens.

use std::collections::{BTreeMap, BTreeSet};

use banyan_core::{Fault, Page, PageRequest, Timestamp};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
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
pub const CLEANUP_BATCH: u64 = 500;

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
    Ok(Some((to_token(token), to_session(session))))
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
    revoke(conn, session::Column::Id.eq(id), reason, now).await.map(drop)
}

/// Revokes a session of this user; returns whether there is one that was not revoked.
pub async fn revoke_session_of(
    conn: &impl ConnectionTrait,
    user_id: Uuid,
    id: Uuid,
    reason: RevokedReason,
    now: Timestamp,
) -> Result<bool, Fault> {
    let own = session::Column::UserId.eq(user_id).and(session::Column::Id.eq(id));
    Ok(revoke(conn, own, reason, now).await? > 0)
}

/// Revokes all sessions of a user but one.
pub async fn revoke_sessions_of(
    conn: &impl ConnectionTrait,
    user_id: Uuid,
    except: Option<Uuid>,
    reason: RevokedReason,
    now: Timestamp,
) -> Result<(), Fault> {
    let mut which = Condition::all().add(session::Column::UserId.eq(user_id));
    if let Some(id) = except {
        which = which.add(session::Column::Id.ne(id));
    }
    revoke(conn, which, reason, now).await.map(drop)
}

/// The sessions of a user that can be refreshed at `now`, newest first, each with its refresh token.
///
/// # Errors
/// `invalid_parameter` for a cursor of another list.
pub async fn list_sessions(
    conn: &impl ConnectionTrait,
    user_id: Uuid,
    now: Timestamp,
    request: &PageRequest,
) -> Result<Page<(Session, RefreshToken)>, Fault> {
    let usable = Query::select()
        .expr(Expr::val(1))
        .from(refresh_token::Entity)
        .and_where(of_session())
        .and_where(Expr::col(refresh_token::Column::RotatedAt).is_null())
        .and_where(Expr::col(refresh_token::Column::ExpiresAt).gt(now.as_ms()))
        .to_owned();
    let open = session::Entity::find()
        .filter(session::Column::UserId.eq(user_id))
        .filter(session::Column::RevokedAt.is_null())
        .filter(Expr::exists(usable));
    let key = (session::Column::CreatedAt, session::Column::Id);
    let query = banyan_durable::newest_first::<_, Uuid>(open, key, request)?;
    let sessions = query.all(conn).await.map_err(banyan_durable::fault)?;
    let page = request.page(sessions, |row| (Timestamp::from_ms(row.created_at), row.id));
    let tokens = refresh_token::Entity::find()
        .filter(refresh_token::Column::SessionId.is_in(page.items.iter().map(|session| session.id)))
        .filter(refresh_token::Column::RotatedAt.is_null());
    let tokens = tokens.all(conn).await.map_err(banyan_durable::fault)?;
    let mut tokens: BTreeMap<Uuid, RefreshToken> =
        tokens.into_iter().map(|row| (row.session_id, to_token(row))).collect();
    // A session that was ended and deleted between the two queries has no token.
    let with_token = page.items.into_iter().filter_map(|row| {
        let token = tokens.remove(&row.id)?;
        Some((to_session(row), token))
    });
    Ok(Page {
        items: with_token.collect(),
        next: page.next,
    })
}

/// The latest sessions that were revoked after `since`, newest first: the id and the time of each.
pub async fn list_revoked(
    conn: &impl ConnectionTrait,
    since: Timestamp,
    limit: u64,
) -> Result<Vec<(Uuid, Timestamp)>, Fault> {
    let query = session::Entity::find()
        .filter(session::Column::RevokedAt.gt(since.as_ms()))
        .order_by_desc(session::Column::RevokedAt)
        .limit(limit);
    let rows = query.all(conn).await.map_err(banyan_durable::fault)?;
    let revoked = rows
        .into_iter()
        .filter_map(|row| Some((row.id, Timestamp::from_ms(row.revoked_at?))));
    Ok(revoked.collect())
}

async fn revoke(
    conn: &impl ConnectionTrait,
    which: impl Into<Condition>,
    reason: RevokedReason,
    now: Timestamp,
) -> Result<u64, Fault> {
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
    let done = update.exec(conn).await.map_err(banyan_durable::fault)?;
    Ok(done.rows_affected)
}

/// For a subquery: the tokens of the session of the outer query.
fn of_session() -> Expr {
    Expr::col((refresh_token::Entity, refresh_token::Column::SessionId)).equals((session::Entity, session::Column::Id))
}

fn to_token(row: refresh_token::Model) -> RefreshToken {
    RefreshToken {
        hash: row.hash,
        session_id: row.session_id,
        issued_at: Timestamp::from_ms(row.issued_at),
        expires_at: Timestamp::from_ms(row.expires_at),
        rotated_at: row.rotated_at.map(Timestamp::from_ms),
    }
}

fn to_session(row: session::Model) -> Session {
    Session {
        id: row.id,
        user_id: row.user_id,
        created_at: Timestamp::from_ms(row.created_at),
        revoked_at: row.revoked_at.map(Timestamp::from_ms),
    }
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
        .and_where(of_session())
        .to_owned();
    let touched: BTreeSet<Uuid> = expired.iter().map(|token| token.session_id).collect();
    let empty = session::Entity::delete_many()
        .filter(session::Column::Id.is_in(touched))
        .filter(Expr::exists(remaining).not());
    Ok(tokens.rows_affected + empty.exec(conn).await.map_err(banyan_durable::fault)?.rows_affected)
}
