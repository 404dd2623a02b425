//! What does not start, and what the sentence says; and what the profile `prod` starts with.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::{
    checks,
    place::{Place, signing_key},
};
use crate::harness::Stage;

checks![
    what_is_unsafe_does_not_start,
    a_signing_key_that_is_none_is_refused,
    prod_does_not_start_on_demo_data_and_the_data_is_its_owners_alone,
    a_postgresql_that_does_not_answer_is_named_with_the_way_to_start_it,
    postgresql_without_schemas_asks_for_provisioning;
    on both: prod_starts_with_a_key_of_its_own_and_without_demo_data,
];

/// What `prod` asks for, but for its key.
const PROD: [(&str, &str); 2] = [
    ("BANYAN__PROFILE", "prod"),
    ("BANYAN__AUTH__ISSUER", "https://shop.example"),
];

async fn what_is_unsafe_does_not_start() {
    let place = Place::new(Stage::Sqlite).await;
    let key = place.file("key.pem", &signing_key());
    let key = [("BANYAN__AUTH__SIGNING_KEY_FILE", key.as_str())];
    let beyond = [("BANYAN__HTTP__LISTEN", "0.0.0.0:0")];
    place
        .run_with(&["serve"], &beyond)
        .await
        .expect(1)
        .saying(&["http.listen", "demo", "loopback"]);
    place.run_with(&["serve"], &PROD).await.expect(1).saying(&[
        "auth.signing_key_file",
        "BANYAN__AUTH__SIGNING_KEY_FILE",
        "openssl genpkey",
    ]);
    place
        .run_with(&["serve"], &[&PROD[..1], &key].concat())
        .await
        .expect(1)
        .saying(&["auth.issuer", "https://"]);
    place
        .run_with(&["serve"], &[&PROD[..], &key, &beyond].concat())
        .await
        .expect(1)
        .saying(&["http.listen", "TLS", "http.behind_tls"]);
    let admin = [
        ("BANYAN__HTTP__BEHIND_TLS", "true"),
        ("BANYAN__ADMIN__LISTEN", "0.0.0.0:0"),
    ];
    place
        .run_with(&["serve"], &[&PROD[..], &key, &admin].concat())
        .await
        .expect(1)
        .saying(&["admin.listen", "admin.plaintext"]);
    place
        .run_with(&["seed"], &[&PROD[..], &key].concat())
        .await
        .expect(1)
        .saying(&["demo"]);
    place
        .run_with(&["seed", "--reset"], &[&PROD[..], &key].concat())
        .await
        .expect(1)
        .saying(&["demo"]);
    assert!(!place.data_directory().exists(), "what is refused makes no data");
}

async fn prod_does_not_start_on_demo_data_and_the_data_is_its_owners_alone() {
    let place = Place::new(Stage::Sqlite).await;
    place.run_with(&["seed"], &[]).await.expect(0);
    let mode = std::fs::metadata(place.data_directory())
        .expect("there is data")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700, "password hashes and the signing key are in there");
    let key = place.file("key.pem", &signing_key());
    let key = [("BANYAN__AUTH__SIGNING_KEY_FILE", key.as_str())];
    place
        .run_with(&["serve"], &[&PROD[..], &key].concat())
        .await
        .expect(1)
        .saying(&["demo users", "data_dir"]);
}

async fn a_signing_key_that_is_none_is_refused() {
    let place = Place::new(Stage::Sqlite).await;
    let missing = [&PROD[..], &[("BANYAN__AUTH__SIGNING_KEY_FILE", "/nowhere/key.pem")]].concat();
    place
        .run_with(&["serve"], &missing)
        .await
        .expect(1)
        .saying(&["/nowhere/key.pem"]);
    let garbage = place.file(
        "garbage.pem",
        "-----BEGIN PRIVATE KEY-----\nZ2VoZWlt\n-----END PRIVATE KEY-----\n",
    );
    let garbage = [&PROD[..], &[("BANYAN__AUTH__SIGNING_KEY_FILE", garbage.as_str())]].concat();
    let ended = place
        .run_with(&["serve"], &garbage)
        .await
        .expect(1)
        .saying(&["garbage.pem", "Ed25519"]);
    assert!(!ended.err.contains("Z2VoZWlt"), "a key is not repeated: {}", ended.err);
}

