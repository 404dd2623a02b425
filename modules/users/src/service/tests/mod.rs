//! The service on both databases.

mod account_mails;
mod accounts;
mod ended_sessions;
mod keys;
mod limits;
mod passwords;
mod sessions;

use std::{sync::Arc, time::Duration};

use banyan_core::{Actor, Call, Clock, Cursor, Fault, PageRequest, RandomIds, RandomSecrets, SystemClock};
use banyan_durable::Db;
use banyan_durable_testing::{ManualClock, on_both};
use secrecy::SecretString;
use shared_kernel::Role;
use uuid::Uuid;

use super::{Registered, Service, subject};
use crate::{
    Needs, Settings, build,
    email::EmailAddress,
    password::Password,
    person_name::PersonName,
    seed,
    session::Tokens,
    settings::{FirstOperator, default_settings},
    user::{ProfileChange, Registration, User},
};

const PASSWORD: &str = "correct horse";
const CLIENT_ADDRESS: &str = "127.0.0.1";
const MINUTE: Duration = Duration::from_secs(60);

/// The default settings with cheap hashes.
fn settings() -> Settings {
    Settings {
        argon2_memory_kib: 64,
        ..default_settings()
    }
}

struct Shop {
    service: Arc<Service>,
    clock: Arc<ManualClock>,
}

impl Shop {
    async fn open(db: Db) -> Self {
        Shop::open_with(db, settings()).await
    }

    async fn open_with(db: Db, settings: Settings) -> Self {
        let clock = ManualClock::at(SystemClock.now());
        let (ids, secrets) = (Arc::new(RandomIds), Arc::new(RandomSecrets));
        let service = build(Needs {
            db,
            clock: clock.clone(),
            ids,
            secrets,
            demo: true,
            settings,
        })
        .await
        .unwrap();
        Shop {
            service: Arc::new(service),
            clock,
        }
    }

    async fn register(&self, email: &str) -> User {
        let registered = self
            .service
            .register(&Call::default(), registration(email), CLIENT_ADDRESS)
            .await;
        match registered.unwrap() {
            Registered::User(user) => *user,
            Registered::Mail => panic!("addresses are verified"),
        }
    }

    /// Creates an operator; returns their id and a call with a token of theirs.
    async fn operator(&self, name: &str) -> (Uuid, Call) {
        let id = seed::add_user(&self.service, &format!("{name}@example.com"), PASSWORD, vec![Role::Ops])
            .await
            .unwrap();
        (id, Call::by(Actor::user(id, [Role::Ops])))
    }

    async fn log_in(&self, email: &str, password: &str) -> Result<Tokens, Fault> {
        self.log_in_from(CLIENT_ADDRESS, email, password).await
    }

    async fn log_in_from(&self, address: &str, email: &str, password: &str) -> Result<Tokens, Fault> {
        self.service.log_in(email, &SecretString::from(password), address).await
    }
}

fn registration(email: &str) -> Registration {
    Registration {
        email: EmailAddress::parse(email).unwrap(),
        password: Password::parse(PASSWORD).unwrap(),
        name: PersonName::parse("Ada").unwrap(),
    }
}

fn code<T>(result: Result<T, Fault>) -> String {
    result.err().map(|fault| fault.code).unwrap_or_default()
}

/// The claims of an access token, without verification.
fn claims(tokens: &Tokens) -> banyan_http::Claims {
    jsonwebtoken::dangerous::insecure_decode::<banyan_http::Claims>(&tokens.access_token)
        .unwrap()
        .claims
}

#[tokio::test]
async fn an_email_address_belongs_to_one_user_whatever_its_case() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        let mut changes = db.changes();
        let ada = shop.register("Ada@Example.com").await;
        let subject = subject(ada.id);
        while *changes.recv().await.unwrap().topic != *subject {}
        assert_eq!(
            (ada.email.as_str(), &ada.roles[..]),
            ("Ada@Example.com", &[Role::Customer][..])
        );
        assert_eq!(
            code(
                shop.service
                    .register(&Call::default(), registration("ada@example.COM"), CLIENT_ADDRESS)
                    .await
            ),
            "email_taken"
        );
        assert!(shop.log_in("ADA@EXAMPLE.COM", PASSWORD).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn of_two_concurrent_registrations_of_an_address_one_is_refused() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let call = Call::default();
        let register = |email| shop.service.register(&call, registration(email), CLIENT_ADDRESS);
        let (one, other) = tokio::join!(register("ada@example.com"), register("ADA@example.com"));
        let mut codes = [code(one), code(other)];
        codes.sort();
        assert_eq!(codes, ["", "email_taken"]);
    })
    .await;
}

#[tokio::test]
async fn a_profile_is_changed_only_at_the_expected_version() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let ada = shop.register("ada@example.com").await;
        let call = Call::by(Actor::user(ada.id, [Role::Customer]));
        let rename = |name: &str| ProfileChange {
            name: Some(PersonName::parse(name).unwrap()),
            addresses: None,
        };
        let changed = shop
            .service
            .change_profile(&call, ada.id, rename("Countess"), Some(1))
            .await
            .unwrap();
        assert_eq!((changed.name.as_str(), changed.version), ("Countess", 2));
        assert_eq!(
            code(
                shop.service
                    .change_profile(&call, ada.id, rename("Enchantress"), Some(1))
                    .await
            ),
            "precondition_failed"
        );
        let same = shop
            .service
            .change_profile(&call, ada.id, rename("Countess"), None)
            .await
            .unwrap();
        assert_eq!(same.version, 2, "a change without effect is no change");
        let stranger = Call::by(Actor::user(Uuid::from_u128(1), [Role::Customer]));
        assert_eq!(
            code(
                shop.service
                    .change_profile(&stranger, ada.id, rename("Mallory"), None)
                    .await
            ),
            "not_found"
        );
        assert_eq!(shop.service.load_visible(&call.actor, ada.id).await.unwrap(), changed);
    })
    .await;
}

