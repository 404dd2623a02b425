//! Direct access to a shop's databases: for tests that read its tables or insert rows that the shop itself would not write.

use std::path::{Path, PathBuf};

use banyan::MODULES;
use banyan_durable::{Connection, Storage};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, Statement};

/// The sandbox payment provider, which keeps its records apart from payments' own.
pub const PROVIDER: &str = "sandbox_provider";

/// Everybody who has data of their own: each module, and the provider.
pub fn owners() -> impl Iterator<Item = &'static str> {
    MODULES.into_iter().chain([PROVIDER])
}

/// The SQLite file of `owner`.
pub fn file(directory: &Path, owner: &str) -> PathBuf {
    directory.join(format!("{}.db", owner.replace('_', "-")))
}

/// A connection to where `owner` keeps its data: the SQLite file in `directory`, or the schema at `url` with that URL's login.
pub async fn connect(directory: &Path, url: Option<&str>, owner: &str) -> Connection {
    open(directory, url, owner, true).await
}

/// As [`connect`], and the database refuses to write.
pub async fn connect_to_read(directory: &Path, url: Option<&str>, owner: &str) -> Connection {
    open(directory, url, owner, false).await
}

async fn open(directory: &Path, url: Option<&str>, owner: &str, writes: bool) -> Connection {
    let storage = match url {
        Some(url) => Storage::Postgres {
            url: url.to_owned(),
            schema: owner.to_owned(),
        },
        None => {
            let path = file(directory, owner);
            assert!(path.exists(), "{} does not exist", path.display());
            Storage::Sqlite { path }
        }
    };
    let connection = Connection::open(&storage, owner)
        .await
        .unwrap_or_else(|error| panic!("the data of {owner} can be opened: {error}"));
    if !writes {
        let read_only = match storage {
            Storage::Sqlite { .. } => "pragma query_only = on",
            Storage::Postgres { .. } => "set default_transaction_read_only = on",
        };
        execute(&connection, read_only).await.expect("it can be made read-only");
    }
    connection
}

pub async fn execute(connection: &Connection, sql: &str) -> Result<(), DbErr> {
    connection.execute_unprepared(sql).await.map(|_| ())
}

pub async fn rows<Row: FromQueryResult>(connection: &Connection, sql: &str) -> Vec<Row> {
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    Row::find_by_statement(statement)
        .all(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// The column `name` of every row.
pub async fn names(connection: &Connection, sql: &str) -> Vec<String> {
    #[derive(FromQueryResult)]
    struct Named {
        name: String,
    }
    let rows: Vec<Named> = rows(connection, sql).await;
    rows.into_iter().map(|row| row.name).collect()
}
