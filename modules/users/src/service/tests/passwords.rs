//! Changes of passwords.

use banyan_core::{Call, FaultKind};
use banyan_durable_testing::on_both;
use secrecy::SecretString;

use super::{CLIENT_ADDRESS, PASSWORD, Shop, claims, code};
use crate::{password::Password, session::Tokens, user::User};

const NEW: &str = "a new password";

async fn change(shop: &Shop, user: &User, tokens: &Tokens, current: &str) -> Result<(), banyan_core::Fault> {
    let (current, new) = (SecretString::from(current), Password::parse(NEW).unwrap());
    let session = Some(claims(tokens).sid);
    shop.service
        .change_password(&Call::default(), (user.id, session), &current, &new, CLIENT_ADDRESS)
        .await
}

#[tokio::test]
async fn a_changed_password_replaces_the_old_one_and_ends_the_other_sessions() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let ada = shop.register("ada@example.com").await;
        let (own, thief) = (
            shop.log_in("ada@example.com", PASSWORD).await.unwrap(),
            shop.log_in("ada@example.com", PASSWORD).await.unwrap(),
        );
        change(&shop, &ada, &own, PASSWORD).await.unwrap();
        assert_eq!(
            code(shop.log_in("ada@example.com", PASSWORD).await),
            "invalid_credentials"
        );
        assert_eq!(
            code(shop.service.refresh(&thief.refresh_token).await),
            "invalid_refresh_token"
        );
        assert!(shop.service.refresh(&own.refresh_token).await.is_ok());
        assert!(shop.log_in("ada@example.com", NEW).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn who_has_only_an_access_token_cannot_change_or_guess_the_password() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let ada = shop.register("ada@example.com").await;
        let tokens = shop.log_in("ada@example.com", PASSWORD).await.unwrap();
        for _ in 0..10 {
            let refused = change(&shop, &ada, &tokens, "a guess").await.unwrap_err();
            assert_eq!(
                (refused.kind, refused.code.as_str()),
                (FaultKind::Forbidden, "wrong_password")
            );
        }
        assert_eq!(
            code(change(&shop, &ada, &tokens, PASSWORD).await),
            "too_many_failed_logins"
        );
        assert!(shop.service.refresh(&tokens.refresh_token).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn of_two_changes_at_the_same_moment_one_takes_effect() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let ada = shop.register("ada@example.com").await;
        let tokens = shop.log_in("ada@example.com", PASSWORD).await.unwrap();
        let (one, other) = tokio::join!(
            change(&shop, &ada, &tokens, PASSWORD),
            change(&shop, &ada, &tokens, PASSWORD)
        );
        let mut codes = [code(one), code(other)];
        codes.sort();
        assert_eq!(codes, ["", "wrong_password"]);
    })
    .await;
}
