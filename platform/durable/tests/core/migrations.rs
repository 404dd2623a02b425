//! Migrations: what earlier versions recorded is read as it was.

use banyan_durable::{Connection, Schema, Storage, migrate};
use banyan_durable_testing::{PostgresHome, SqliteHome};
use sea_orm::ConnectionTrait;

/// The table as sea-orm-migration made it, which applied the migrations of earlier versions.
const MADE_BEFORE: &str =
    r#"create table "seaql_migrations" ("version" varchar not null primary key, "applied_at" bigint not null)"#;

/// A schema of which the machinery's first migration was applied before: its table is there, with a row.
async fn is_continued(storage: Storage) {
    let schema = Schema::from("library");
    let connection = Connection::open(&storage, schema.module).await.unwrap();
    connection.execute_unprepared(MADE_BEFORE).await.unwrap();
    let first = include_str!("../../migrations/m0001_durable.sql");
    let first = match storage {
        Storage::Sqlite { .. } => first.replace(" uuid", " blob"),
        Storage::Postgres { .. } => first.to_owned(),
    };
    connection.execute_unprepared(&first).await.unwrap();
    let row = "insert into seaql_migrations (version, applied_at) values ('m0001_durable', 1700000000)";
    connection.execute_unprepared(row).await.unwrap();

    let before = migrate::status(&connection, &schema).await.unwrap();
    assert_eq!(before.applied, ["m0001_durable"]);
    assert_eq!(before.pending[0], "m0002_durable_indexes");
    let after = migrate::up(&connection, &schema).await.unwrap();
    assert_eq!(after.applied, [before.applied, before.pending].concat());
    assert!(after.pending.is_empty() && after.unknown.is_empty());
    assert_eq!(migrate::up(&connection, &schema).await.unwrap(), after);
    connection.close().await;
}

#[tokio::test]
async fn a_schema_of_an_earlier_version_is_continued() {
    let sqlite = SqliteHome::new();
    is_continued(sqlite.storage("library")).await;
    let postgres = PostgresHome::new().await;
    is_continued(postgres.storage("library").await).await;
    postgres.remove().await;
}
