//! Which installation a database belongs to, and which other databases that installation has.
//!
//! Each database of an installation carries the installation's id and the names of all its databases. So a process that opens several of them can tell
//! a database that is new from one that was lost, and one of this installation from one of another.

use std::collections::BTreeSet;

use banyan_core::Fault;
use sea_orm::{ConnectionTrait, DbBackend, Statement, Value};
use uuid::Uuid;

use crate::{
    Connection, Storage,
    fault::fault,
    marks::{self, Marks},
    migrate, query, time,
};

const TABLE: &str = "installation";
const MADE_BY: &str = include_str!("../migrations/m0007_installation.sql");
/// Tables that a database without data may have.
const RECORDS: [&str; 3] = ["seaql_migrations", TABLE, marks::TABLE];

/// What a database says of the installation it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no database, or it has no tables.
    Nothing,
    /// Its tables were made by an earlier version, or are being made.
    Unmarked,
    Member(Membership),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub installation: Uuid,
    /// The names of the installation's databases, as far as this one knows.
    pub members: BTreeSet<String>,
    /// Its own mark, and those of the others that it remembers. None: it was never opened by a version that has marks.
    pub marks: Option<Marks>,
}

/// Reads what the database in `storage` says, and creates nothing.
///
/// # Errors
/// `unavailable`: it cannot be opened or read, naming it.
pub async fn look(storage: &Storage, name: &str) -> Result<Found, Fault> {
    let Some(connection) = Connection::open_existing(storage, name).await? else {
        return Ok(Found::Nothing);
    };
    let found = found(&connection).await;
    connection.close().await;
    found
}

async fn found(connection: &Connection) -> Result<Found, Fault> {
    let tables = tables(connection).await?;
    if !tables.iter().any(|table| !RECORDS.contains(&table.as_str())) {
        return Ok(Found::Nothing);
    }
    if !tables.iter().any(|table| table == TABLE) {
        return Ok(Found::Unmarked);
    }
    Ok(match installation(connection).await? {
        None => Found::Unmarked,
        Some(installation) => Found::Member(Membership {
            installation,
            members: query::scalars::<String>(connection, "select name from installation", [])
                .await?
                .into_iter()
                .collect(),
            marks: if tables.iter().any(|table| table == marks::TABLE) {
                Some(marks::read(connection).await?)
            } else {
                None
            },
        }),
    })
}

async fn tables(connection: &Connection) -> Result<Vec<String>, Fault> {
    let sql = match connection.get_database_backend() {
        DbBackend::Sqlite => "select name from sqlite_master where type = 'table'",
        _ => "select tablename::text from pg_tables where schemaname = current_schema()",
    };
    query::scalars(connection, sql, []).await
}

async fn installation(connection: &Connection) -> Result<Option<Uuid>, Fault> {
    query::scalar(
        connection,
        "select id from installation order by known_since limit 1",
        [],
    )
    .await
}

/// Records that this database belongs to an installation with these `members`, and returns its id: the one it has, else `installation`, else a new one.
///
/// # Errors
/// `unavailable`.
pub async fn join(
    connection: &Connection,
    installation: Option<Uuid>,
    members: &BTreeSet<String>,
) -> Result<Uuid, Fault> {
    let proposed = match installation {
        Some(id) => id,
        None => propose(connection).await,
    };
    execute_script(connection, "begin").await?;
    let joined = async {
        if connection.get_database_backend() == DbBackend::Postgres {
            let lock = "select pg_advisory_xact_lock(hashtext(current_schema() || ' installation'))";
            execute_script(connection, lock).await?;
        }
        // Storage beside a module's own has none of the machinery's migrations.
        if !tables(connection).await?.iter().any(|table| table == TABLE) {
            execute_script(connection, &migrate::text(connection.get_database_backend(), MADE_BY)).await?;
        }
        marks::prepare(connection).await?;
        let id = self::installation(connection).await?.unwrap_or(proposed);
        let now = time::now(connection.get_database_backend());
        let insert = format!(
            "insert into installation (name, id, known_since) values ($1, $2, {now}) on conflict (name) do nothing"
        );
        for member in members {
            execute(connection, &insert, [member.as_str().into(), id.into()]).await?;
        }
        execute_script(connection, "commit").await?;
        Ok(id)
    };
    let joined = joined.await;
    if joined.is_err() {
        execute_script(connection, "rollback").await?;
    }
    joined
}

async fn execute_script(connection: &Connection, sql: &str) -> Result<(), Fault> {
    connection.execute_unprepared(sql).await.map(drop).map_err(fault)
}

/// The id of an installation whose first database this is. Processes that begin at the same time, each with modules of its own in one database of
/// PostgreSQL, come to the same id without knowing of each other.
async fn propose(connection: &Connection) -> Uuid {
    if connection.get_database_backend() == DbBackend::Postgres {
        let sql = "select system_identifier::text || '/' || oid::text from pg_control_system(), pg_database where datname = current_database()";
        if let Ok(Some(database)) = query::scalar::<String>(connection, sql, []).await {
            return Uuid::new_v5(&Uuid::NAMESPACE_OID, database.as_bytes());
        }
    }
    Uuid::new_v4()
}

/// Forgets that the installation has a database `name`, so that it may be made anew.
///
/// # Errors
/// `unavailable`.
pub async fn forget(connection: &Connection, name: &str) -> Result<(), Fault> {
    execute(connection, "delete from installation where name = $1", [name.into()]).await
}

/// Records that this database belongs to another installation from now on.
///
/// # Errors
/// `unavailable`.
pub async fn change(connection: &Connection, installation: Uuid) -> Result<(), Fault> {
    execute(connection, "update installation set id = $1", [installation.into()]).await
}

async fn execute(connection: &Connection, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<(), Fault> {
    let statement = Statement::from_sql_and_values(connection.get_database_backend(), sql, values);
    connection.execute_raw(statement).await.map(drop).map_err(fault)
}
