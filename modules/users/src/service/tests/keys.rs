//! The keys that sign access tokens: stored, or from files.

use banyan_core::FaultKind;
use banyan_durable_testing::on_both;

use super::{Shop, settings};
use crate::{Settings, store};

#[tokio::test]
async fn every_instance_and_every_start_signs_with_the_same_key() {
    on_both(crate::SCHEMA, |db| async move {
        let (one, other) = tokio::join!(Shop::open(db.clone()), Shop::open(db.clone()));
        let keys = one.service.jwks().to_vec();
        assert_eq!(keys.len(), 1);
        assert_eq!(keys, other.service.jwks());
        assert_eq!(keys, Shop::open(db).await.service.jwks());
    })
    .await;
}

#[tokio::test]
async fn a_key_file_replaces_the_stored_key_and_listed_keys_are_accepted() {
    on_both(crate::SCHEMA, |db| async move {
        let stored = Shop::open(db.clone()).await.service.jwks()[0].clone();
        let directory = banyan_durable_testing::SqliteHome::new();
        let file = |name: &str, pem: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, pem).unwrap();
            path
        };
        // RFC 8410, section 10.
        let private =
            "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let other = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
        let settings =
            Settings { signing_key_file: Some(file("new.pem", private)), verifying_key_files: vec![file("old.pem", other)], ..settings() };
        let shop = Shop::open_with(db, settings).await;
        let kids: Vec<_> = shop.service.jwks().iter().map(|key| key.kid.as_str()).collect();
        assert_eq!(kids.len(), 2);
        assert_eq!(kids[1], "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert!(!kids.contains(&stored.kid.as_str()), "a stored key is accepted only without a key file");
    })
    .await;
}

#[tokio::test]
async fn a_second_signing_key_is_a_lost_race() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        let second = db.write((), |tx, ()| async move {
            store::insert_signing_key(tx.conn(), "kid", "seed", tx.clock().now()).await
        });
        assert_eq!(second.await.unwrap_err().kind, FaultKind::Unavailable);
        assert_eq!(
            store::list_signing_seeds(db.read()).await.unwrap().len(),
            shop.service.jwks().len()
        );
    })
    .await;
}
