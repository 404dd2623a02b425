//! The limits on log-ins and registrations: they bound guesses, and keep nobody out who is not the one that guesses.

use std::time::Duration;

use banyan_core::{Call, FaultKind};
use banyan_durable_testing::on_both;
use secrecy::SecretString;

use super::{MINUTE, PASSWORD, Shop, claims, code, registration, settings};
use crate::{Settings, fair_queue::Work, password::Password};

const HOME: &str = "192.0.2.1";
const ELSEWHERE: &str = "198.51.100.7";

/// Sends a wrong password every six seconds, for this many minutes; returns how many were checked.
async fn guess(shop: &Shop, address: &str, email: &str, minutes: usize) -> usize {
    let mut checked = 0;
    for _ in 0..minutes * 10 {
        match &*code(shop.log_in_from(address, email, "a wrong guess").await) {
            "invalid_credentials" => checked += 1,
            other => assert_eq!(other, "too_many_failed_logins"),
        }
        shop.clock.advance(MINUTE / 10);
    }
    checked
}

#[tokio::test]
async fn ten_wrong_passwords_a_minute_from_elsewhere_keep_nobody_out() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        shop.register("ada@example.com").await;
        shop.operator("ops").await;
        for email in ["ada@example.com", "ops@example.com"] {
            let checked = guess(&shop, ELSEWHERE, email, 20).await;
            assert!(checked <= 22, "{checked} guesses in 20 minutes");
            assert_eq!(
                code(shop.log_in_from(ELSEWHERE, email, PASSWORD).await),
                "too_many_failed_logins"
            );
            assert!(shop.log_in_from(HOME, email, PASSWORD).await.is_ok(), "{email}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_account_that_is_guessed_from_many_addresses_logs_in_from_where_it_did_before() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        shop.register("ada@example.com").await;
        shop.log_in_from(HOME, "ada@example.com", PASSWORD).await.unwrap();
        let mut checked = 0;
        for n in 0..20 {
            for _ in 0..10 {
                let guessed = shop
                    .log_in_from(&format!("198.51.100.{n}"), "ada@example.com", "wrong")
                    .await;
                checked += usize::from(code(guessed) == "invalid_credentials");
            }
        }
        assert_eq!(checked, 60, "the rest of the hundred is for addresses with a log-in");
        let hashes = shop.service.hasher.computed();
        let refused = shop.log_in_from("203.0.113.9", "ADA@example.com", PASSWORD).await;
        let refused = refused.err().unwrap();
        assert_eq!(
            (refused.kind, refused.code.as_str()),
            (FaultKind::TooMany, "too_many_failed_logins")
        );
        assert_eq!(refused.retry_after, Some(Duration::from_secs(60 * 60)));
        assert_eq!(shop.service.hasher.computed(), hashes, "its password is not checked");
        assert!(shop.log_in_from(HOME, "ada@example.com", PASSWORD).await.is_ok());
        shop.clock.advance(60 * MINUTE);
        assert!(
            shop.log_in_from("203.0.113.9", "ada@example.com", PASSWORD)
                .await
                .is_ok()
        );
    })
    .await;
}

#[tokio::test]
async fn an_account_has_at_most_a_hundred_guesses_an_hour_also_from_known_addresses() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        shop.register("ada@example.com").await;
        let known: Vec<String> = (0..20).map(|n| format!("192.0.2.{n}")).collect();
        for address in &known {
            shop.log_in_from(address, "ada@example.com", PASSWORD).await.unwrap();
            shop.clock.advance(MINUTE);
        }
        let mut checked = 0;
        for address in &known {
            for _ in 0..10 {
                let guessed = shop.log_in_from(address, "ada@example.com", "wrong").await;
                checked += usize::from(code(guessed) == "invalid_credentials");
            }
        }
        assert_eq!(checked, 100);
        // Of more addresses than 20 the oldest is not known any more.
        shop.clock.advance(60 * MINUTE);
        shop.log_in_from("203.0.113.9", "ada@example.com", PASSWORD)
            .await
            .unwrap();
        let mut checked = 0;
        for n in 0..10 {
            for _ in 0..10 {
                let address = format!("198.51.100.{n}");
                checked += usize::from(
                    code(shop.log_in_from(&address, "ada@example.com", "x").await) == "invalid_credentials",
                );
            }
        }
        assert_eq!(checked, 60);
        assert_eq!(
            code(shop.log_in_from(&known[0], "ada@example.com", PASSWORD).await),
            "too_many_failed_logins"
        );
        assert!(shop.log_in_from(&known[1], "ada@example.com", PASSWORD).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn an_address_that_tries_many_accounts_is_slowed_and_locks_nobody_out_who_logged_in_from_it() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        shop.register("ada@example.com").await;
        shop.register("new@example.com").await;
        shop.log_in_from(HOME, "ada@example.com", PASSWORD).await.unwrap();
        let mut checked = 0;
        for n in 0..240 {
            let tried = shop
                .log_in_from(HOME, &format!("user{n}@example.com"), "a leaked password")
                .await;
            checked += usize::from(code(tried) == "invalid_credentials");
            shop.clock.advance(Duration::from_secs(5));
        }
        assert!(checked <= 70, "{checked} accounts were tried in 20 minutes");
        shop.log_in_from(HOME, "ada@example.com", PASSWORD).await.unwrap();
        shop.log_in_from(ELSEWHERE, "new@example.com", PASSWORD).await.unwrap();
        // A customer who is new behind this address waits for half a minute at most.
        if let Err(refused) = shop.log_in_from(HOME, "new@example.com", PASSWORD).await {
            assert!(refused.retry_after.unwrap() <= Duration::from_secs(30));
        }
        shop.clock.advance(Duration::from_secs(30));
        shop.log_in_from(HOME, "new@example.com", PASSWORD).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn guesses_with_a_stolen_access_token_count_as_log_ins_and_do_not_keep_the_user_from_changing_the_password() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let ada = shop.register("ada@example.com").await;
        let tokens = shop.log_in_from(HOME, "ada@example.com", PASSWORD).await.unwrap();
        let (session, new) = (claims(&tokens).sid, Password::parse("a new password").unwrap());
        let change = |address: &'static str, current: &str| {
            let (shop, new, current) = (&shop, &new, SecretString::from(current));
            async move {
                let service = &shop.service;
                service
                    .change_password(&Call::default(), (ada.id, Some(session)), &current, new, address)
                    .await
            }
        };
        let mut checked = 0;
        for _ in 0..200 {
            checked += usize::from(code(change(ELSEWHERE, "a guess").await) == "wrong_password");
            shop.clock.advance(MINUTE / 10);
        }
        assert!(checked <= 22, "{checked} guesses in 20 minutes");
        assert_eq!(code(change(ELSEWHERE, PASSWORD).await), "too_many_failed_logins");
        change(HOME, PASSWORD).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_address_where_the_old_password_was_used_is_not_known_after_its_change() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let ada = shop.register("ada@example.com").await;
        shop.log_in_from(ELSEWHERE, "ada@example.com", PASSWORD).await.unwrap();
        let tokens = shop.log_in_from(HOME, "ada@example.com", PASSWORD).await.unwrap();
        let (session, new) = (claims(&tokens).sid, Password::parse("a new password").unwrap());
        let old = SecretString::from(PASSWORD);
        let call = Call::default();
        let change = shop
            .service
            .change_password(&call, (ada.id, Some(session)), &old, &new, HOME);
        change.await.unwrap();
        for n in 0..6 {
            for _ in 0..10 {
                let guessed = shop
                    .log_in_from(&format!("198.51.100.{}", 100 + n), "ada@example.com", "wrong")
                    .await;
                assert_eq!(code(guessed), "invalid_credentials");
            }
        }
        assert_eq!(
            code(shop.log_in_from(ELSEWHERE, "ada@example.com", PASSWORD).await),
            "too_many_failed_logins"
        );
        shop.log_in_from(HOME, "ada@example.com", "a new password")
            .await
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn successful_log_ins_do_not_count_as_failures() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        shop.register("ada@example.com").await;
        for _ in 0..12 {
            assert!(shop.log_in("ada@example.com", PASSWORD).await.is_ok());
        }
    })
    .await;
}

