//! `migrate` and `seed` on both databases: what they make, that they can be repeated, and what an old binary says to newer tables.

use banyan_durable_testing::PostgresHome;
use serde_json::{Value, json};

use super::{checks, place::Place};
use crate::{
    data,
    harness::Stage,
    scenarios::{new_product, stock_of},
};

checks![
    a_module_with_a_database_of_its_own_keeps_everything_there;
    on both: tables_are_made_once_and_their_status_is_told,
    tables_are_made_without_the_key_that_signs_tokens,
    a_newer_schema_is_refused_by_its_name,
    data_and_key_outlive_the_process_and_a_reset_does_not_spare_them
];

fn all(status: &Value, column: &str, holds: fn(&Vec<Value>) -> bool) -> bool {
    let modules = status.as_array().expect("a list");
    modules.len() == 7
        && modules
            .iter()
            .all(|module| module[column].as_array().is_some_and(holds))
}

async fn tables_are_made_once_and_their_status_is_told(stage: Stage) {
    let place = Place::new(stage).await;
    if stage == Stage::Sqlite {
        let before = place
            .run(&["migrate", "status", "--output", "json"])
            .await
            .expect(0)
            .json();
        assert!(
            all(&before, "applied", Vec::is_empty) && all(&before, "pending", |pending| pending.len() > 1),
            "{before}"
        );
        let text = place.run(&["migrate", "status"]).await.expect(0).out;
        assert!(
            text.lines().count() == 7 && text.lines().all(|line| line.contains("0 applied, pending: ")),
            "{text}"
        );
    } else {
        place
            .run(&["migrate", "--provision"])
            .await
            .expect(0)
            .saying(&["orders: schema and login are there", "sandbox_provider: schema"]);
    }
    let done = place.run(&["migrate", "--output", "json"]).await.expect(0).json();
    assert!(
        all(&done, "pending", Vec::is_empty) && all(&done, "applied", |applied| applied.len() > 1),
        "{done}"
    );
    for arguments in [
        &["migrate"][..],
        &["migrate", "up"],
        &["migrate", "status"],
        &["migrate", "--provision"],
    ] {
        let text = place.run(arguments).await.expect(0).out;
        assert!(
            text.lines().count() == 7 && text.lines().all(|line| line.ends_with("up to date")),
            "{arguments:?}: {text}"
        );
    }
    assert_eq!(
        place
            .run(&["migrate", "status", "--output", "json"])
            .await
            .expect(0)
            .json(),
        done
    );
    place
        .run(&["migrate", "--provision", "status"])
        .await
        .expect(1)
        .saying(&["makes nothing", "migrate --provision"]);
    place.remove().await;
}

/// Only who serves signs tokens.
async fn tables_are_made_without_the_key_that_signs_tokens(stage: Stage) {
    let place = Place::new(stage).await;
    let prod = [
        ("BANYAN__PROFILE", "prod"),
        ("BANYAN__AUTH__ISSUER", "https://shop.example"),
    ];
    place
        .run_with(&["migrate", "--provision"], &prod)
        .await
        .expect(0)
        .saying(&[]);
    place
        .run_with(&["serve"], &prod)
        .await
        .expect(1)
        .saying(&["auth.signing_key_file"]);
    place.remove().await;
}