#[tokio::test]
async fn changes_made_at_once_are_all_kept() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let ada = shop.register("ada@example.com").await;
        let call = Call::by(Actor::user(ada.id, [Role::Customer]));
        let changes = (0..6).map(|n| {
            let change = ProfileChange {
                name: Some(PersonName::parse(&format!("Ada {n}")).unwrap()),
                addresses: None,
            };
            shop.service.change_profile(&call, ada.id, change, None)
        });
        for changed in futures::future::join_all(changes).await {
            changed.unwrap();
        }
        assert_eq!(shop.service.load_visible(&call.actor, ada.id).await.unwrap().version, 7);
    })
    .await;
}

#[tokio::test]
async fn the_list_is_read_page_by_page_newest_first() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let mut all = Vec::new();
        for n in 0..5 {
            // Two at the same time, which are ordered by id.
            if n % 2 == 0 {
                shop.clock.advance(MINUTE);
            }
            all.push(shop.register(&format!("user{n}@example.com")).await);
        }
        all.sort_by_key(|user| std::cmp::Reverse((user.created_at, user.id)));
        let (mut seen, mut request) = (Vec::new(), PageRequest { limit: 2, after: None });
        loop {
            let page = shop.service.list(&request, None).await.unwrap();
            seen.extend(page.items);
            match page.next {
                Some(next) => request.after = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, all);
        let found = shop
            .service
            .list(&PageRequest::default(), Some("USER3@example.com"))
            .await
            .unwrap();
        assert_eq!(found.items.len(), 1);
        request.after = Some(Cursor("nonsense".into()));
        assert_eq!(code(shop.service.list(&request, None).await), "invalid_parameter");
    })
    .await;
}

#[tokio::test]
async fn the_demo_users_are_created_once_and_cost_no_hash_at_the_second_start() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        seed::add_demo_users(shop.service.clone()).await.unwrap();
        for (email, role) in [
            ("demo@banyan.example", Role::Customer),
            ("staff@banyan.example", Role::Staff),
            ("ops@banyan.example", Role::Ops),
        ] {
            let tokens = shop.log_in(email, "banyan-demo").await.unwrap();
            assert_eq!(claims(&tokens).roles, [role.into_str()]);
        }
        let hashes = shop.service.hasher.computed();
        seed::add_demo_users(shop.service.clone()).await.unwrap();
        assert_eq!(shop.service.hasher.computed(), hashes);
        assert_eq!(
            shop.service
                .list(&PageRequest::default(), None)
                .await
                .unwrap()
                .items
                .len(),
            3
        );
    })
    .await;
}

#[tokio::test]
async fn the_first_operator_is_created_once_and_never_from_an_existing_user() {
    on_both(crate::SCHEMA, |db| async move {
        let directory = banyan_durable_testing::SqliteHome::new();
        let password_file = directory.path().join("password");
        std::fs::write(&password_file, "operators only\n").unwrap();
        let shop = Shop::open(db).await;
        shop.register("taken@example.com").await;
        for email in ["taken@example.com", "ops@example.com", "ops@example.com"] {
            let first = FirstOperator {
                email: email.to_owned(),
                password_file: password_file.clone(),
            };
            seed::add_first_operator(&shop.service, &first).await.unwrap();
        }
        assert_eq!(
            claims(&shop.log_in("taken@example.com", PASSWORD).await.unwrap()).roles,
            [Role::Customer.into_str()]
        );
        let tokens = shop.log_in("ops@example.com", "operators only").await.unwrap();
        assert_eq!(claims(&tokens).roles, ["staff", "ops"]);
    })
    .await;
}

#[tokio::test]
async fn the_first_operators_password_is_replaced_by_the_one_in_the_file() {
    on_both(crate::SCHEMA, |db| async move {
        let directory = banyan_durable_testing::SqliteHome::new();
        let password_file = directory.path().join("password");
        let write = |password: &str| std::fs::write(&password_file, password).unwrap();
        let shop = Shop::open(db).await;
        let first = |email: &str| FirstOperator {
            email: email.to_owned(),
            password_file: password_file.clone(),
        };
        write("leaked and known\n");
        seed::add_first_operator(&shop.service, &first("ops@example.com"))
            .await
            .unwrap();
        let tokens = shop.log_in("ops@example.com", "leaked and known").await.unwrap();
        write("a new secret\n");
        seed::reset_first_operator(&shop.service, &first("ops@example.com"))
            .await
            .unwrap();
        assert_eq!(
            code(shop.log_in("ops@example.com", "leaked and known").await),
            "invalid_credentials"
        );
        assert_eq!(
            code(shop.service.refresh(&tokens.refresh_token).await),
            "invalid_refresh_token"
        );
        assert!(shop.log_in("ops@example.com", "a new secret").await.is_ok());
        shop.register("ada@example.com").await;
        for email in ["ada@example.com", "nobody@example.com"] {
            assert!(
                seed::reset_first_operator(&shop.service, &first(email)).await.is_err(),
                "{email}"
            );
        }
        assert!(shop.log_in("ada@example.com", PASSWORD).await.is_ok());
    })
    .await;
}