async fn a_postgresql_that_does_not_answer_is_named_with_the_way_to_start_it() {
    let place = Place::new(Stage::Sqlite).await;
    let key = place.file("key.pem", &signing_key());
    let nobody = ("BANYAN__DATABASE__URL", "postgres://shop:geheim@127.0.0.1:1/shop");
    let prod = [&PROD[..], &[("BANYAN__AUTH__SIGNING_KEY_FILE", key.as_str()), nobody]].concat();
    let demo = [nobody];
    let attempts = [
        (&["serve"][..], &demo[..]),
        (&["serve"], &prod),
        (&["migrate", "--provision"], &prod),
        (&["migrate", "status"], &demo),
    ];
    let ended =
        futures::future::join_all(attempts.map(|(arguments, settings)| place.run_with(arguments, settings))).await;
    for ended in ended {
        let ended = ended
            .expect(1)
            .saying(&["127.0.0.1:1", "database.url", "start it", "pg_ctlcluster", "docker run"]);
        assert!(!ended.err.contains("geheim"), "{}", ended.err);
    }
}

async fn postgresql_without_schemas_asks_for_provisioning() {
    let place = Place::new(Stage::Postgres).await;
    let key = place.file("key.pem", &signing_key());
    let prod = [&PROD[..], &[("BANYAN__AUTH__SIGNING_KEY_FILE", key.as_str())]].concat();
    for arguments in [&["serve"][..], &["migrate"], &["migrate", "status"]] {
        place
            .run_with(arguments, &prod)
            .await
            .expect(1)
            .saying(&["banyan migrate --provision"]);
    }
    place.remove().await;
}

async fn prod_starts_with_a_key_of_its_own_and_without_demo_data(stage: Stage) {
    let place = Place::new(stage).await;
    let (key, password) = (
        place.file("key.pem", &signing_key()),
        place.file("password", "a long operator's password\n"),
    );
    let settings = [
        ("BANYAN__PROFILE", "prod"),
        ("BANYAN__AUTH__ISSUER", "https://shop.example"),
        ("BANYAN__AUTH__SIGNING_KEY_FILE", key.as_str()),
        ("BANYAN__USERS__FIRST_OPERATOR__EMAIL", "ops@shop.example"),
        ("BANYAN__USERS__FIRST_OPERATOR__PASSWORD_FILE", password.as_str()),
    ];
    let place = place.with(&settings);
    if stage == Stage::Postgres {
        place.run(&["migrate", "--provision"]).await.expect(0);
    }
    let shop = place.serve().await;
    let client = shop.client.clone();
    assert!(
        !shop.banner.contains("demo") && shop.banner.contains("is ready"),
        "{}",
        shop.banner
    );
    client
        .post(
            "/api/v1/sessions",
            &json!({"email": "demo@banyan.example", "password": "banyan-demo"}),
        )
        .await
        .expect(401);
    let products = client.get("/api/v1/products").await.expect(200);
    assert_eq!(products.json()["items"], json!([]));
    // 50 a second, and twice that at once.
    assert!(
        products
            .header("ratelimit-policy")
            .is_some_and(|policy| policy.contains("q=100;w=2")),
        "{:?}",
        products.headers
    );
    let keys = client.get("/.well-known/jwks.json").await.expect(200).json();
    assert_eq!(
        keys["keys"].as_array().map(Vec::len),
        Some(1),
        "the file's key alone is believed: {keys}"
    );

    let ops = client
        .log_in_with("ops@shop.example", "a long operator's password")
        .await;
    ops.get("/api/v1/ops/modules").await.expect(200);
    let operator = [
        "saga",
        "list",
        "--url",
        shop.base.as_str(),
        "--email",
        "ops@shop.example",
        "--password",
        "a long operator's password",
    ];
    assert_eq!(place.run(&operator).await.expect(0).out.trim(), "none");
    client.new_customer().await.get("/api/v1/users/me").await.expect(200);
    shop.stop().await;

    let shop = place.serve().await;
    assert_eq!(
        shop.client.get("/.well-known/jwks.json").await.expect(200).json(),
        keys,
        "the key is the file's, at every start"
    );
    shop.client
        .with_token(ops.token())
        .get("/api/v1/ops/modules")
        .await
        .expect(200);
    shop.stop().await;
    place.remove().await;
}
