//! Configurations that are refused at startup, with their messages; and how the profile `prod` starts.

use std::{fs::Permissions, os::unix::fs::PermissionsExt};

use serde_json::json;

use super::{
    checks,
    installation::{Installation, signing_key},
};
use crate::harness::Stage;

checks![
    an_unsafe_configuration_does_not_start,
    an_invalid_signing_key_is_refused,
    an_address_in_use_is_refused_before_data_is_made,
    prod_does_not_start_on_demo_data_and_only_the_owner_can_read_the_data,
    an_unreachable_postgresql_is_reported_with_how_to_start_one,
    postgresql_without_schemas_is_reported_with_the_command_that_creates_them;
    on both: prod_starts_with_the_configured_key_and_without_demo_data,
];

async fn an_address_in_use_is_refused_before_data_is_made() {
    let installation = Installation::new(Stage::Sqlite).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken
        .local_addr()
        .map(|address| (address.to_string(), taken))
        .expect("its address");
    for variable in ["BANYAN__HTTP__LISTEN", "BANYAN__ADMIN__LISTEN", "BANYAN__RPC__LISTEN"] {
        let refused = installation
            .run_with(&["serve"], &[(variable, &taken.0)])
            .await
            .expect(1);
        refused.stderr_contains(&["cannot listen on", &taken.0, variable]);
        assert!(!installation.data_directory().exists());
    }
}

/// What `prod` requires, except for the signing key.
const PROD: [(&str, &str); 3] = [
    ("BANYAN__PROFILE", "prod"),
    ("BANYAN__AUTH__ISSUER", "https://shop.example"),
    ("BANYAN__PAYMENTS__ALLOW_SANDBOX", "true"),
];

async fn an_unsafe_configuration_does_not_start() {
    let installation = Installation::new(Stage::Sqlite).await;
    let key = installation.file("key.pem", &signing_key());
    let key = [("BANYAN__AUTH__SIGNING_KEY_FILE", key.as_str())];
    let all_interfaces = [("BANYAN__HTTP__LISTEN", "0.0.0.0:0")];
    installation
        .run_with(&["serve"], &all_interfaces)
        .await
        .expect(1)
        .stderr_contains(&["http.listen", "demo", "loopback"]);
    installation
        .run_with(&["serve"], &PROD)
        .await
        .expect(1)
        .stderr_contains(&[
            "auth.signing_key_file",
            "BANYAN__AUTH__SIGNING_KEY_FILE",
            "openssl genpkey",
        ]);
    installation
        .run_with(&["serve"], &[&PROD[..1], &key].concat())
        .await
        .expect(1)
        .stderr_contains(&["auth.issuer", "https://"]);
    installation
        .run_with(&["serve"], &[&PROD[..], &key, &all_interfaces].concat())
        .await
        .expect(1)
        .stderr_contains(&["http.listen", "TLS", "http.behind_tls"]);
    installation
        .run_with(&["serve"], &[&PROD[..2], &key].concat())
        .await
        .expect(1)
        .stderr_contains(&["payments.allow_sandbox", "no real money"]);
    let admin = [
        ("BANYAN__HTTP__BEHIND_TLS", "true"),
        ("BANYAN__ADMIN__LISTEN", "0.0.0.0:0"),
    ];
    installation
        .run_with(&["serve"], &[&PROD[..], &key, &admin].concat())
        .await
        .expect(1)
        .stderr_contains(&["admin.listen", "admin.plaintext"]);
    installation
        .run_with(&["seed"], &[&PROD[..], &key].concat())
        .await
        .expect(1)
        .stderr_contains(&["demo"]);
    installation
        .run_with(&["seed", "--reset"], &[&PROD[..], &key].concat())
        .await
        .expect(1)
        .stderr_contains(&["demo"]);
    assert!(
        !installation.data_directory().exists(),
        "a refused start creates no data"
    );
}

async fn prod_does_not_start_on_demo_data_and_only_the_owner_can_read_the_data() {
    let installation = Installation::new(Stage::Sqlite).await;
    installation.run_with(&["seed"], &[]).await.expect(0);
    let mode = std::fs::metadata(installation.data_directory())
        .expect("there is data")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700, "it contains password hashes and the signing key");
    for entry in std::fs::read_dir(installation.data_directory()).expect("there is data") {
        let path = entry.expect("a file").path();
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    let set_mode = |mode| {
        std::fs::set_permissions(installation.data_directory(), Permissions::from_mode(mode)).expect("it is ours");
    };
    set_mode(0o705);
    let refused = installation.run_with(&["serve"], &[]).await.expect(1);
    refused.stderr_contains(&["data_dir", "705", "chmod o-rwx"]);
    set_mode(0o700);
    let key = installation.file("key.pem", &signing_key());
    let key = [("BANYAN__AUTH__SIGNING_KEY_FILE", key.as_str())];
    installation
        .run_with(&["serve"], &[&PROD[..], &key].concat())
        .await
        .expect(1)
        .stderr_contains(&["demo users", "data_dir"]);
}