/// The sandbox provider's books are part of payments' data, wherever that is.
async fn a_module_with_a_database_of_its_own_keeps_everything_there() {
    let (place, other) = (Place::new(Stage::Postgres).await, PostgresHome::new().await);
    let place = place.with(&[("BANYAN__MODULES__PAYMENTS__DATABASE_URL", &other.url())]);
    let schemas = async |url: &str| {
        let connection = data::connect(&place.data_directory(), Some(url), "public").await;
        let ours = "select nspname as name from pg_namespace where nspname in ('orders', 'payments', 'sandbox_provider') order by 1";
        let names = data::names(&connection, ours).await;
        connection.close().await.expect("the connection closes");
        names
    };
    for _ in 0..2 {
        place.run(&["seed", "--reset"]).await.expect(0);
        assert_eq!(schemas(&place.database_url().expect("PostgreSQL")).await, ["orders"]);
        assert_eq!(schemas(&other.url()).await, ["payments", "sandbox_provider"]);
    }
    let shop = place.serve().await;
    let customer = shop.client.new_customer().await;
    let order = customer.order("tea-01", 1, "pm_card_visa").await;
    assert_eq!(order["status"], "confirmed", "{order}");
    shop.stop().await;
    assert!(
        !place.data_directory().join("sandbox-provider.db").exists(),
        "no books beside the database"
    );
    place.run(&["seed", "--reset"]).await.expect(0);
    let shop = place.serve().await;
    assert_eq!(
        shop.client
            .customer()
            .await
            .get("/api/v1/payments")
            .await
            .expect(200)
            .json()["items"],
        json!([]),
        "nothing is spared"
    );
    shop.stop().await;
    place.remove().await;
    other.remove().await;
}

async fn a_newer_schema_is_refused_by_its_name(stage: Stage) {
    let place = Place::new(stage).await;
    place.run(&["migrate", "--provision"]).await.expect(0);
    let connection = data::connect(&place.data_directory(), place.database_url().as_deref(), "shipping").await;
    let newer = "insert into seaql_migrations (version, applied_at) values ('m0099_shipping_from_the_future', 1)";
    data::execute(&connection, newer)
        .await
        .expect("a row of a newer binary");
    connection.close().await.expect("the connection closes");
    for arguments in [&["serve"][..], &["migrate"], &["seed"]] {
        place.run(arguments).await.expect(1).saying(&[
            "shipping",
            "m0099_shipping_from_the_future",
            "newer banyan",
            "backup",
        ]);
    }
    let status = place.run(&["migrate", "status"]).await.expect(0).out;
    assert!(
        status.contains("by a newer banyan: m0099_shipping_from_the_future"),
        "{status}"
    );
    place.remove().await;
}

async fn data_and_key_outlive_the_process_and_a_reset_does_not_spare_them(stage: Stage) {
    let place = Place::new(stage).await;
    for _ in 0..2 {
        let ended = place.run(&["seed"]).await.expect(0);
        assert!(
            ended.out.contains("demo@banyan.example") && ended.out.contains("banyan-demo"),
            "{}",
            ended.out
        );
    }
    let shop = place.serve().await;
    assert_eq!(
        stock_of(&shop.client, "rare-fig").await,
        (3, 0),
        "seeding twice receives nothing twice"
    );
    let customer = shop.client.customer().await;
    let order = customer.order("rare-fig", 1, "pm_card_visa").await;
    assert_eq!(order["status"], "confirmed", "{order}");
    new_product(&shop.client, 100, 0).await;
    let keys = shop.client.get("/.well-known/jwks.json").await.expect(200).json();
    shop.stop().await;

    let shop = place.serve().await;
    let again = shop.client.with_token(customer.token());
    let found = again
        .get(&crate::scenarios::order_path(&order))
        .await
        .expect(200)
        .json();
    assert_eq!(
        ["id", "status", "items", "total", "payment"].map(|field| &found[field]),
        ["id", "status", "items", "total", "payment"].map(|field| &order[field])
    );
    assert_eq!(
        stock_of(&shop.client, "rare-fig").await,
        (2, 0),
        "a second start seeds nothing"
    );
    assert_eq!(shop.client.get("/.well-known/jwks.json").await.expect(200).json(), keys);
    shop.stop().await;

    place.run(&["seed", "--reset"]).await.expect(0);
    let shop = place.serve().await;
    assert_eq!(stock_of(&shop.client, "rare-fig").await, (3, 0));
    assert_eq!(
        shop.client.staff().await.get("/api/v1/orders").await.expect(200).json()["items"],
        json!([])
    );
    shop.client
        .with_token(customer.token())
        .get("/api/v1/users/me")
        .await
        .expect(401);
    assert_ne!(
        shop.client.get("/.well-known/jwks.json").await.expect(200).json(),
        keys,
        "a reset makes a new key"
    );
    shop.stop().await;
    place.remove().await;
}
