//! Log-ins, refreshes, log-outs.

use std::{sync::Arc, time::Duration};

use banyan_core::{Clock, FaultKind, PageRequest, RandomSecrets};
use banyan_durable_testing::on_both;

use super::{PASSWORD, Shop, claims, code, settings};
use crate::{
    Settings,
    hasher::Hasher,
    session::{self, RefreshToken},
    settings::default_settings,
    store,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test]
async fn an_unknown_user_costs_the_same_hash_and_gets_the_same_response_as_a_known_one() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        shop.register("ada@example.com").await;
        let before = shop.service.hasher.computed();
        let known = shop.log_in("ada@example.com", "wrong").await.err().unwrap();
        let between = shop.service.hasher.computed();
        let unknown = shop.log_in("nobody@example.com", "wrong").await.err().unwrap();
        assert_eq!((between - before, shop.service.hasher.computed() - between), (1, 1));
        assert_eq!(known, unknown);
        assert_eq!(
            (known.kind, known.code.as_str()),
            (FaultKind::Unauthenticated, "invalid_credentials")
        );
    })
    .await;
}

#[tokio::test]
async fn a_hash_with_outdated_parameters_is_replaced_at_the_next_log_in() {
    on_both(crate::SCHEMA, |db| async move {
        let old = Shop::open(db.clone()).await;
        old.register("ada@example.com").await;
        let new = Shop::open_with(
            db.clone(),
            Settings {
                argon2_iterations: 2,
                ..settings()
            },
        )
        .await;
        assert!(new.log_in("ada@example.com", PASSWORD).await.is_ok());
        let (_, hash) = store::find_credentials(db.read(), "ada@example.com")
            .await
            .unwrap()
            .unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=64,t=2,p=1$"), "{hash}");
        assert!(new.log_in("ada@example.com", PASSWORD).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_hash_of_the_default_settings_meets_owasps_recommendation() {
    let hasher = Hasher::new(&default_settings(), Arc::new(RandomSecrets)).unwrap();
    let hash = hasher.own_slot().await.unwrap().hash(&PASSWORD.into()).await.unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=47104,t=1,p=1$"), "{hash}");
}

#[tokio::test]
async fn a_refresh_token_used_twice_ends_its_session_and_no_other() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        shop.register("ada@example.com").await;
        let (stolen, other) = (
            shop.log_in("ada@example.com", PASSWORD).await.unwrap(),
            shop.log_in("ada@example.com", PASSWORD).await.unwrap(),
        );
        let next = shop.service.refresh(&stolen.refresh_token).await.unwrap();
        assert_ne!(next.refresh_token, stolen.refresh_token);
        assert_eq!(claims(&next).sid, claims(&stolen).sid);
        shop.clock.advance(Duration::from_secs(10));
        assert_eq!(
            code(shop.service.refresh(&stolen.refresh_token).await),
            "invalid_refresh_token"
        );
        assert_eq!(
            code(shop.service.refresh(&next.refresh_token).await),
            "invalid_refresh_token",
            "the session is revoked"
        );
        assert!(shop.service.refresh(&other.refresh_token).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn of_concurrent_uses_of_a_refresh_token_one_gets_tokens_and_the_session_goes_on() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        shop.register("ada@example.com").await;
        let tokens = shop.log_in("ada@example.com", PASSWORD).await.unwrap();
        let uses = (0..4).map(|_| shop.service.refresh(&tokens.refresh_token));
        let (won, lost): (Vec<_>, Vec<_>) = futures::future::join_all(uses)
            .await
            .into_iter()
            .partition(Result::is_ok);
        let lost: Vec<String> = lost.into_iter().map(code).collect();
        assert_eq!(lost, ["already_refreshed"; 3]);
        shop.clock.advance(Duration::from_secs(9));
        assert_eq!(
            code(shop.service.refresh(&tokens.refresh_token).await),
            "already_refreshed"
        );
        let next = won.into_iter().next().unwrap().unwrap();
        assert!(shop.service.refresh(&next.refresh_token).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_refresh_token_that_was_exchanged_meanwhile_is_not_exchanged_again() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        shop.register("ada@example.com").await;
        let tokens = shop.log_in("ada@example.com", PASSWORD).await.unwrap();
        let (hash, session_id) = (session::hash_of(&tokens.refresh_token), claims(&tokens).sid);
        // Two transactions that both found the token unused, here as one, so that the order is fixed.
        let both = db.write(hash, move |tx, hash| async move {
            let now = tx.clock().now();
            let next = |secret: &str| RefreshToken::issue(secret, session_id, now, now.plus(DAY));
            store::rotate_token(tx.conn(), &hash, &next("one")).await?;
            store::rotate_token(tx.conn(), &hash, &next("other")).await
        });
        assert_eq!(
            both.await.unwrap_err().kind,
            FaultKind::Unavailable,
            "the race is lost, and the transaction would run again"
        );
    })
    .await;
}

#[tokio::test]
async fn a_session_cannot_be_refreshed_after_log_out() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        shop.register("ada@example.com").await;
        let tokens = shop.log_in("ada@example.com", PASSWORD).await.unwrap();
        let session = claims(&tokens).sid;
        shop.service.log_out(session).await.unwrap();
        shop.service.log_out(session).await.unwrap();
        assert_eq!(
            code(shop.service.refresh(&tokens.refresh_token).await),
            "invalid_refresh_token"
        );
    })
    .await;
}

