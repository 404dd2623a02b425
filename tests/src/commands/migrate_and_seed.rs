//! `migrate` and `seed` on both databases: what they create, that they can be repeated, and how an old binary refuses newer tables.

use banyan::MODULES;
use banyan_durable_testing::PostgresHome;
use serde_json::{Value, json};

use super::{checks, installation::Installation};
use crate::{
    data,
    harness::Stage,
    scenarios::{new_product, stock_of},
};

checks![
    a_module_with_its_own_database_stores_all_its_data_there;
    on both: migrations_run_once_and_report_their_status,
    migrations_need_no_signing_key,
    a_newer_schema_is_refused_with_the_name_of_its_migration,
    data_and_signing_key_survive_a_restart_and_a_reset_deletes_both,
    the_first_operators_password_is_rotated_by_a_command
];

fn all(status: &Value, column: &str, holds: fn(&Vec<Value>) -> bool) -> bool {
    let modules = status.as_array().expect("a list");
    modules.len() == MODULES.len()
        && modules
            .iter()
            .all(|module| module[column].as_array().is_some_and(holds))
}

async fn migrations_run_once_and_report_their_status(stage: Stage) {
    let installation = Installation::new(stage).await;
    if stage == Stage::Sqlite {
        let before = installation
            .run(&["migrate", "status", "--output", "json"])
            .await
            .expect(0)
            .json();
        assert!(
            all(&before, "applied", Vec::is_empty) && all(&before, "pending", |pending| pending.len() > 1),
            "{before}"
        );
        let text = installation.run(&["migrate", "status"]).await.expect(0).out;
        assert!(
            text.lines().count() == MODULES.len() && text.lines().all(|line| line.contains("0 applied, pending: ")),
            "{text}"
        );
    } else {
        installation
            .run(&["migrate", "--provision"])
            .await
            .expect(0)
            .stderr_contains(&["orders: schema and login exist", "sandbox_provider: schema"]);
    }
    let done = installation
        .run(&["migrate", "--output", "json"])
        .await
        .expect(0)
        .json();
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
        let text = installation.run(arguments).await.expect(0).out;
        assert!(
            text.lines().count() == MODULES.len() && text.lines().all(|line| line.ends_with("up to date")),
            "{arguments:?}: {text}"
        );
    }
    assert_eq!(
        installation
            .run(&["migrate", "status", "--output", "json"])
            .await
            .expect(0)
            .json(),
        done
    );
    installation
        .run(&["migrate", "--provision", "status"])
        .await
        .expect(1)
        .stderr_contains(&["changes nothing", "migrate --provision"]);
    installation.remove().await;
}

/// Only a serving process signs tokens.
async fn migrations_need_no_signing_key(stage: Stage) {
    let installation = Installation::new(stage).await;
    let prod = [
        ("BANYAN__PROFILE", "prod"),
        ("BANYAN__AUTH__ISSUER", "https://shop.example"),
    ];
    installation
        .run_with(&["migrate", "--provision"], &prod)
        .await
        .expect(0)
        .stderr_contains(&[]);
    installation
        .run_with(&["serve"], &prod)
        .await
        .expect(1)
        .stderr_contains(&["auth.signing_key_file"]);
    installation.remove().await;
}

/// The records of the sandbox provider are part of payments' data, wherever that is.
async fn a_module_with_its_own_database_stores_all_its_data_there() {
    let (installation, other) = (Installation::new(Stage::Postgres).await, PostgresHome::new().await);
    let installation = installation.with(&[("BANYAN__MODULES__PAYMENTS__DATABASE_URL", &other.url())]);
    let schemas = async |url: &str| {
        let connection = data::connect(&installation.data_directory(), Some(url), "public").await;
        let ours = "select nspname as name from pg_namespace where nspname in ('orders', 'payments', 'sandbox_provider') order by 1";
        let names = data::names(&connection, ours).await;
        connection.close().await;
        names
    };
    for _ in 0..2 {
        installation.run(&["seed", "--reset"]).await.expect(0);
        assert_eq!(
            schemas(&installation.database_url().expect("PostgreSQL")).await,
            ["orders"]
        );
        assert_eq!(schemas(&other.url()).await, ["payments", "sandbox_provider"]);
    }
    let shop = installation.serve().await;
    let customer = shop.client.new_customer().await;
    let order = customer.order("tea-01", 1, "pm_card_visa").await;
    assert_eq!(order["status"], "confirmed", "{order}");
    shop.stop().await;
    assert!(
        !installation.data_directory().join("sandbox-provider.db").exists(),
        "no SQLite file beside the database"
    );
    installation.run(&["seed", "--reset"]).await.expect(0);
    let shop = installation.serve().await;
    assert_eq!(
        shop.client
            .customer()
            .await
            .get("/api/v1/payments")
            .await
            .expect(200)
            .json()["items"],
        json!([]),
        "the reset deletes everything"
    );
    shop.stop().await;
    installation.remove().await;
    other.remove().await;
}

