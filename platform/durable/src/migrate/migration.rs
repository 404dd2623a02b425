//! A migration as one SQL text that both databases read.

use sea_orm::{ConnectionTrait, DbBackend, DbErr};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

/// A migration: its name, which is recorded for ever, and the statements that make it.
///
/// The text keeps to what PostgreSQL and SQLite have in common. The one type they do not share is `uuid`: SQLite keeps the sixteen bytes
/// in a `blob`.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    pub name: &'static str,
    pub up: &'static str,
}

impl MigrationName for Migration {
    fn name(&self) -> &str {
        self.name
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        let sql = match connection.get_database_backend() {
            DbBackend::Sqlite => self.up.replace(" uuid", " blob"),
            _ => self.up.to_owned(),
        };
        connection.execute_unprepared(&sql).await.map(drop)
    }

    /// On both databases: sea-orm-migration would do so on PostgreSQL alone, and half a migration is worse than none.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
