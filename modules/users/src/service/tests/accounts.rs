//! The powers of operators over the accounts of others.

use banyan_core::{Actor, Call, Clock, PageRequest};
use banyan_durable_testing::on_both;
use banyan_http::{IfMatch, Reason};
use shared_kernel::Role;
use uuid::Uuid;

use super::{super::sessions::Verified, CLIENT_ADDRESS, MINUTE, PASSWORD, Shop, claims, code};
use crate::{store, throttle::LoginAttempt};

fn why() -> Reason {
    Reason {
        reason: "a test".to_owned(),
        comment: None,
    }
}

/// The outcome of every power over somebody else's account, exercised by `call` on `target`.
async fn exercise_all(shop: &Shop, call: &Call, target: Uuid) -> Vec<String> {
    let service = &shop.service;
    let page = PageRequest::default();
    vec![
        code(
            service
                .change_roles(call, (target, IfMatch::default()), vec![Role::Staff, Role::Ops])
                .await,
        ),
        code(service.disable(call, (target, IfMatch::default()), why()).await),
        code(service.enable(call, (target, IfMatch::default()), why()).await),
        code(service.list_sessions_of(&call.actor, target, &page).await),
        code(service.end_sessions_of(call, target).await),
        code(service.end_session_of(call, target, Uuid::nil()).await),
    ]
}

#[tokio::test]
async fn an_operator_who_is_none_any_more_exercises_no_power_with_an_older_token() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let (_, alice) = shop.operator("alice").await;
        let (bob_id, bob) = shop.operator("bob").await;
        let (cid_id, cid) = shop.operator("cid").await;
        let ada = shop.register("ada@example.com").await;
        let service = &shop.service;
        service
            .change_roles(&alice, (bob_id, IfMatch::default()), vec![Role::Customer])
            .await
            .unwrap();
        service
            .disable(&alice, (cid_id, IfMatch::default()), why())
            .await
            .unwrap();
        for former in [&bob, &cid] {
            for target in [ada.id, bob_id, cid_id] {
                assert_eq!(exercise_all(&shop, former, target).await, ["insufficient_role"; 6]);
            }
        }
        let bob_now = service.load_visible(&bob.actor, bob_id).await.unwrap();
        assert_eq!(bob_now.roles, [Role::Customer]);
        assert!(
            service
                .load_visible(&cid.actor, cid_id)
                .await
                .unwrap()
                .disabled_at
                .is_some()
        );
    })
    .await;
}

#[tokio::test]
async fn a_disabled_user_is_logged_out_and_cannot_log_in_until_enabled() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let (operator_id, operator) = shop.operator("ops").await;
        let ada = shop.register("ada@example.com").await;
        let tokens = shop.log_in("ada@example.com", PASSWORD).await.unwrap();
        let disabled = shop
            .service
            .disable(&operator, (ada.id, IfMatch::default()), why())
            .await
            .unwrap();
        assert_eq!((disabled.disabled_at, disabled.version), (Some(shop.clock.now()), 2));
        assert_eq!(
            code(shop.service.refresh(&tokens.refresh_token).await),
            "invalid_refresh_token"
        );
        assert_eq!(code(shop.log_in("ada@example.com", PASSWORD).await), "account_disabled");
        assert_eq!(
            code(shop.log_in("ada@example.com", "wrong").await),
            "invalid_credentials",
            "only who knows the password learns that the account is disabled"
        );
        let again = shop
            .service
            .disable(&operator, (ada.id, IfMatch::default()), why())
            .await
            .unwrap();
        assert_eq!(again, disabled, "it is disabled already");
        shop.service
            .enable(&operator, (ada.id, IfMatch::default()), why())
            .await
            .unwrap();
        assert!(shop.log_in("ada@example.com", PASSWORD).await.is_ok());
        assert_eq!(
            code(
                shop.service
                    .disable(&operator, (operator_id, IfMatch::default()), why())
                    .await
            ),
            "own_account"
        );
    })
    .await;
}