async fn a_newer_schema_is_refused_with_the_name_of_its_migration(stage: Stage) {
    let installation = Installation::new(stage).await;
    installation.run(&["migrate", "--provision"]).await.expect(0);
    let connection = data::connect(
        &installation.data_directory(),
        installation.database_url().as_deref(),
        "shipping",
    )
    .await;
    let newer = "insert into seaql_migrations (version, applied_at) values ('m0099_shipping_from_the_future', 1)";
    data::execute(&connection, newer)
        .await
        .expect("a migration of a newer binary is recorded");
    connection.close().await;
    for arguments in [&["serve"][..], &["migrate"], &["seed"]] {
        installation.run(arguments).await.expect(1).stderr_contains(&[
            "shipping",
            "m0099_shipping_from_the_future",
            "newer banyan",
            "backup",
        ]);
    }
    let status = installation.run(&["migrate", "status"]).await.expect(0).out;
    assert!(
        status.contains("by a newer banyan: m0099_shipping_from_the_future"),
        "{status}"
    );
    installation.remove().await;
}

async fn data_and_signing_key_survive_a_restart_and_a_reset_deletes_both(stage: Stage) {
    let installation = Installation::new(stage).await;
    for _ in 0..2 {
        let ended = installation.run(&["seed"]).await.expect(0);
        assert!(
            ended.out.contains("demo@banyan.example") && ended.out.contains("banyan-demo"),
            "{}",
            ended.out
        );
    }
    let shop = installation.serve().await;
    assert_eq!(
        stock_of(&shop.client, "rare-fig").await,
        (3, 0),
        "seeding twice adds the stock once"
    );
    let customer = shop.client.customer().await;
    let order = customer.order("rare-fig", 1, "pm_card_visa").await;
    assert_eq!(order["status"], "confirmed", "{order}");
    new_product(&shop.client, 100, 0).await;
    let keys = shop.client.get("/.well-known/jwks.json").await.expect(200).json();
    shop.stop().await;

    let shop = installation.serve().await;
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

    installation.run(&["seed", "--reset"]).await.expect(0);
    let shop = installation.serve().await;
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
        "a reset creates a new key"
    );
    shop.stop().await;
    installation.remove().await;
}

async fn the_first_operators_password_is_rotated_by_a_command(stage: Stage) {
    const EMAIL: &str = "ops@banyan.example";
    const NEW: &str = "nobody knows this one";
    let installation = Installation::new(stage).await;
    let file = installation.file("new-password", NEW);
    installation.run(&["users", "reset-password"]).await.expect(1);
    let shop = installation.serve().await;
    shop.client.log_in_with(EMAIL, "banyan-demo").await;
    let (email_key, file_key) = (
        "BANYAN__USERS__FIRST_OPERATOR__EMAIL",
        "BANYAN__USERS__FIRST_OPERATOR__PASSWORD_FILE",
    );
    let settings = [(email_key, EMAIL), (file_key, file.as_str())];
    let reset = || installation.run_with(&["users", "reset-password"], &settings);
    // Several processes may share PostgreSQL; on SQLite the server must be stopped.
    let shop = if stage == Stage::Sqlite {
        reset().await.expect(1);
        shop.stop().await;
        reset().await.expect(0);
        installation.serve().await
    } else {
        reset().await.expect(0);
        shop
    };
    shop.client.log_in_with(EMAIL, NEW).await;
    let old = json!({"email": EMAIL, "password": "banyan-demo"});
    shop.client
        .post("/api/v1/sessions", &old)
        .await
        .expect_problem(401, "invalid_credentials");
    shop.stop().await;
    installation.remove().await;
}
