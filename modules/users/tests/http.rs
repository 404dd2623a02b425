//! The REST resources as clients use them. On SQLite alone; what depends on the database is tested in `contract.rs` and by the service's tests.

mod support;

use std::{sync::Arc, time::Duration};

use actix_web::{http::header, test::TestRequest};
use banyan_core::{Clock, SystemClock};
use banyan_durable::Db;
use banyan_durable_testing::{ManualClock, SqliteHome};
use serde_json::{Value, json};
use support::{PASSWORD, Reply, Shop, get, post};

/// A new SQLite database, deleted with the first of the pair.
async fn database() -> (SqliteHome, Db) {
    let home = SqliteHome::new();
    let db = banyan_durable_testing::open(
        users::SCHEMA,
        &home.storage("users"),
        banyan_durable_testing::settings(),
    )
    .await;
    (home, db)
}

async fn change_me(shop: &Shop, session: &support::Session, body: Value, if_match: Option<&str>) -> Reply {
    let mut request = TestRequest::patch()
        .uri("/api/v1/users/me")
        .insert_header(session.bearer())
        .set_json(body);
    if let Some(etag) = if_match {
        request = request.insert_header((header::IF_MATCH, etag));
    }
    shop.send(request).await
}

#[actix_web::test]
async fn registering_returns_the_user_and_their_location() {
    let (_home, db) = database().await;
    let shop = Shop::open(db).await;
    let body = json!({"email": "Ada@example.com", "password": PASSWORD, "name": " Ada Lovelace "});
    let reply = shop.send(post("/api/v1/users", body.clone())).await;
    assert_eq!(reply.status, 201);
    assert_eq!(reply.header("location"), format!("/api/v1/users/{}", reply.text("/id")));
    assert_eq!(
        (reply.text("/email"), reply.text("/name")),
        ("Ada@example.com".to_owned(), "Ada Lovelace".to_owned())
    );
    assert_eq!(
        (&reply.body["roles"], &reply.body["addresses"]),
        (&json!(["customer"]), &json!([]))
    );
    assert!(!reply.body.to_string().contains("argon2") && !reply.body.to_string().contains(PASSWORD));
    assert_eq!(
        shop.send(post("/api/v1/users", body)).await.problem(),
        (409, "email_taken".to_owned())
    );
}

#[actix_web::test]
async fn an_invalid_registration_is_refused_field_by_field() {
    let (_home, db) = database().await;
    let shop = Shop::open(db).await;
    let good = json!({"email": "ada@example.com", "password": PASSWORD, "name": "Ada"});
    let cases = [
        ("/email", json!("ada")),
        ("/email", json!("a..b@example.com")),
        ("/email", json!(7)),
        ("/password", json!("1234567")),
        ("/password", json!("x".repeat(129))),
        ("/name", json!("")),
        ("/name", json!("a\nb")),
        ("/name", json!("   ")),
        ("/name", json!("x".repeat(101))),
        ("/roles", json!(["ops"])),
    ];
    for (pointer, value) in cases {
        let mut body = good.clone();
        body[&pointer[1..]] = value.clone();
        let reply = shop.send(post("/api/v1/users", body)).await;
        assert_eq!(reply.problem(), (422, "invalid_body".to_owned()), "{pointer} {value}");
        assert_eq!(reply.text("/errors/0/pointer"), pointer, "{value}");
    }
    for (password, rule) in [
        ("Password1", "must not be one of the 10,000 most common passwords"),
        ("Lovelace@example.com", "must not be the email address or a part of it"),
        ("LOVELACE", "must not be the email address or a part of it"),
        ("localhost", "must not be the name of the shop"),
    ] {
        let body = json!({"email": "lovelace@example.com", "password": password, "name": "Ada"});
        let reply = shop.send(post("/api/v1/users", body)).await;
        assert_eq!(reply.problem(), (422, "invalid_password".to_owned()), "{password}");
        assert_eq!(
            (reply.text("/errors/0/pointer"), reply.text("/errors/0/detail")),
            ("/password".to_owned(), rule.to_owned())
        );
    }
    let missing = shop
        .send(post("/api/v1/users", json!({"email": "ada@example.com"})))
        .await;
    assert_eq!(missing.status, 422);
}

