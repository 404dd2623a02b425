//! The shop's databases, read-only.

use std::{collections::HashMap, path::Path};

use banyan_durable::Connection;
use sea_orm::FromQueryResult;

use crate::{data, harness::Shop};

/// The payment provider's own records.
pub const PROVIDER: &str = data::PROVIDER;

/// One connection per owner of data.
pub struct Databases {
    connections: HashMap<&'static str, Connection>,
}

impl Databases {
    pub async fn open(shop: &Shop) -> Databases {
        Databases::open_at(&shop.directory(), shop.database_url().as_deref()).await
    }

    /// Of a shop with its files in `directory`, or with its schemas at `url`.
    pub async fn open_at(directory: &Path, url: Option<&str>) -> Databases {
        let mut connections = HashMap::new();
        for owner in data::owners() {
            connections.insert(owner, data::connect_to_read(directory, url, owner).await);
        }
        Databases { connections }
    }

    pub async fn rows<Row: FromQueryResult>(&self, owner: &str, sql: &str) -> Vec<Row> {
        data::rows(&self.connections[owner], sql).await
    }

    /// The number of rows of `table` for which `condition` holds.
    pub async fn count(&self, owner: &str, table: &str, condition: &str) -> i64 {
        #[derive(FromQueryResult)]
        struct Count {
            n: i64,
        }
        let sql = format!("select count(*) as n from {table} where {condition}");
        self.rows::<Count>(owner, &sql).await[0].n
    }

    pub async fn close(self) {
        for (_, connection) in self.connections {
            connection.close().await;
        }
    }
}
