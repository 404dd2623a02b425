//! Accounts whose life goes through mail: resets of passwords, verification and change of addresses.

mod email_changes;

use std::time::Duration;

use banyan_core::{Call, Fault, FaultKind};
use banyan_durable::Db;
use banyan_durable_testing::{on_both, published};
use secrecy::SecretString;
use users_contract::{AccountMailRequested, PrepareAccountMail, UserRegistered, Users};

use super::{CLIENT_ADDRESS, MINUTE, PASSWORD, Registered, Shop, code, registration, settings};
use crate::{Settings, email::EmailAddress, password::Password, service::Service, user::User};

const NEW: &str = "a new password";
const ADA: &str = "ada@example.com";

/// The mails that were requested, in order.
async fn requested(db: &Db, kind: &str) -> Vec<AccountMailRequested> {
    let events = published(db).await;
    let mails = events.iter().filter_map(|event| event.find().ok().flatten());
    mails.filter(|mail: &AccountMailRequested| mail.kind == kind).collect()
}

/// What notifications gets to send a mail: its address and token.
async fn prepare(service: &Service, mail: &AccountMailRequested) -> Option<(String, Option<String>)> {
    let request = PrepareAccountMail {
        mail_id: mail.mail_id.clone(),
    };
    let prepared = service
        .prepare_account_mail(&Call::by_module("notifications"), request)
        .await;
    prepared.unwrap().mail.map(|mail| (mail.address, mail.token))
}

/// The token of the latest mail of this kind.
async fn token(shop: &Shop, db: &Db, kind: &str) -> String {
    let mail = requested(db, kind).await.pop().expect("a mail");
    prepare(&shop.service, &mail)
        .await
        .expect("not expired")
        .1
        .expect("a token")
}

async fn request_reset(shop: &Shop, email: &str) -> Result<(), Fault> {
    shop.service
        .request_password_reset(&Call::default(), email, CLIENT_ADDRESS)
        .await
}

async fn reset(shop: &Shop, token: &str, password: &str) -> Result<(), Fault> {
    let password = Password::parse(password).unwrap();
    shop.service
        .redeem_password_reset(&Call::default(), token, &password, CLIENT_ADDRESS)
        .await
}

async fn change_email(shop: &Shop, user: &User, password: &str, new: &str) -> Result<(), Fault> {
    let (password, new) = (SecretString::from(password), EmailAddress::parse(new).unwrap());
    shop.service
        .request_email_change(&Call::default(), user.id, (&password, new), CLIENT_ADDRESS)
        .await
}

async fn confirm(shop: &Shop, token: &str) -> Result<(), Fault> {
    shop.service.confirm_email(&Call::default(), token).await
}

async fn change_password(shop: &Shop, user: &User) {
    let (current, new) = (SecretString::from(PASSWORD), Password::parse(NEW).unwrap());
    shop.service
        .change_password(&Call::default(), (user.id, None), &current, &new, CLIENT_ADDRESS)
        .await
        .unwrap();
}

/// A shop in which addresses are verified.
async fn open_verifying(db: Db) -> Shop {
    let settings = Settings {
        verify_email: true,
        ..settings()
    };
    Shop::open_with(db, settings).await
}

async fn register(shop: &Shop, email: &str) -> Registered {
    let registered = shop
        .service
        .register(&Call::default(), registration(email), CLIENT_ADDRESS)
        .await;
    registered.unwrap()
}

