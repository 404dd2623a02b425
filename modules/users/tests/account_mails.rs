//! Resets of passwords, verification and change of addresses over HTTP, as clients use them.

mod support;

use actix_web::test::TestRequest;
use banyan_core::Call;
use banyan_durable::Db;
use banyan_durable_testing::{SqliteHome, published};
use serde_json::{Value, json};
use support::{PASSWORD, Reply, Session, Shop, get, post};
use users_contract::{AccountMailRequested, PrepareAccountMail};

const NEW: &str = "a new password";

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

/// The address and the token that the latest mail of this kind would be sent with.
async fn mail(shop: &Shop, db: &Db, kind: &str) -> (String, String) {
    let events = published(db).await;
    let mails = events.iter().filter_map(|event| event.find().ok().flatten());
    let mut mails: Vec<AccountMailRequested> = mails.collect();
    mails.retain(|mail| mail.kind == kind);
    let request = PrepareAccountMail {
        mail_id: mails.pop().expect("a mail").mail_id,
    };
    let call = Call::by_module("notifications");
    let prepared = shop.contract.prepare_account_mail(&call, request).await.unwrap();
    let mail = prepared.mail.expect("it has not expired");
    (mail.address, mail.token.unwrap_or_default())
}

async fn put(shop: &Shop, session: &Session, path: &str, body: Value) -> Reply {
    let request = TestRequest::put().uri(path).insert_header(session.bearer());
    shop.send(request.set_json(body)).await
}

async fn me(shop: &Shop, session: &Session) -> Reply {
    shop.send(get("/api/v1/users/me").insert_header(session.bearer())).await
}

#[actix_web::test]
async fn a_forgotten_password_is_reset_with_the_token_of_a_mail() {
    let (_home, db) = database().await;
    let shop = Shop::open(db.clone()).await;
    shop.register("ada@example.com").await;
    let mut responses = Vec::new();
    for email in ["ada@example.com", "nobody@example.com"] {
        let reply = shop
            .send(post("/api/v1/users/password-reset-requests", json!({"email": email})))
            .await;
        let headers: Vec<String> = reply
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value:?}"))
            .collect();
        responses.push((reply.status, headers, reply.body));
    }
    assert_eq!(responses[0].0, 202);
    assert_eq!(responses[0], responses[1], "a known address and an unknown one");
    let (address, token) = mail(&shop, &db, "password_reset").await;
    assert_eq!(address, "ada@example.com");
    let reset = |token: &str, password: &str| {
        shop.send(post(
            "/api/v1/users/password-resets",
            json!({"token": token, "new_password": password}),
        ))
    };
    for (password, code) in [("short", "invalid_body"), ("password1", "invalid_password")] {
        let refused = reset(&token, password).await;
        assert_eq!(refused.problem(), (422, code.to_owned()), "{password}");
        assert_eq!(refused.text("/errors/0/pointer"), "/new_password");
    }
    let unknown = reset("nobody-was-sent-this", NEW).await;
    assert_eq!(unknown.problem(), (422, "invalid_token".to_owned()));
    assert_eq!(unknown.text("/errors/0/pointer"), "/token");
    assert_eq!(reset(&token, NEW).await.status, 204);
    shop.log_in("ada@example.com", NEW).await;
    assert_eq!(reset(&token, NEW).await.problem(), (422, "invalid_token".to_owned()));
}

#[actix_web::test]
async fn with_verification_a_registration_answers_alike_and_the_log_in_waits_for_the_token() {
    let (_home, db) = database().await;
    let shop = Shop::open_verifying(db.clone()).await;
    let body = json!({"email": "ada@example.com", "password": PASSWORD, "name": "Ada"});
    let register = || shop.send(post("/api/v1/users", body.clone()));
    let log_in = || {
        shop.send(post(
            "/api/v1/sessions",
            json!({"email": "ada@example.com", "password": PASSWORD}),
        ))
    };
    let first = register().await;
    assert_eq!(log_in().await.problem(), (403, "email_not_verified".to_owned()));
    let resent = shop
        .send(post(
            "/api/v1/users/email-verification-requests",
            json!({"email": "ada@example.com"}),
        ))
        .await;
    assert_eq!(resent.status, 202);
    let (address, token) = mail(&shop, &db, "email_verification").await;
    assert_eq!(address, "ada@example.com");
    let confirm = || shop.send(post("/api/v1/users/email-confirmations", json!({"token": token})));
    assert_eq!(confirm().await.status, 204);
    assert_eq!(confirm().await.problem(), (422, "invalid_token".to_owned()));
    let session = log_in().await.session();
    assert!(me(&shop, &session).await.body["email_verified_at"].is_string());
    let second = register().await;
    let seen = |reply: &Reply| (reply.status, reply.headers.len(), reply.body.clone());
    assert_eq!(seen(&first), seen(&second));
    assert_eq!(first.status, 202);
    assert_eq!(mail(&shop, &db, "already_registered").await.0, "ada@example.com");
}

#[actix_web::test]
async fn an_email_address_is_changed_with_the_password_and_the_token_of_a_mail_to_it() {
    let (_home, db) = database().await;
    let shop = Shop::open(db.clone()).await;
    shop.register("ada@example.com").await;
    shop.register("bob@example.com").await;
    let session = shop.log_in("ada@example.com", PASSWORD).await;
    assert!(me(&shop, &session).await.body["email_verified_at"].is_null());
    let change = |password: &str, email: &str| {
        put(
            &shop,
            &session,
            "/api/v1/users/me/email",
            json!({"email": email, "current_password": password}),
        )
    };
    let wrong = change("a wrong guess", "new@example.com").await;
    assert_eq!(wrong.problem(), (403, "wrong_password".to_owned()));
    assert_eq!(
        change(PASSWORD, "BOB@example.com").await.problem(),
        (409, "email_taken".to_owned())
    );
    assert_eq!(change(PASSWORD, "new@example.com").await.status, 202);
    assert_eq!(me(&shop, &session).await.text("/email"), "ada@example.com");
    let (address, token) = mail(&shop, &db, "email_change").await;
    assert_eq!(address, "new@example.com");
    let confirmed = shop
        .send(post("/api/v1/users/email-confirmations", json!({"token": token})))
        .await;
    assert_eq!(confirmed.status, 204);
    assert_eq!(mail(&shop, &db, "email_changed").await.0, "ada@example.com");
    let session = shop.log_in("new@example.com", PASSWORD).await;
    let changed = me(&shop, &session).await;
    assert_eq!(changed.text("/email"), "new@example.com");
    assert!(changed.body["email_verified_at"].is_string());
    // The limit of a user who asks for many.
    let change = |email: String| {
        put(
            &shop,
            &session,
            "/api/v1/users/me/email",
            json!({"email": email, "current_password": PASSWORD}),
        )
    };
    let mut statuses = Vec::new();
    for n in 0..3 {
        statuses.push(change(format!("new{n}@example.com")).await.status);
    }
    assert_eq!(statuses, [202, 202, 429]);
}
