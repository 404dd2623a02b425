//! The sessions that have ended, as every process hears of them.

use std::time::Duration;

use banyan_core::{Call, Clock};
use banyan_durable_testing::on_both;
use banyan_http::{IfMatch, Reason};
use secrecy::SecretString;
use shared_kernel::Role;
use uuid::Uuid;

use super::{CLIENT_ADDRESS, PASSWORD, Shop, claims};
use crate::{password::Password, session::Tokens, user::User};

/// A way in which a session ends before its time.
#[derive(Clone, Copy, Debug)]
enum Way {
    LogOut,
    Theft,
    Roles,
    Password,
    Disabled,
    ByUser,
    ByOperator,
    AllByOperator,
}

const WAYS: [Way; 8] = [
    Way::LogOut,
    Way::Theft,
    Way::Roles,
    Way::Password,
    Way::Disabled,
    Way::ByUser,
    Way::ByOperator,
    Way::AllByOperator,
];

impl Way {
    async fn end(self, shop: &Shop, operator: &Call, user: &User, tokens: &Tokens) {
        let (service, session) = (&shop.service, claims(tokens).sid);
        match self {
            Way::LogOut => service.log_out(session).await.unwrap(),
            Way::Theft => {
                service.refresh(&tokens.refresh_token).await.unwrap();
                shop.clock.advance(Duration::from_secs(10));
                service.refresh(&tokens.refresh_token).await.err().unwrap();
            }
            Way::Roles => {
                _ = service
                    .change_roles(operator, (user.id, IfMatch::default()), vec![Role::Staff])
                    .await
                    .unwrap()
            }
            Way::Password => {
                let (current, new) = (SecretString::from(PASSWORD), Password::parse("a new password").unwrap());
                let call = Call::default();
                let changed = service.change_password(&call, (user.id, None), &current, &new, CLIENT_ADDRESS);
                changed.await.unwrap();
            }
            Way::Disabled => {
                let why = Reason {
                    reason: "a test".to_owned(),
                    comment: None,
                };
                _ = service
                    .disable(operator, (user.id, IfMatch::default()), why)
                    .await
                    .unwrap();
            }
            Way::ByUser => service.end_session(user.id, session).await.unwrap(),
            Way::ByOperator => service.end_session_of(operator, user.id, session).await.unwrap(),
            Way::AllByOperator => service.end_sessions_of(operator, user.id).await.unwrap(),
        }
    }
}

async fn listed(shop: &Shop) -> Vec<Uuid> {
    let list = shop.service.list_ended(None, 100).await.unwrap();
    list.items.iter().map(|session| session.id.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_session_that_ends_in_any_way_is_listed_while_its_access_tokens_live() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let (_, operator) = shop.operator("ops").await;
        let mut ended = Vec::new();
        for (n, way) in WAYS.into_iter().enumerate() {
            let email = format!("user{n}@example.com");
            let user = shop.register(&email).await;
            let tokens = shop.log_in(&email, PASSWORD).await.unwrap();
            way.end(&shop, &operator, &user, &tokens).await;
            ended.push(claims(&tokens).sid);
            assert!(listed(&shop).await.contains(&claims(&tokens).sid), "{way:?}");
        }
        assert_eq!(listed(&shop).await.len(), ended.len(), "and no other");
        shop.clock.advance(Duration::from_secs(900));
        assert_eq!(listed(&shop).await.len(), ended.len());
        shop.clock.advance(Duration::from_secs(61));
        assert!(listed(&shop).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_list_names_what_is_new_and_says_until_when_it_is_incomplete() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        shop.register("ada@example.com").await;
        let mut ends = Vec::new();
        for _ in 0..3 {
            let tokens = shop.log_in("ada@example.com", PASSWORD).await.unwrap();
            shop.clock.advance(Duration::from_secs(1));
            shop.service.log_out(claims(&tokens).sid).await.unwrap();
            ends.push(shop.clock.now());
        }
        let list = |since, limit| shop.service.list_ended(since, limit);
        let all = list(None, 3).await.unwrap();
        let times: Vec<i64> = all.items.iter().map(|session| session.ended_at_ms).collect();
        assert_eq!(times, [ends[2].as_ms(), ends[1].as_ms(), ends[0].as_ms()]);
        assert_eq!((all.refused_until_ms, all.access_token_seconds), (None, 900));
        assert_eq!(list(Some(ends[0]), 3).await.unwrap().items, all.items[..2]);
        let cut = list(None, 2).await.unwrap();
        assert_eq!(
            (&cut.items[..], cut.refused_until_ms),
            (&all.items[..2], Some(ends[0].as_ms()))
        );
    })
    .await;
}
