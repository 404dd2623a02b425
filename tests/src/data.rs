//! Direct access to a shop's databases: for tests that read its tables or insert rows that the shop itself would not write.

use std::{path::Path, time::Duration};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbErr, QueryResult, Statement};

/// Whose data there is.
pub const OWNERS: [&str; 8] = [
    "users",
    "catalog",
    "inventory",
    "payments",
    "shipping",
    "orders",
    "notifications",
    "sandbox_provider",
];

/// A connection to where `owner` keeps its data: the SQLite file in `directory`, or the schema at `url` with that URL's login.
pub async fn connect(directory: &Path, url: Option<&str>, owner: &str) -> DatabaseConnection {
    open(directory, url, owner, true).await
}

/// As [`connect`], and the database refuses to write.
pub async fn connect_to_read(directory: &Path, url: Option<&str>, owner: &str) -> DatabaseConnection {
    open(directory, url, owner, false).await
}

async fn open(directory: &Path, url: Option<&str>, owner: &str, writes: bool) -> DatabaseConnection {
    let mut options = match url {
        Some(url) => {
            let mut options = ConnectOptions::new(url);
            options.set_schema_search_path(owner);
            if !writes {
                options.map_sqlx_postgres_opts(|postgres| postgres.options([("default_transaction_read_only", "on")]));
            }
            options
        }
        None => {
            let (file, mode) = (
                directory.join(format!("{}.db", owner.replace('_', "-"))),
                if writes { "rw" } else { "ro" },
            );
            ConnectOptions::new(format!("sqlite://{}?mode={mode}", file.display()))
        }
    };
    options
        .max_connections(1)
        .sqlx_logging(false)
        .acquire_timeout(Duration::from_secs(10));
    Database::connect(options)
        .await
        .unwrap_or_else(|error| panic!("the data of {owner} can be opened: {error}"))
}

pub async fn execute(connection: &DatabaseConnection, sql: &str) -> Result<(), DbErr> {
    connection.execute_unprepared(sql).await.map(|_| ())
}

pub async fn rows(connection: &DatabaseConnection, sql: &str) -> Vec<QueryResult> {
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    connection
        .query_all_raw(statement)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// The column `name` of every row.
pub async fn names(connection: &DatabaseConnection, sql: &str) -> Vec<String> {
    let name = |row: &QueryResult| {
        row.try_get::<String>("", "name")
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    };
    rows(connection, sql).await.iter().map(name).collect()
}