#[actix_web::test]
async fn a_session_from_log_in_to_log_out() {
    let (_home, db) = database().await;
    let shop = Shop::open(db).await;
    shop.register("ada@example.com").await;
    let reply = shop
        .send(post(
            "/api/v1/sessions",
            json!({"email": "ADA@example.com", "password": PASSWORD}),
        ))
        .await;
    assert_eq!(
        (reply.status, reply.header("cache-control"), reply.header("location")),
        (201, "no-store", "/api/v1/sessions/current")
    );
    assert_eq!(
        (reply.text("/token_type"), &reply.body["expires_in"]),
        ("Bearer".to_owned(), &json!(900))
    );
    let first = reply.session();
    assert_eq!(
        shop.send(get("/api/v1/users/me").insert_header(first.bearer()))
            .await
            .status,
        200
    );

    let refresh = |token: &str| post("/api/v1/sessions/refresh", json!({"refresh_token": token}));
    let reply = shop.send(refresh(&first.refresh_token)).await;
    assert_eq!((reply.status, reply.header("cache-control")), (200, "no-store"));
    let second = reply.session();
    let log_out = || TestRequest::delete().uri("/api/v1/sessions/current");
    assert_eq!(shop.send(log_out().insert_header(second.bearer())).await.status, 204);
    assert_eq!(
        shop.send(refresh(&second.refresh_token)).await.problem(),
        (401, "invalid_refresh_token".to_owned())
    );
    assert_eq!(shop.send(log_out()).await.status, 401);
}

#[actix_web::test]
async fn a_refresh_token_used_twice_ends_the_session_unless_at_the_same_moment() {
    let (_home, db) = database().await;
    let clock = ManualClock::at(SystemClock.now());
    let shop = Shop::open_at(db, clock.clone() as Arc<dyn Clock>).await;
    shop.register("ada@example.com").await;
    let first = shop.log_in("ada@example.com", PASSWORD).await;
    let refresh = |token: &str| post("/api/v1/sessions/refresh", json!({"refresh_token": token}));
    let second = shop.send(refresh(&first.refresh_token)).await.session();
    assert_eq!(
        shop.send(refresh(&first.refresh_token)).await.problem(),
        (409, "already_refreshed".to_owned())
    );
    let third = shop.send(refresh(&second.refresh_token)).await.session();
    clock.advance(Duration::from_secs(10));
    assert_eq!(shop.send(refresh(&second.refresh_token)).await.status, 401);
    assert_eq!(shop.send(refresh(&third.refresh_token)).await.status, 401);
    assert_eq!(
        shop.send(refresh("nonsense")).await.problem(),
        (401, "invalid_refresh_token".to_owned())
    );
}

#[actix_web::test]
async fn too_many_failed_log_ins_are_refused_with_retry_after() {
    let (_home, db) = database().await;
    let clock = ManualClock::at(SystemClock.now());
    let shop = Shop::open_at(db, clock as Arc<dyn Clock>).await;
    shop.register("ada@example.com").await;
    let guess = |password: &str| {
        post(
            "/api/v1/sessions",
            json!({"email": "ada@example.com", "password": password}),
        )
    };
    for _ in 0..10 {
        assert_eq!(
            shop.send(guess("wrong password")).await.problem(),
            (401, "invalid_credentials".to_owned())
        );
    }
    let reply = shop.send(guess(PASSWORD)).await;
    assert_eq!(reply.problem(), (429, "too_many_failed_logins".to_owned()));
    assert_eq!(reply.header("retry-after"), "1");
}

#[actix_web::test]
async fn an_access_token_expires_after_fifteen_minutes() {
    let (_home, db) = database().await;
    let clock = ManualClock::at(SystemClock.now());
    let shop = Shop::open_at(db, clock.clone() as Arc<dyn Clock>).await;
    shop.register("ada@example.com").await;
    let session = shop.log_in("ada@example.com", PASSWORD).await;
    let me = || get("/api/v1/users/me").insert_header(session.bearer());
    clock.advance(Duration::from_secs(890));
    assert_eq!(shop.send(me()).await.status, 200);
    clock.advance(Duration::from_secs(10));
    assert_eq!(shop.send(me()).await.problem(), (401, "invalid_token".to_owned()));
}