#[tokio::test]
async fn a_reset_by_mail_replaces_the_password_and_ends_all_that_knew_the_old_one() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        let ada = shop.register(ADA).await;
        let thief = shop.log_in(ADA, PASSWORD).await.unwrap();
        request_reset(&shop, "ADA@example.com").await.unwrap();
        let mails = requested(&db, "password_reset").await;
        assert_eq!(mails.len(), 1);
        let (address, token) = prepare(&shop.service, &mails[0]).await.unwrap();
        let token = token.unwrap();
        assert_eq!(address, ADA);
        // Ten wrong guesses make even the user wait.
        for _ in 0..10 {
            assert_eq!(code(shop.log_in(ADA, "a wrong guess").await), "invalid_credentials");
        }
        assert_eq!(code(shop.log_in(ADA, PASSWORD).await), "too_many_failed_logins");

        assert_eq!(code(reset(&shop, &token, "password1").await), "invalid_password");
        reset(&shop, &token, NEW).await.unwrap();
        assert!(shop.log_in(ADA, NEW).await.is_ok(), "what guesses left is lifted");
        assert_eq!(code(shop.log_in(ADA, PASSWORD).await), "invalid_credentials");
        assert_eq!(
            code(shop.service.refresh(&thief.refresh_token).await),
            "invalid_refresh_token"
        );
        let used = reset(&shop, &token, "another password").await.unwrap_err();
        assert_eq!((used.kind, used.code.as_str()), (FaultKind::Invalid, "invalid_token"));
        assert_eq!(used.errors[0].pointer, "/token");
        let call = Call::by(banyan_core::Actor::user(ada.id, ["customer"]));
        let shown = shop.service.load_visible(&call.actor, ada.id).await.unwrap();
        assert!(shown.email_verified_at.is_some(), "the mail has arrived there");
        let told = requested(&db, "password_changed").await;
        assert_eq!(prepare(&shop.service, &told[0]).await, Some((ADA.to_owned(), None)));
    })
    .await;
}

#[tokio::test]
async fn of_two_simultaneous_uses_of_a_token_one_wins() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        let ada = shop.register(ADA).await;
        request_reset(&shop, ADA).await.unwrap();
        let token_of_reset = token(&shop, &db, "password_reset").await;
        let (one, other) = tokio::join!(
            reset(&shop, &token_of_reset, "one new password"),
            reset(&shop, &token_of_reset, "other new password")
        );
        let mut codes = [code(one), code(other)];
        codes.sort();
        assert_eq!(codes, ["", "invalid_token"]);

        request_reset(&shop, ADA).await.unwrap();
        let again = token(&shop, &db, "password_reset").await;
        reset(&shop, &again, NEW).await.unwrap();
        change_email(&shop, &ada, NEW, "new@example.com").await.unwrap();
        let token_of_change = token(&shop, &db, "email_change").await;
        let (one, other) = tokio::join!(confirm(&shop, &token_of_change), confirm(&shop, &token_of_change));
        let mut codes = [code(one), code(other)];
        codes.sort();
        assert_eq!(codes, ["", "invalid_token"]);
    })
    .await;
}

#[tokio::test]
async fn a_token_is_good_for_its_time_and_for_its_purpose_alone() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        let ada = shop.register(ADA).await;
        request_reset(&shop, ADA).await.unwrap();
        let of_reset = token(&shop, &db, "password_reset").await;
        change_email(&shop, &ada, PASSWORD, "new@example.com").await.unwrap();
        let of_change = token(&shop, &db, "email_change").await;
        assert_eq!(code(confirm(&shop, &of_reset).await), "invalid_token");
        assert_eq!(code(reset(&shop, &of_change, NEW).await), "invalid_token");
        assert_eq!(code(reset(&shop, "", NEW).await), "invalid_token");
        shop.clock.advance(30 * MINUTE);
        assert_eq!(code(reset(&shop, &of_reset, NEW).await), "invalid_token");
        shop.clock.advance(24 * 60 * MINUTE);
        assert_eq!(code(confirm(&shop, &of_change).await), "invalid_token");
        let mail = requested(&db, "email_change").await.pop().unwrap();
        assert_eq!(prepare(&shop.service, &mail).await, None, "nor is it sent any more");
        assert!(shop.log_in(ADA, PASSWORD).await.is_ok());

        // They are removed after their end.
        shop.clock.advance(8 * 24 * 60 * MINUTE);
        shop.service.delete_expired().await;
        for table in ["account_mail", "account_token"] {
            let rows = count(&db, table).await;
            assert_eq!(rows, 0, "{table}");
        }
    })
    .await;
}