async fn an_invalid_signing_key_is_refused() {
    let installation = Installation::new(Stage::Sqlite).await;
    let missing = [&PROD[..], &[("BANYAN__AUTH__SIGNING_KEY_FILE", "/nowhere/key.pem")]].concat();
    installation
        .run_with(&["serve"], &missing)
        .await
        .expect(1)
        .stderr_contains(&["/nowhere/key.pem"]);
    let garbage = installation.file(
        "garbage.pem",
        "-----BEGIN PRIVATE KEY-----\nZ2VoZWlt\n-----END PRIVATE KEY-----\n",
    );
    let garbage = [&PROD[..], &[("BANYAN__AUTH__SIGNING_KEY_FILE", garbage.as_str())]].concat();
    let ended = installation
        .run_with(&["serve"], &garbage)
        .await
        .expect(1)
        .stderr_contains(&["garbage.pem", "Ed25519"]);
    assert!(
        !ended.err.contains("Z2VoZWlt"),
        "the message does not contain the key: {}",
        ended.err
    );
}

async fn an_unreachable_postgresql_is_reported_with_how_to_start_one() {
    let installation = Installation::new(Stage::Sqlite).await;
    let key = installation.file("key.pem", &signing_key());
    let unreachable = ("BANYAN__DATABASE__URL", "postgres://shop:geheim@127.0.0.1:1/shop");
    let prod = [
        &PROD[..],
        &[("BANYAN__AUTH__SIGNING_KEY_FILE", key.as_str()), unreachable],
    ]
    .concat();
    let demo = [unreachable];
    let attempts = [
        (&["serve"][..], &demo[..]),
        (&["serve"], &prod),
        (&["migrate", "--provision"], &prod),
        (&["migrate", "status"], &demo),
    ];
    let ended =
        futures::future::join_all(attempts.map(|(arguments, settings)| installation.run_with(arguments, settings)))
            .await;
    for ended in ended {
        let ended = ended.expect(1).stderr_contains(&[
            "127.0.0.1:1",
            "database.url",
            "start it",
            "pg_ctlcluster",
            "docker run",
        ]);
        assert!(!ended.err.contains("geheim"), "{}", ended.err);
    }
}

async fn postgresql_without_schemas_is_reported_with_the_command_that_creates_them() {
    let installation = Installation::new(Stage::Postgres).await;
    let key = installation.file("key.pem", &signing_key());
    let prod = [&PROD[..], &[("BANYAN__AUTH__SIGNING_KEY_FILE", key.as_str())]].concat();
    for arguments in [&["serve"][..], &["migrate"], &["migrate", "status"]] {
        installation
            .run_with(arguments, &prod)
            .await
            .expect(1)
            .stderr_contains(&["banyan migrate --provision"]);
    }
    installation.remove().await;
}

async fn prod_starts_with_the_configured_key_and_without_demo_data(stage: Stage) {
    let installation = Installation::new(stage).await;
    let (key, password) = (
        installation.file("key.pem", &signing_key()),
        installation.file("password", "a long operator's password\n"),
    );
    let settings = [
        ("BANYAN__PROFILE", "prod"),
        ("BANYAN__AUTH__ISSUER", "https://shop.example"),
        ("BANYAN__AUTH__SIGNING_KEY_FILE", key.as_str()),
        ("BANYAN__PAYMENTS__ALLOW_SANDBOX", "true"),
        ("BANYAN__USERS__FIRST_OPERATOR__EMAIL", "ops@shop.example"),
        ("BANYAN__USERS__FIRST_OPERATOR__PASSWORD_FILE", password.as_str()),
    ];
    let installation = installation.with(&settings);
    if stage == Stage::Postgres {
        installation.run(&["migrate", "--provision"]).await.expect(0);
    }
    let shop = installation.serve().await;
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
    // 50 requests a second, with bursts of twice that.
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
        "only the key from the file is trusted: {keys}"
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
    assert_eq!(installation.run(&operator).await.expect(0).out.trim(), "none");
    client.new_customer().await.get("/api/v1/users/me").await.expect(200);
    shop.stop().await;

    let shop = installation.serve().await;
    assert_eq!(
        shop.client.get("/.well-known/jwks.json").await.expect(200).json(),
        keys,
        "every start uses the key from the file"
    );
    shop.client
        .with_token(ops.token())
        .get("/api/v1/ops/modules")
        .await
        .expect(200);
    shop.stop().await;
    installation.remove().await;
}
