//! What a database says of the installation it belongs to.

use std::collections::BTreeSet;

use banyan_durable::{
    Connection, Storage,
    installation::{self, Found, Membership},
};
use banyan_durable_testing::{PostgresHome, SqliteHome, open, settings};
use uuid::Uuid;

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn joined(storage: &Storage, installation: Option<Uuid>, members: &[&str]) -> Uuid {
    let connection = Connection::open(storage, "library").await.unwrap();
    let joined = installation::join(&connection, installation, &names(members)).await;
    connection.close().await;
    joined.unwrap()
}

async fn keeps_its_installation(storage: Storage) {
    assert_eq!(installation::look(&storage, "library").await.unwrap(), Found::Nothing);
    open("library", &storage, settings()).await.close().await;
    assert_eq!(installation::look(&storage, "library").await.unwrap(), Found::Unmarked);
    let own = joined(&storage, None, &["library"]).await;
    assert_eq!(joined(&storage, Some(Uuid::new_v4()), &["library", "shelf"]).await, own);
    let found = installation::look(&storage, "library").await.unwrap();
    let known = |members: &[&str]| {
        Found::Member(Membership {
            installation: own,
            members: names(members),
            marks: Some(banyan_durable::marks::Marks::new()),
        })
    };
    assert_eq!(found, known(&["library", "shelf"]));
    let connection = Connection::open(&storage, "library").await.unwrap();
    installation::forget(&connection, "shelf").await.unwrap();
    connection.close().await;
    assert_eq!(
        installation::look(&storage, "library").await.unwrap(),
        known(&["library"])
    );
}

#[tokio::test]
async fn a_database_keeps_the_installation_it_joined_and_looking_creates_nothing() {
    let sqlite = SqliteHome::new();
    let storage = sqlite.storage("library");
    installation::look(&storage, "library").await.unwrap();
    assert!(!sqlite.path().join("library.db").exists());
    keeps_its_installation(storage).await;
    let postgres = PostgresHome::new().await;
    keeps_its_installation(postgres.storage("library").await).await;
    postgres.remove().await;
}

/// Two processes that begin at the same time do not know of each other, and may share a process later.
#[tokio::test]
async fn processes_that_begin_apart_in_one_postgresql_database_agree_on_the_installation() {
    let (here, elsewhere) = (PostgresHome::new().await, PostgresHome::new().await);
    let mut ids = Vec::new();
    for (home, schema) in [(&here, "library"), (&here, "shelf"), (&elsewhere, "library")] {
        let storage = home.storage(schema).await;
        open(schema, &storage, settings()).await.close().await;
        ids.push(joined(&storage, None, &[schema]).await);
    }
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[0], ids[2], "another database is another installation");
    here.remove().await;
    elsewhere.remove().await;
}