#[tokio::test]
async fn no_token_survives_a_change_of_password_or_address_or_a_disabled_account() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        let (_, operator) = shop.operator("ops").await;
        for (n, end) in ["password", "reset", "address", "disabled"].into_iter().enumerate() {
            let email = format!("ada{n}@example.com");
            let ada = shop.register(&email).await;
            request_reset(&shop, &email).await.unwrap();
            let of_reset = token(&shop, &db, "password_reset").await;
            let unsent = requested(&db, "password_reset").await.pop().unwrap();
            change_email(&shop, &ada, PASSWORD, &format!("new{n}@example.com"))
                .await
                .unwrap();
            let of_change = token(&shop, &db, "email_change").await;
            let mut tokens = vec![("reset", of_reset), ("change", of_change)];
            match end {
                "password" => change_password(&shop, &ada).await,
                "reset" => reset(&shop, &tokens.remove(0).1, NEW).await.unwrap(),
                "address" => confirm(&shop, &tokens.remove(1).1).await.unwrap(),
                _ => {
                    let why = serde_json::from_value(serde_json::json!({"reason": "a test"})).unwrap();
                    shop.service
                        .disable(&operator, (ada.id, banyan_http::IfMatch::default()), why)
                        .await
                        .unwrap();
                }
            }
            for (what, token) in tokens {
                let used = match what {
                    "reset" => reset(&shop, &token, "another password").await,
                    _ => confirm(&shop, &token).await,
                };
                assert_eq!(code(used), "invalid_token", "{what} after {end}");
            }
            assert_eq!(prepare(&shop.service, &unsent).await, None, "after {end}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_for_a_mail_tells_nothing_about_the_account() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        shop.register(ADA).await;
        for email in [ADA, "nobody@example.com"] {
            let started = std::time::Instant::now();
            assert_eq!(request_reset(&shop, email).await, Ok(()), "{email}");
            assert!(started.elapsed() >= Duration::from_millis(300), "{email}");
        }
        // Beyond the limit of the account the response stays the same, and nothing is sent; the tokens that were sent stay valid.
        let first = token(&shop, &db, "password_reset").await;
        let requests = (0..5).map(|_| request_reset(&shop, ADA));
        for requested in futures::future::join_all(requests).await {
            assert_eq!(requested, Ok(()));
        }
        assert_eq!(requested(&db, "password_reset").await.len(), 3);
        assert_eq!(reset(&shop, &first, NEW).await, Ok(()));
        // Another half hour later there is another one.
        shop.clock.advance(31 * MINUTE);
        request_reset(&shop, ADA).await.unwrap();
        assert_eq!(requested(&db, "password_reset").await.len(), 4);
    })
    .await;
}

#[tokio::test]
async fn one_network_address_requests_a_limited_number_of_mails() {
    on_both(crate::SCHEMA, |db| async move {
        let settings = Settings {
            address_registrations_per_hour: 4,
            ..settings()
        };
        let shop = Shop::open_with(db, settings).await;
        let request = |n: u32, address: &'static str| {
            let service = shop.service.clone();
            async move {
                let email = format!("nobody{n}@example.com");
                service.request_password_reset(&Call::default(), &email, address).await
            }
        };
        for n in 0..2 {
            request(n, "10.0.0.1").await.unwrap();
        }
        let limited = request(3, "10.0.0.1").await.unwrap_err();
        assert_eq!(limited.code, "too_many_mail_requests");
        assert!(limited.retry_after.is_some());
        assert!(request(4, "10.0.0.2").await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_token_in_plain_text_is_in_no_table() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        shop.register(ADA).await;
        request_reset(&shop, ADA).await.unwrap();
        let mail = requested(&db, "password_reset").await.remove(0);
        let mut tokens = Vec::new();
        for _ in 0..2 {
            tokens.push(prepare(&shop.service, &mail).await.unwrap().1.unwrap());
        }
        assert_ne!(tokens[0], tokens[1], "each attempt to send it has its own");
        for token in &tokens {
            assert_eq!(token.len(), 43, "256 bits");
            let stored = strings(&db).await;
            assert!(stored.contains(&crate::session::hash_of(token)), "{stored}");
            assert!(!stored.contains(token.as_str()), "{stored}");
        }
        // The mail of the first attempt may have arrived, so it is good as well; of both, one is used.
        reset(&shop, &tokens[0], NEW).await.unwrap();
        assert_eq!(code(reset(&shop, &tokens[1], NEW).await), "invalid_token");
        let request = PrepareAccountMail { mail_id: mail.mail_id };
        for caller in [Call::default(), Call::by_module("orders")] {
            let refused = shop.service.prepare_account_mail(&caller, request.clone()).await;
            assert_eq!(refused.unwrap_err().kind, FaultKind::Forbidden);
        }
    })
    .await;
}

