//! The shop's databases, read-only.

use std::{collections::HashMap, path::Path};

use sea_orm::{DatabaseConnection, QueryResult, TryGetable};

use crate::{data, harness::Shop};

/// The payment provider's own records.
pub const PROVIDER: &str = "sandbox_provider";

/// One connection per owner of data.
pub struct Databases {
    connections: HashMap<&'static str, DatabaseConnection>,
}

impl Databases {
    pub async fn open(shop: &Shop) -> Databases {
        Databases::open_at(&shop.directory(), shop.database_url().as_deref()).await
    }

    /// Of a shop with its files in `directory`, or with its schemas at `url`.
    pub async fn open_at(directory: &Path, url: Option<&str>) -> Databases {
        let mut connections = HashMap::new();
        for owner in data::OWNERS {
            connections.insert(owner, data::connect_to_read(directory, url, owner).await);
        }
        Databases { connections }
    }

    pub async fn rows(&self, owner: &str, sql: &str) -> Vec<QueryResult> {
        data::rows(&self.connections[owner], sql).await
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
    row.try_get("", column)
        .unwrap_or_else(|error| panic!("{column}: {error}"))
}