#[tokio::test]
async fn concurrent_guesses_do_not_exceed_the_limit() {
    on_both(crate::SCHEMA, |db| async move {
        let settings = Settings {
            account_failures_per_hour: 5,
            hashing_concurrency: 1,
            ..settings()
        };
        let shop = Shop::open_with(db, settings).await;
        let guesses = (0..12).map(|_| shop.log_in("ada@example.com", "wrong"));
        let codes: Vec<String> = futures::future::join_all(guesses).await.into_iter().map(code).collect();
        assert_eq!(
            codes.iter().filter(|code| *code == "invalid_credentials").count(),
            3,
            "{codes:?}"
        );
        assert_eq!(shop.service.hasher.computed(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_registrations_from_one_address_does_not_hold_up_a_log_in_from_another() {
    on_both(crate::SCHEMA, |db| async move {
        let settings = Settings {
            hashing_concurrency: 1,
            ..settings()
        };
        let shop = Shop::open_with(db, settings).await;
        shop.register("ada@example.com").await;
        // All wait for the one slot, which is taken.
        let slot = shop.service.hasher.slot(Work::LogIn, ELSEWHERE).await.unwrap();
        let call = Call::default();
        let flood = (0..200).map(|n| {
            let registration = registration(&format!("flood{n}@example.com"));
            shop.service.register(&call, registration, ELSEWHERE)
        });
        let wrong = (0..200).map(|n| {
            shop.log_in_from(
                ELSEWHERE,
                if n % 2 == 0 { "a@example.com" } else { "b@example.com" },
                "x",
            )
        });
        let log_in = shop.log_in_from(HOME, "ada@example.com", PASSWORD);
        let computed = || shop.service.hasher.computed();
        let before = computed();
        let log_in = async { (log_in.await.is_ok(), computed() - before) };
        let release = async {
            // 32 requests of one address may wait, and the one of the other.
            while shop.service.hasher.waiting() != (32 + 1, 32) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            drop(slot);
        };
        let (_, _, (succeeded, hashes), ()) = tokio::join!(
            futures::future::join_all(flood),
            futures::future::join_all(wrong),
            log_in,
            release
        );
        assert!(succeeded);
        // Its own is the second or third. A few more are computed while its session is stored.
        assert!(hashes <= 20, "{hashes} of the flood's 64 hashes were computed before");
    })
    .await;
}

#[tokio::test]
async fn an_address_registers_as_often_as_the_settings_say_and_others_are_not_affected() {
    on_both(crate::SCHEMA, |db| async move {
        let settings = Settings {
            address_registrations_per_hour: 6,
            ..settings()
        };
        let shop = Shop::open_with(db, settings).await;
        let call = Call::default();
        for n in 0..3 {
            let registration = registration(&format!("ada{n}@example.com"));
            shop.service.register(&call, registration, ELSEWHERE).await.unwrap();
        }
        let refused = shop
            .service
            .register(&call, registration("bob@example.com"), ELSEWHERE)
            .await;
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused.kind, refused.code.as_str()),
            (FaultKind::TooMany, "too_many_registrations")
        );
        assert!(refused.retry_after.unwrap() <= 10 * MINUTE);
        shop.service
            .register(&call, registration("bob@example.com"), HOME)
            .await
            .unwrap();
    })
    .await;
}
