//! The module's tables, and every query on them.

mod account_mails;
mod login_failures;
mod sessions;

use banyan_core::{Actor, Fault, Page, PageRequest, Timestamp};
use sea_orm::{
    ActiveValue::{Set, Unchanged},
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select,
    sea_query::Expr,
};
use shared_kernel::MaySee;
use uuid::Uuid;

use crate::{email::EmailAddress, operators::Operators, person_name::PersonName, user::User};

pub use account_mails::{
    count_mails, delete_old_mails, expire_tokens, expire_tokens_of_kind, find_mail, find_mail_of_token, insert_mail,
    insert_token,
};
pub use login_failures::{
    delete_failure, delete_old_addresses, forget_addresses, forget_failures, insert_failure, load_history,
    remember_address,
};
pub use sessions::{
    CLEANUP_BATCH, delete_expired, find_token, insert_session, list_revoked, list_sessions, revoke_session,
    revoke_session_of, revoke_sessions_of, rotate_token,
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
        pub disabled_at: Option<i64>,
        pub email_verified_at: Option<i64>,
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
        disabled_at: Set(user.disabled_at.map(Timestamp::as_ms)),
        email_verified_at: Set(user.email_verified_at.map(Timestamp::as_ms)),
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
/// A lost race, if the stored version is not the one before the change; `email_taken`.
pub async fn update_user(conn: &impl ConnectionTrait, user: &User) -> Result<(), Fault> {
    let row = user::ActiveModel {
        id: Unchanged(user.id),
        email: Set(user.email.as_str().to_owned()),
        email_lower: Set(user.email.lower()),
        name: Set(user.name.as_str().to_owned()),
        roles: Set(to_json(&user.roles)?),
        addresses: Set(to_json(&user.addresses)?),
        version: Set(user.version),
        updated_at: Set(user.updated_at.as_ms()),
        disabled_at: Set(user.disabled_at.map(Timestamp::as_ms)),
        email_verified_at: Set(user.email_verified_at.map(Timestamp::as_ms)),
        ..Default::default()
    };
    let update = user::Entity::update_many()
        .set(row)
        .filter(user::Column::Id.eq(user.id))
        .filter(user::Column::Version.eq(user.version - 1));
    let done = match update.exec(conn).await {
        Err(error) if banyan_durable::is_unique_violation(&error) => return Err(email_taken()),
        other => other.map_err(banyan_durable::fault)?,
    };
    if done.rows_affected == 1 {
        Ok(())
    } else {
        Err(banyan_durable::lost_race("the user changed meanwhile"))
    }
}

/// Replaces the hash of a password; returns `false` if the password was changed concurrently.
pub async fn replace_hash(conn: &impl ConnectionTrait, user_id: Uuid, old: &str, new: &str) -> Result<bool, Fault> {
    let update = user::Entity::update_many().col_expr(user::Column::PasswordHash, Expr::value(new));
    let update = update
        .filter(user::Column::Id.eq(user_id))
        .filter(user::Column::PasswordHash.eq(old));
    let done = update.exec(conn).await.map_err(banyan_durable::fault)?;
    Ok(done.rows_affected == 1)
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

/// The operators, without the disabled ones.
pub async fn find_operators(conn: &impl ConnectionTrait) -> Result<Operators, Fault> {
    operators(conn, select_operators()).await
}

/// The operators, locked until the transaction ends: no other transaction takes the role from one of them meanwhile.
pub async fn lock_operators(conn: &impl ConnectionTrait) -> Result<Operators, Fault> {
    operators(conn, select_operators().lock_exclusive()).await
}

/// In the words of the index `users_operators`, so that it is used. All transactions lock in the same order.
fn select_operators() -> Select<user::Entity> {
    user::Entity::find()
        .filter(Expr::cust(r#"roles like '%"ops"%'"#))
        .filter(user::Column::DisabledAt.is_null())
        .order_by_asc(user::Column::Id)
}

async fn operators(conn: &impl ConnectionTrait, query: Select<user::Entity>) -> Result<Operators, Fault> {
    let ids = query.select_only().column(user::Column::Id).into_tuple::<Uuid>();
    ids.all(conn).await.map(Operators::new).map_err(banyan_durable::fault)
}

/// The user and the hash of their password, locked until the transaction ends: neither changes meanwhile.
pub async fn lock_credentials(conn: &impl ConnectionTrait, id: Uuid) -> Result<Option<(User, String)>, Fault> {
    let row = user::Entity::find_by_id(id).lock_exclusive().one(conn).await;
    row.map_err(banyan_durable::fault)?.map(to_credentials).transpose()
}

/// The user and the hash of their password.
///
/// # Errors
/// `not_found`.
pub async fn load_credentials(conn: &impl ConnectionTrait, id: Uuid) -> Result<(User, String), Fault> {
    let row = user::Entity::find_by_id(id).one(conn).await;
    let row = row.map_err(banyan_durable::fault)?;
    to_credentials(row.ok_or_else(|| Fault::not_found("user"))?)
}

/// The user with this lower-case email address, and the hash of their password.
pub async fn find_credentials(conn: &impl ConnectionTrait, email_lower: &str) -> Result<Option<(User, String)>, Fault> {
    let row = user::Entity::find()
        .filter(user::Column::EmailLower.eq(email_lower))
        .one(conn)
        .await
        .map_err(banyan_durable::fault)?;
    row.map(to_credentials).transpose()
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

fn to_credentials(row: user::Model) -> Result<(User, String), Fault> {
    let hash = row.password_hash.clone();
    Ok((to_user(row)?, hash))
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
        disabled_at: row.disabled_at.map(Timestamp::from_ms),
        email_verified_at: row.email_verified_at.map(Timestamp::from_ms),
    })
}

fn to_json(value: &impl serde::Serialize) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| Fault::internal("unwritable_user", error.to_string()))
}