#[tokio::test]
async fn an_unverified_account_does_not_log_in_and_registration_tells_nobody_who_exists() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = open_verifying(db.clone()).await;
        let hashes = || shop.service.hasher.computed();
        let before = hashes();
        assert!(matches!(register(&shop, ADA).await, Registered::Mail));
        let of_new = hashes() - before;
        assert_eq!(code(shop.log_in(ADA, PASSWORD).await), "email_not_verified");
        assert_eq!(code(shop.log_in(ADA, "a wrong guess").await), "invalid_credentials");
        let first = token(&shop, &db, "email_verification").await;
        // Sent again, on request and to those who register again.
        shop.service
            .request_email_verification(&Call::default(), ADA, CLIENT_ADDRESS)
            .await
            .unwrap();
        assert!(matches!(register(&shop, "ADA@example.com").await, Registered::Mail));
        assert_eq!(requested(&db, "email_verification").await.len(), 3);

        confirm(&shop, &first).await.unwrap();
        assert!(shop.log_in(ADA, PASSWORD).await.is_ok());
        let again = token_or_none(&shop, &db, "email_verification").await;
        assert_eq!(again, None, "one use ends the others");

        let before = hashes();
        assert!(matches!(register(&shop, ADA).await, Registered::Mail));
        assert_eq!(hashes() - before, of_new, "it takes as long");
        let told = requested(&db, "already_registered").await;
        assert_eq!(prepare(&shop.service, &told[0]).await, Some((ADA.to_owned(), None)));
        for email in [ADA, "nobody@example.com"] {
            let sent = shop
                .service
                .request_email_verification(&Call::default(), email, CLIENT_ADDRESS)
                .await;
            assert_eq!(sent, Ok(()));
        }
        assert_eq!(requested(&db, "email_verification").await.len(), 3);

        let registrations: Vec<UserRegistered> = published(&db)
            .await
            .iter()
            .filter_map(|event| event.find().ok().flatten())
            .collect();
        assert_eq!(registrations.len(), 1);
        assert!(registrations[0].unverified, "no welcome before");
    })
    .await;
}

#[tokio::test]
async fn simultaneous_registrations_of_an_address_make_one_user_and_the_same_response() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = open_verifying(db.clone()).await;
        let registrations = (0..4).map(|_| register(&shop, ADA));
        for registered in futures::future::join_all(registrations).await {
            assert!(matches!(registered, Registered::Mail));
        }
        assert_eq!(count(&db, "users").await, 1);
        assert_eq!(requested(&db, "email_verification").await.len(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_reset_makes_an_account_usable_that_a_stranger_registered() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = open_verifying(db.clone()).await;
        register(&shop, ADA).await;
        let of_stranger = token(&shop, &db, "email_verification").await;
        request_reset(&shop, ADA).await.unwrap();
        let of_reset = token(&shop, &db, "password_reset").await;
        reset(&shop, &of_reset, NEW).await.unwrap();
        assert!(shop.log_in(ADA, NEW).await.is_ok());
        assert_eq!(code(shop.log_in(ADA, PASSWORD).await), "invalid_credentials");
        assert_eq!(code(confirm(&shop, &of_stranger).await), "invalid_token");
    })
    .await;
}

async fn token_or_none(shop: &Shop, db: &Db, kind: &str) -> Option<(String, Option<String>)> {
    let mail = requested(db, kind).await.pop().expect("a mail");
    prepare(&shop.service, &mail).await
}

async fn count(db: &Db, table: &str) -> i64 {
    use sea_orm::ConnectionTrait;
    let statement = sea_orm::Statement::from_string(db.backend(), format!("select count(*) as n from {table}"));
    let row = db.read().query_one_raw(statement).await.unwrap().unwrap();
    row.try_get("", "n").unwrap()
}

/// Everything that could contain a token: the text of the tables it passes.
async fn strings(db: &Db) -> String {
    use sea_orm::ConnectionTrait;
    let mut all = String::new();
    for (table, columns) in [
        ("account_mail", "kind || address"),
        ("account_token", "hash"),
        ("outbox", "body"),
        ("users", "email || password_hash"),
    ] {
        let sql = format!("select {columns} as text from {table}");
        let statement = sea_orm::Statement::from_string(db.backend(), sql);
        for row in db.read().query_all_raw(statement).await.unwrap() {
            all.push_str(&row.try_get::<String>("", "text").unwrap());
        }
    }
    all
}
