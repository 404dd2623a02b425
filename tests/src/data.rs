//! Direct access to a shop's databases: for tests that read its tables or insert rows that the shop itself would not write.

use std::{path::Path, time::Duration};

use banyan::MODULES;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbErr, FromQueryResult, Statement};

/// The sandbox payment provider, which keeps its records apart from payments' own.
pub const PROVIDER: &str = "sandbox_provider";

/// Everybody who has data of their own: each module, and the provider.
pub fn owners() -> impl Iterator<Item = &'static str> {
    MODULES.into_iter().chain([PROVIDER])
}

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

pub async fn rows<Row: FromQueryResult>(connection: &DatabaseConnection, sql: &str) -> Vec<Row> {
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    Row::find_by_statement(statement)
        .all(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// The column `name` of every row.
pub async fn names(connection: &DatabaseConnection, sql: &str) -> Vec<String> {
    #[derive(FromQueryResult)]
    struct Named {
        name: String,
    }
    let rows: Vec<Named> = rows(connection, sql).await;
    rows.into_iter().map(|row| row.name).collect()
}
