//! The shop's databases, read-only.

use std::{collections::HashMap, path::Path, time::Duration};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, QueryResult, Statement, TryGetable};

use crate::harness::Shop;

pub const MODULES: [&str; 7] = ["users", "catalog", "inventory", "payments", "shipping", "orders", "notifications"];
/// The payment provider's own books.
pub const PROVIDER: &str = "sandbox_provider";

/// One connection per owner of data.
pub struct Books {
    connections: HashMap<&'static str, DatabaseConnection>,
}

impl Books {
    pub async fn open(shop: &Shop) -> Books {
        Books::open_at(&shop.directory(), shop.database_url().as_deref()).await
    }

    /// Of a shop with its files in `directory`, or with its schemas at `url`.
    pub async fn open_at(directory: &Path, url: Option<&str>) -> Books {
        let mut connections = HashMap::new();
        for owner in MODULES.into_iter().chain([PROVIDER]) {
            let mut options = match url {
                None => {
                    ConnectOptions::new(format!("sqlite://{}?mode=ro", directory.join(format!("{}.db", owner.replace('_', "-"))).display()))
                }
                Some(url) => {
                    let mut options = ConnectOptions::new(url);
                    options.set_schema_search_path(owner);
                    options
                }
            };
            options.max_connections(1).sqlx_logging(false).acquire_timeout(Duration::from_secs(10));
            connections.insert(owner, Database::connect(options).await.expect("the shop's data can be read"));
        }
        Books { connections }
    }

    pub async fn rows(&self, owner: &str, sql: &str) -> Vec<QueryResult> {
        let connection = &self.connections[owner];
        let statement = Statement::from_string(connection.get_database_backend(), sql);
        connection.query_all_raw(statement).await.unwrap_or_else(|error| panic!("{owner}: {sql}: {error}"))
    }

    /// The column `n` of the only row.
    pub async fn count(&self, owner: &str, sql: &str) -> i64 {
        get(&self.rows(owner, sql).await[0], "n")
    }

    pub async fn close(self) {
        for (_, connection) in self.connections {
            connection.close().await.expect("the connection closes");
        }
    }
}

/// A column's value.
pub fn get<T: TryGetable>(row: &QueryResult, column: &str) -> T {
    row.try_get("", column).unwrap_or_else(|error| panic!("{column}: {error}"))
}