#[tokio::test]
async fn an_operator_sees_and_ends_the_sessions_of_a_user() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        let (_, operator) = shop.operator("ops").await;
        let ada = shop.register("ada@example.com").await;
        let mut tokens = Vec::new();
        for _ in 0..3 {
            shop.clock.advance(MINUTE);
            tokens.push(shop.log_in("ada@example.com", PASSWORD).await.unwrap());
        }
        let page = PageRequest::default();
        let listed = || shop.service.list_sessions_of(&operator.actor, ada.id, &page);
        let sessions = listed().await.unwrap().items;
        let ids: Vec<_> = sessions.iter().map(|session| session.id).collect();
        let newest_first: Vec<_> = tokens.iter().rev().map(|tokens| claims(tokens).sid).collect();
        assert_eq!(ids, newest_first);
        let end = |id| shop.service.end_session_of(&operator, ada.id, id);
        end(sessions[0].id).await.unwrap();
        assert_eq!(code(end(sessions[0].id).await), "not_found");
        assert_eq!(listed().await.unwrap().items, sessions[1..]);
        shop.service.end_sessions_of(&operator, ada.id).await.unwrap();
        assert_eq!(listed().await.unwrap().items, []);
        for tokens in tokens {
            assert_eq!(
                code(shop.service.refresh(&tokens.refresh_token).await),
                "invalid_refresh_token"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn of_two_operators_who_take_the_role_from_each_other_one_stays() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        for round in 0..5 {
            let (a_id, a) = shop.operator(&format!("a{round}")).await;
            let (b_id, b) = shop.operator(&format!("b{round}")).await;
            let (of_a, of_b) = tokio::join!(
                shop.service
                    .change_roles(&b, (a_id, IfMatch::default()), vec![Role::Customer]),
                shop.service
                    .change_roles(&a, (b_id, IfMatch::default()), vec![Role::Customer]),
            );
            let mut codes = [code(of_a), code(of_b)];
            codes.sort();
            assert_eq!(codes, ["", "insufficient_role"]);
        }
    })
    .await;
}

#[tokio::test]
async fn a_change_of_roles_ends_the_users_sessions_and_shows_at_the_next_log_in() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let (_, operator) = shop.operator("ops").await;
        let ada = shop.register("ada@example.com").await;
        shop.register("bob@example.com").await;
        let (of_ada, of_bob) = (
            shop.log_in("ada@example.com", PASSWORD).await.unwrap(),
            shop.log_in("bob@example.com", PASSWORD).await.unwrap(),
        );
        let to_staff = vec![Role::Staff, Role::Customer];
        let changed = shop
            .service
            .change_roles(&operator, (ada.id, IfMatch::default()), to_staff.clone())
            .await
            .unwrap();
        assert_eq!(
            (&changed.roles[..], changed.version),
            (&[Role::Customer, Role::Staff][..], 2)
        );
        assert_eq!(
            code(shop.service.refresh(&of_ada.refresh_token).await),
            "invalid_refresh_token"
        );
        assert!(shop.service.refresh(&of_bob.refresh_token).await.is_ok());
        let again = shop.log_in("ada@example.com", PASSWORD).await.unwrap();
        assert_eq!(claims(&again).roles, ["customer", "staff"]);
        // A change to the roles they have already is no change, and ends nothing.
        shop.service
            .change_roles(&operator, (ada.id, IfMatch::default()), to_staff)
            .await
            .unwrap();
        assert!(shop.service.refresh(&again.refresh_token).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_log_in_that_began_before_a_change_of_roles_gets_the_new_ones() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        let (_, operator) = shop.operator("ops").await;
        let (bob_id, _) = shop.operator("bob").await;
        let found = store::find_credentials(db.read(), "bob@example.com").await.unwrap();
        let attempt = LoginAttempt::new(Uuid::nil(), "bob@example.com", CLIENT_ADDRESS, shop.clock.now());
        let verified = Verified {
            user_id: bob_id,
            hash: found.unwrap().1,
            new_hash: None,
        };
        shop.service
            .change_roles(&operator, (bob_id, IfMatch::default()), vec![Role::Customer])
            .await
            .unwrap();
        let tokens = shop.service.open_session(verified, &attempt).await.unwrap();
        assert_eq!(claims(&tokens).roles, ["customer"]);
    })
    .await;
}

#[tokio::test]
async fn roles_of_nobody_cannot_be_changed() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let (_, operator) = shop.operator("ops").await;
        let nobody = Uuid::from_u128(1);
        let refused = shop
            .service
            .change_roles(&operator, (nobody, IfMatch::default()), vec![Role::Staff])
            .await;
        assert_eq!(code(refused), "not_found");
        let stranger = Call::by(Actor::user(nobody, [Role::Ops]));
        let refused = shop
            .service
            .change_roles(&stranger, (nobody, IfMatch::default()), vec![Role::Staff])
            .await;
        assert_eq!(code(refused), "insufficient_role");
    })
    .await;
}
