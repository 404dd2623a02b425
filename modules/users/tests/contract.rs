//! The module through its contract and its REST resources, on both databases.

mod support;

use actix_web::test::TestRequest;
use banyan_core::{Actor, Call, FaultKind};
use banyan_durable_testing::on_both;
use serde_json::json;
use shared_kernel::Role;
use support::{PASSWORD, Shop, post};
use users_contract::{FindUser, ListEndedSessions, ListSigningKeys};
use uuid::Uuid;

#[actix_web::test]
async fn a_module_finds_any_user_and_a_customer_only_themselves() {
    on_both(users::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let ada = shop.register("Ada@example.com").await;
        let find = |call: Call| {
            let (users, user_id) = (shop.contract.clone(), ada.clone());
            async move { users.find_user(&call, FindUser { user_id }).await.unwrap().user }
        };
        let found = find(Call::by_module("notifications")).await.unwrap();
        assert_eq!(
            (found.id.as_str(), found.email.as_str(), &found.roles[..]),
            (ada.as_str(), "Ada@example.com", &["customer".to_owned()][..])
        );
        let user = |id: Uuid, role: Role| Call::by(Actor::user(id, [role]));
        assert!(find(user(ada.parse().unwrap(), Role::Customer)).await.is_some());
        assert!(find(user(Uuid::from_u128(1), Role::Staff)).await.is_some());
        assert_eq!(find(user(Uuid::from_u128(1), Role::Customer)).await, None);
        assert_eq!(find(Call::default()).await, None);
    })
    .await;
}

#[actix_web::test]
async fn an_unknown_user_is_absent_and_an_invalid_id_is_refused() {
    on_both(users::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let call = Call::by_module("orders");
        let nobody = shop
            .contract
            .find_user(
                &call,
                FindUser {
                    user_id: Uuid::from_u128(1).to_string(),
                },
            )
            .await
            .unwrap();
        assert_eq!(nobody.user, None);
        let fault = shop
            .contract
            .find_user(
                &call,
                FindUser {
                    user_id: "me".to_owned(),
                },
            )
            .await
            .unwrap_err();
        assert_eq!((fault.kind, fault.code.as_str()), (FaultKind::Invalid, "invalid_id"));
    })
    .await;
}

#[actix_web::test]
async fn the_contract_and_the_key_set_have_the_same_keys() {
    on_both(users::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let keys = shop.contract.list_signing_keys(&Call::default(), ListSigningKeys {}).await.unwrap().items;
        let reply = shop.send(actix_web::test::TestRequest::get().uri("/.well-known/jwks.json")).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("cache-control"), "public, max-age=300");
        assert_eq!(
            reply.body,
            json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": keys[0].x, "kid": keys[0].kid, "use": "sig", "alg": "EdDSA" }] })
        );
    })
    .await;
}

#[actix_web::test]
async fn the_demo_users_can_log_in() {
    on_both(users::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        (shop.seed)().await.unwrap();
        (shop.seed)().await.unwrap();
        for (email, role) in [
            ("demo@banyan.example", "customer"),
            ("staff@banyan.example", "staff"),
            ("ops@banyan.example", "ops"),
        ] {
            let tokens = shop.log_in(email, "banyan-demo").await;
            let me = shop
                .send(support::get("/api/v1/users/me").insert_header(tokens.bearer()))
                .await;
            assert_eq!((me.status, &me.body["roles"]), (200, &json!([role])));
        }
        assert_eq!(
            shop.send(post(
                "/api/v1/sessions",
                json!({"email": "demo@banyan.example", "password": PASSWORD})
            ))
            .await
            .status,
            401
        );
    })
    .await;
}

#[actix_web::test]
async fn an_ended_session_is_listed_by_the_contract() {
    on_both(users::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        shop.register("ada@example.com").await;
        let session = shop.log_in("ada@example.com", PASSWORD).await;
        let call = Call::default();
        let list = || {
            shop.contract
                .list_ended_sessions(&call, ListEndedSessions { since_ms: None })
        };
        let before = list().await.unwrap();
        assert_eq!((before.items.len(), before.access_token_seconds), (0, 900));
        let log_out = TestRequest::delete().uri("/api/v1/sessions/current");
        assert_eq!(shop.send(log_out.insert_header(session.bearer())).await.status, 204);
        let after = list().await.unwrap();
        assert_eq!((after.items.len(), after.refused_until_ms), (1, None));
        assert!((before.as_of_ms..=after.as_of_ms).contains(&after.items[0].ended_at_ms));
    })
    .await;
}