#[tokio::test]
async fn a_session_lives_while_it_is_used_and_is_deleted_afterwards() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        shop.register("ada@example.com").await;
        let mut tokens = shop.log_in("ada@example.com", PASSWORD).await.unwrap();
        for _ in 0..3 {
            shop.clock.advance(29 * DAY);
            tokens = shop.service.refresh(&tokens.refresh_token).await.unwrap();
        }
        let delete_expired = || {
            let now = shop.clock.now();
            db.write(
                (),
                move |tx, ()| async move { store::delete_expired(tx.conn(), now).await },
            )
        };
        assert_eq!(delete_expired().await.unwrap(), 2, "only expired tokens are deleted");
        shop.clock.advance(30 * DAY);
        assert_eq!(
            code(shop.service.refresh(&tokens.refresh_token).await),
            "invalid_refresh_token"
        );
        assert_eq!(delete_expired().await.unwrap(), 3, "two tokens and their session");
        assert_eq!(delete_expired().await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_session_and_its_access_tokens_end_at_the_latest_after_the_setting() {
    on_both(crate::SCHEMA, |db| async move {
        let settings = Settings {
            session_days: 40,
            ..settings()
        };
        let shop = Shop::open_with(db, settings).await;
        let ada = shop.register("ada@example.com").await;
        let first = shop.log_in("ada@example.com", PASSWORD).await.unwrap();
        let (ends_at, page) = (shop.clock.now().plus(40 * DAY), PageRequest::default());
        shop.clock.advance(29 * DAY);
        let second = shop.service.refresh(&first.refresh_token).await.unwrap();
        let listed = shop.service.list_sessions(ada.id, Some(claims(&second).sid), &page);
        let listed = listed.await.unwrap().items;
        assert_eq!(
            (listed[0].expires_at, listed[0].refreshed_at, listed[0].current),
            (ends_at, shop.clock.now(), true)
        );
        shop.clock.advance(11 * DAY - Duration::from_secs(60));
        let third = shop.service.refresh(&second.refresh_token).await.unwrap();
        assert_eq!((third.expires_in, claims(&third).exp), (60, ends_at.as_ms() / 1_000));
        shop.clock.advance(Duration::from_secs(60));
        assert_eq!(
            code(shop.service.refresh(&third.refresh_token).await),
            "invalid_refresh_token"
        );
        let listed = shop.service.list_sessions(ada.id, None, &page);
        assert_eq!(listed.await.unwrap().items, []);
    })
    .await;
}

#[tokio::test]
async fn a_user_ends_their_own_sessions_and_no_other() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let ada = shop.register("ada@example.com").await;
        let bob = shop.register("bob@example.com").await;
        let (lost, kept) = (
            shop.log_in("ada@example.com", PASSWORD).await.unwrap(),
            shop.log_in("ada@example.com", PASSWORD).await.unwrap(),
        );
        let lost_id = claims(&lost).sid;
        assert_eq!(code(shop.service.end_session(bob.id, lost_id).await), "not_found");
        shop.service.end_session(ada.id, lost_id).await.unwrap();
        assert_eq!(
            code(shop.service.refresh(&lost.refresh_token).await),
            "invalid_refresh_token"
        );
        assert!(shop.service.refresh(&kept.refresh_token).await.is_ok());
    })
    .await;
}
