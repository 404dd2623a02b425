//! The powers of operators over the accounts of others.

use banyan_core::{Actor, Call};
use banyan_durable_testing::on_both;
use shared_kernel::Role;
use uuid::Uuid;

use super::{super::sessions::Verified, PASSWORD, Shop, claims, code};
use crate::store;

#[tokio::test]
async fn an_operator_whose_role_was_taken_exercises_no_power_with_an_older_token() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let (_, alice) = shop.operator("alice").await;
        let (bob_id, bob) = shop.operator("bob").await;
        let ada = shop.register("ada@example.com").await;
        shop.service
            .change_roles(&alice, bob_id, vec![Role::Customer])
            .await
            .unwrap();
        for target in [bob_id, ada.id] {
            assert_eq!(
                code(
                    shop.service
                        .change_roles(&bob, target, vec![Role::Staff, Role::Ops])
                        .await
                ),
                "insufficient_role"
            );
        }
        let bob_now = shop.service.load_visible(&bob.actor, bob_id).await.unwrap();
        assert_eq!(bob_now.roles, [Role::Customer]);
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
                shop.service.change_roles(&b, a_id, vec![Role::Customer]),
                shop.service.change_roles(&a, b_id, vec![Role::Customer]),
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
            .change_roles(&operator, ada.id, to_staff.clone())
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
        shop.service.change_roles(&operator, ada.id, to_staff).await.unwrap();
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
        let verified = Verified {
            user_id: bob_id,
            hash: found.unwrap().1,
            new_hash: None,
        };
        shop.service
            .change_roles(&operator, bob_id, vec![Role::Customer])
            .await
            .unwrap();
        let tokens = shop.service.open_session(verified, Uuid::nil()).await.unwrap();
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
        let refused = shop.service.change_roles(&operator, nobody, vec![Role::Staff]).await;
        assert_eq!(code(refused), "not_found");
        let stranger = Call::by(Actor::user(nobody, [Role::Ops]));
        let refused = shop.service.change_roles(&stranger, nobody, vec![Role::Staff]).await;
        assert_eq!(code(refused), "insufficient_role");
    })
    .await;
}