#[actix_web::test]
async fn a_profile_is_changed_field_by_field_at_the_expected_version() {
    let (_home, db) = database().await;
    let shop = Shop::open(db).await;
    shop.register("ada@example.com").await;
    let session = shop.log_in("ada@example.com", PASSWORD).await;
    let me = shop.send(get("/api/v1/users/me").insert_header(session.bearer())).await;
    let etag = me.header("etag").to_owned();
    let address =
        json!({"name": "Ada", "line1": "12 Fig Lane", "city": "Berlin", "postal_code": "10115", "country": "DE"});

    let changed = change_me(&shop, &session, json!({"addresses": [address]}), Some(&etag)).await;
    assert_eq!(
        (changed.status, &changed.body["addresses"]),
        (200, &json!([address])),
        "{}",
        changed.body
    );
    assert_eq!(changed.text("/name"), "Ada");
    assert_ne!(changed.header("etag"), etag);
    assert_eq!(
        change_me(&shop, &session, json!({"name": "Countess"}), Some(&etag))
            .await
            .status,
        412
    );
    let incomplete = json!({"addresses": [address, {"name": "Ada", "line1": "1", "country": "AE"}]});
    let refused = change_me(&shop, &session, incomplete, None).await;
    assert_eq!(refused.problem(), (422, "invalid_address".to_owned()));
    assert_eq!(refused.text("/errors/0/pointer"), "/addresses/1/region");
    let renamed = change_me(&shop, &session, json!({"name": "Countess"}), None).await;
    assert_eq!(
        (renamed.status, renamed.text("/name"), &renamed.body["addresses"]),
        (200, "Countess".to_owned(), &json!([address]))
    );

    let unchanged = get("/api/v1/users/me")
        .insert_header(session.bearer())
        .insert_header((header::IF_NONE_MATCH, renamed.header("etag")));
    assert_eq!(shop.send(unchanged).await.status, 304);
    for bad in [
        json!({"name": null}),
        json!({"email": "eve@example.com"}),
        json!({"addresses": [{"name": "Ada"}]}),
        json!({"addresses": [{"name": "Ada", "line1": "1", "city": "Berlin", "postal_code": "10115", "country": "XX"}]}),
        json!({"addresses": vec![address.clone(); 11]}),
    ] {
        assert_eq!(
            change_me(&shop, &session, bad.clone(), None).await.problem(),
            (422, "invalid_body".to_owned()),
            "{bad}"
        );
    }
}

#[actix_web::test]
async fn another_user_is_not_found_except_by_staff() {
    let (_home, db) = database().await;
    let shop = Shop::open(db).await;
    (shop.seed)().await.unwrap();
    let ada = shop.register("ada@example.com").await;
    let path = format!("/api/v1/users/{ada}");
    assert_eq!(shop.send(get(&path)).await.status, 401);
    let statuses = [
        ("ada@example.com", PASSWORD, 200),
        ("demo@banyan.example", "banyan-demo", 404),
        ("ops@banyan.example", "banyan-demo", 404),
        ("staff@banyan.example", "banyan-demo", 200),
    ];
    for (email, password, status) in statuses {
        let session = shop.log_in(email, password).await;
        let reply = shop.send(get(&path).insert_header(session.bearer())).await;
        assert_eq!(reply.status, status, "{email}");
        let missing = shop
            .send(get("/api/v1/users/00000000-0000-7000-8000-000000000000").insert_header(session.bearer()))
            .await;
        assert_eq!(missing.status, 404);
        if status == 404 {
            assert_eq!(
                reply.text("/detail"),
                missing.text("/detail"),
                "both have the same detail"
            );
        }
    }
}

#[actix_web::test]
async fn staff_lists_users_and_finds_one_by_email_address() {
    let (_home, db) = database().await;
    let shop = Shop::open(db).await;
    (shop.seed)().await.unwrap();
    shop.register("Ada@example.com").await;
    let list =
        |session: &support::Session, query: &str| get(&format!("/api/v1/users{query}")).insert_header(session.bearer());
    let customer = shop.log_in("demo@banyan.example", "banyan-demo").await;
    assert_eq!(shop.send(list(&customer, "")).await.status, 403);
    let staff = shop.log_in("staff@banyan.example", "banyan-demo").await;
    let page = shop.send(list(&staff, "?limit=3")).await;
    assert_eq!(
        (
            page.status,
            page.body["items"].as_array().unwrap().len(),
            page.text("/items/0/email")
        ),
        (200, 3, "Ada@example.com".to_owned())
    );
    let rest = shop
        .send(list(&staff, &format!("?cursor={}", page.text("/next_cursor"))))
        .await;
    assert_eq!(
        (rest.body["items"].as_array().unwrap().len(), &rest.body["next_cursor"]),
        (1, &Value::Null)
    );
    let found = shop.send(list(&staff, "?email=ADA@example.com")).await;
    assert_eq!(found.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        shop.send(list(&staff, "?cursor=bm9uc2Vuc2U")).await.problem(),
        (400, "invalid_parameter".to_owned())
    );
    assert_eq!(shop.send(list(&staff, "?mail=x")).await.status, 400);
}

#[actix_web::test]
async fn operators_grant_roles_but_cannot_remove_their_own() {
    let (_home, db) = database().await;
    let shop = Shop::open(db).await;
    (shop.seed)().await.unwrap();
    let ada = shop.register("ada@example.com").await;
    let grant = |session: &support::Session, id: &str, roles: Value| {
        TestRequest::put()
            .uri(&format!("/api/v1/users/{id}/roles"))
            .insert_header(session.bearer())
            .set_json(json!({ "roles": roles }))
    };
    let staff = shop.log_in("staff@banyan.example", "banyan-demo").await;
    assert_eq!(shop.send(grant(&staff, &ada, json!(["staff"]))).await.status, 403);
    let ops = shop.log_in("ops@banyan.example", "banyan-demo").await;
    let reply = shop.send(grant(&ops, &ada, json!(["staff", "customer"]))).await;
    assert_eq!(
        (reply.status, &reply.body["roles"]),
        (200, &json!(["customer", "staff"]))
    );
    for bad in [json!([]), json!(["king"]), json!("ops")] {
        assert_eq!(shop.send(grant(&ops, &ada, bad)).await.status, 422);
    }
    let me = shop
        .send(get("/api/v1/users/me").insert_header(ops.bearer()))
        .await
        .text("/id");
    assert_eq!(
        shop.send(grant(&ops, &me, json!(["staff"]))).await.problem(),
        (409, "own_operations_role".to_owned())
    );
    let session = shop.log_in("ada@example.com", PASSWORD).await;
    assert_eq!(
        shop.send(get("/api/v1/users").insert_header(session.bearer()))
            .await
            .status,
        200,
        "the new role is effective"
    );
}

#[actix_web::test]
async fn a_user_changes_their_password_and_ends_a_session() {
    let (_home, db) = database().await;
    let shop = Shop::open(db).await;
    shop.register("ada@example.com").await;
    let (own, other) = (
        shop.log_in("ada@example.com", PASSWORD).await,
        shop.log_in("ada@example.com", PASSWORD).await,
    );
    let change = |body: Value| {
        TestRequest::put()
            .uri("/api/v1/users/me/password")
            .insert_header(own.bearer())
            .set_json(body)
    };
    let wrong = change(json!({"current_password": "wrong", "new_password": "a new password"}));
    assert_eq!(shop.send(wrong).await.problem(), (403, "wrong_password".to_owned()));
    let short = change(json!({"current_password": PASSWORD, "new_password": "short"}));
    assert_eq!(shop.send(short).await.status, 422);
    for guessable in ["Password1", "ada@example.com"] {
        let body = json!({"current_password": PASSWORD, "new_password": guessable});
        let reply = shop.send(change(body)).await;
        assert_eq!(reply.problem(), (422, "invalid_password".to_owned()), "{guessable}");
        assert_eq!(reply.text("/errors/0/pointer"), "/new_password");
    }

    let list = || get("/api/v1/sessions").insert_header(own.bearer());
    let sessions = shop.send(list()).await.body["items"].clone();
    let current: Vec<_> = sessions.as_array().unwrap().iter().map(|one| &one["current"]).collect();
    assert_eq!(current, [&json!(false), &json!(true)], "{sessions}");
    let path = format!("/api/v1/sessions/{}", sessions[0]["id"].as_str().unwrap());
    let end = || TestRequest::delete().uri(&path).insert_header(own.bearer());
    assert_eq!(shop.send(end()).await.status, 204);
    assert_eq!(shop.send(end()).await.status, 404);
    let refreshed = post(
        "/api/v1/sessions/refresh",
        json!({"refresh_token": other.refresh_token}),
    );
    assert_eq!(shop.send(refreshed).await.status, 401);

    let right = change(json!({"current_password": PASSWORD, "new_password": "a new password"}));
    assert_eq!(shop.send(right).await.status, 204);
    shop.log_in("ada@example.com", "a new password").await;
}

#[actix_web::test]
async fn an_operator_disables_an_account_and_sees_its_sessions() {
    let (_home, db) = database().await;
    let shop = Shop::open(db).await;
    (shop.seed)().await.unwrap();
    let ada = shop.register("ada@example.com").await;
    shop.log_in("ada@example.com", PASSWORD).await;
    let ops = shop.log_in("ops@banyan.example", "banyan-demo").await;
    let sessions = format!("/api/v1/users/{ada}/sessions");
    let list = || get(&sessions).insert_header(ops.bearer());
    let listed = shop.send(list()).await;
    assert_eq!(listed.body["items"].as_array().unwrap().len(), 1, "{}", listed.body);
    let switch = |to: &str| {
        post(&format!("/api/v1/users/{ada}/{to}"), json!({"reason": "a stolen card"})).insert_header(ops.bearer())
    };
    for action in ["disable", "enable", "roles"] {
        let stale = if action == "roles" {
            TestRequest::put()
                .uri(&format!("/api/v1/users/{ada}/roles"))
                .set_json(json!({"roles": ["staff"]}))
                .insert_header(ops.bearer())
        } else {
            switch(action)
        };
        let stale = shop.send(stale.insert_header((header::IF_MATCH, "\"7\""))).await;
        assert_eq!(stale.problem(), (412, "precondition_failed".to_owned()), "{action}");
    }
    let path = format!("/api/v1/users/{ada}");
    // Users are read by staff.
    let staff = shop.log_in("staff@banyan.example", "banyan-demo").await;
    let read = shop.send(get(&path).insert_header(staff.bearer())).await;
    let current = (header::IF_MATCH, read.header("etag").to_owned());
    let disabled = shop.send(switch("disable").insert_header(current)).await;
    assert!(
        disabled.status == 200 && disabled.body["disabled_at"].is_string(),
        "{}",
        disabled.body
    );
    assert_eq!(shop.send(list()).await.body["items"], json!([]));
    let log_in = || {
        post(
            "/api/v1/sessions",
            json!({"email": "ada@example.com", "password": PASSWORD}),
        )
    };
    assert_eq!(
        shop.send(log_in()).await.problem(),
        (403, "account_disabled".to_owned())
    );
    let enabled = shop.send(switch("enable")).await;
    assert!(
        enabled.status == 200 && enabled.body.get("disabled_at").is_none(),
        "{}",
        enabled.body
    );
    assert_eq!(shop.send(log_in()).await.status, 201);
    let end_all = TestRequest::delete().uri(&sessions).insert_header(ops.bearer());
    assert_eq!(shop.send(end_all).await.status, 204);
    assert_eq!(shop.send(list()).await.body["items"], json!([]));
}

#[actix_web::test]
async fn the_document_has_every_route_and_the_enforced_limits() {
    let (_home, db) = database().await;
    let shop = Shop::open(db).await;
    let api = banyan_http::openapi::document(utoipa::openapi::OpenApiBuilder::new().build(), &[shop.routes()]);
    assert_eq!(banyan_http::openapi::dangling_references(&api), Vec::<String>::new());
    let paths: Vec<&str> = api.paths.paths.keys().map(String::as_str).collect();
    let expected = [
        "sessions",
        "sessions/current",
        "sessions/refresh",
        "sessions/{id}",
        "users",
        "users/email-confirmations",
        "users/email-verification-requests",
        "users/me",
        "users/me/email",
        "users/me/password",
        "users/password-reset-requests",
        "users/password-resets",
        "users/{id}",
        "users/{id}/disable",
        "users/{id}/enable",
        "users/{id}/roles",
        "users/{id}/sessions",
        "users/{id}/sessions/{session_id}",
    ];
    assert_eq!(paths, expected.map(|path| format!("/api/v1/{path}")));
    let schemas = serde_json::to_value(&api).unwrap()["components"]["schemas"].clone();
    assert_eq!(
        (&schemas["Password"]["minLength"], &schemas["Password"]["maxLength"]),
        (&json!(8), &json!(128))
    );
    assert_eq!(schemas["EmailAddress"]["maxLength"], json!(254));
    assert_eq!(schemas["Registration"]["additionalProperties"], json!(false));
    assert_eq!(
        schemas["ProfileChange"]["properties"]["addresses"]["maxItems"],
        json!(10)
    );
}
