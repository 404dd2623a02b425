//! The module's promises, on both databases.

use std::{sync::Arc, time::Duration};

use banyan_core::{Actor, Call, Clock, Cursor, Fault, FaultKind, PageRequest, RandomIds, RandomSecrets, SystemClock};
use banyan_durable::Db;
use banyan_durable_testing::{ManualClock, on_both};
use secrecy::SecretString;
use shared_kernel::Role;
use uuid::Uuid;

use crate::{
    Settings,
    password::Hasher,
    seed,
    service::{Service, subject},
    session::{self, RefreshToken, Tokens},
    start::{Needs, build},
    store,
    user::{ProfileChange, Registration, User},
    words::{EmailAddress, Password, PersonName},
};

const PASSWORD: &str = "correct horse";
const HOME: &str = "127.0.0.1";
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Weak hashes, because what they cost is not what is tested here.
fn settings() -> Settings {
    Settings {
        argon2_memory_kib: 64,
        ..Settings::default()
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
        self.service
            .register(&Call::default(), registration(email))
            .await
            .unwrap()
    }

    async fn log_in(&self, email: &str, password: &str) -> Result<Tokens, Fault> {
        self.log_in_from(HOME, email, password).await
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

fn operator() -> Call {
    Call::by(Actor::user(Uuid::from_u128(9), [Role::Ops]))
}

fn code<T>(result: Result<T, Fault>) -> String {
    result.err().map(|fault| fault.code).unwrap_or_default()
}

/// What a token says, unverified: that tokens verify is a test of its own.
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
                    .register(&Call::default(), registration("ada@example.COM"))
                    .await
            ),
            "email_taken"
        );
        assert!(shop.log_in("ADA@EXAMPLE.COM", PASSWORD).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn of_two_who_register_the_same_address_at_once_one_is_refused() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let call = Call::default();
        let register = |email| shop.service.register(&call, registration(email));
        let (one, other) = tokio::join!(register("ada@example.com"), register("ADA@example.com"));
        let mut codes = [code(one), code(other)];
        codes.sort();
        assert_eq!(codes, ["", "email_taken"]);
    })
    .await;
}

#[tokio::test]
async fn an_unknown_user_costs_the_same_hash_as_a_known_one_and_gets_the_same_answer() {
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
async fn after_ten_failures_in_a_minute_even_the_right_password_has_to_wait() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        shop.register("ada@example.com").await;
        shop.register("bob@example.com").await;
        for _ in 0..10 {
            assert_eq!(
                code(shop.log_in("ada@example.com", "wrong").await),
                "invalid_credentials"
            );
            shop.clock.advance(Duration::from_secs(1));
        }
        let hashes = shop.service.hasher.computed();
        let refused = shop
            .log_in_from("10.0.0.1", "ADA@example.com", PASSWORD)
            .await
            .err()
            .unwrap();
        assert_eq!(
            (refused.kind, refused.code.as_str()),
            (FaultKind::TooMany, "too_many_failed_logins")
        );
        assert_eq!(refused.retry_after, Some(Duration::from_secs(50)));
        assert_eq!(
            shop.service.hasher.computed(),
            hashes,
            "a refused guess is not even looked at"
        );
        assert!(
            shop.log_in("bob@example.com", PASSWORD).await.is_ok(),
            "nobody else has to wait"
        );
        shop.clock.advance(Duration::from_secs(50));
        assert!(shop.log_in("ada@example.com", PASSWORD).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn an_address_is_stopped_whatever_accounts_it_tries() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open_with(
            db,
            Settings {
                address_failures_per_minute: 3,
                ..settings()
            },
        )
        .await;
        shop.register("ada@example.com").await;
        for name in ["a", "b", "c"] {
            assert_eq!(
                code(shop.log_in(&format!("{name}@example.com"), "wrong").await),
                "invalid_credentials"
            );
        }
        assert_eq!(
            code(shop.log_in("ada@example.com", PASSWORD).await),
            "too_many_failed_logins"
        );
        assert!(shop.log_in_from("10.0.0.1", "ada@example.com", PASSWORD).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn logging_in_rightly_is_no_failure_however_often() {
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
async fn guesses_made_at_the_same_time_do_not_slip_through() {
    on_both(crate::SCHEMA, |db| async move {
        let settings = Settings {
            account_failures_per_minute: 3,
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
        assert_eq!(
            code(shop.service.refresh(&stolen.refresh_token).await),
            "invalid_refresh_token"
        );
        assert_eq!(
            code(shop.service.refresh(&next.refresh_token).await),
            "invalid_refresh_token",
            "the whole family is revoked"
        );
        assert!(shop.service.refresh(&other.refresh_token).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn of_two_uses_at_the_same_moment_at_most_one_yields_tokens_and_the_family_ends() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        shop.register("ada@example.com").await;
        let tokens = shop.log_in("ada@example.com", PASSWORD).await.unwrap();
        let (one, other) = tokio::join!(
            shop.service.refresh(&tokens.refresh_token),
            shop.service.refresh(&tokens.refresh_token)
        );
        let winners: Vec<Tokens> = [one, other].into_iter().flatten().collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(
            code(shop.service.refresh(&winners[0].refresh_token).await),
            "invalid_refresh_token"
        );
    })
    .await;
}

#[tokio::test]
async fn who_logs_out_cannot_refresh() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        shop.register("ada@example.com").await;
        let tokens = shop.log_in("ada@example.com", PASSWORD).await.unwrap();
        let session = claims(&tokens).sid.unwrap();
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
async fn a_session_lives_while_it_is_used_and_is_forgotten_afterwards() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        shop.register("ada@example.com").await;
        let mut tokens = shop.log_in("ada@example.com", PASSWORD).await.unwrap();
        for _ in 0..3 {
            shop.clock.advance(29 * DAY);
            tokens = shop.service.refresh(&tokens.refresh_token).await.unwrap();
        }
        let forget = || {
            let now = shop.clock.now();
            db.write(
                (),
                move |tx, ()| async move { store::forget_expired(tx.conn(), now).await },
            )
        };
        assert_eq!(forget().await.unwrap(), 2, "only tokens that have expired go");
        shop.clock.advance(30 * DAY);
        assert_eq!(
            code(shop.service.refresh(&tokens.refresh_token).await),
            "invalid_refresh_token"
        );
        assert_eq!(forget().await.unwrap(), 3, "two tokens and their session");
        assert_eq!(forget().await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_changed_role_shows_in_the_next_token() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let ada = shop.register("ada@example.com").await;
        let tokens = shop.log_in("ada@example.com", PASSWORD).await.unwrap();
        assert_eq!(claims(&tokens).roles, [Role::Customer].map(Role::as_str));
        let changed = shop
            .service
            .change_roles(&operator(), ada.id, vec![Role::Staff, Role::Customer])
            .await
            .unwrap();
        assert_eq!(
            (&changed.roles[..], changed.version),
            (&[Role::Customer, Role::Staff][..], 2)
        );
        let next = shop.service.refresh(&tokens.refresh_token).await.unwrap();
        assert_eq!(claims(&next).roles, [Role::Customer, Role::Staff].map(Role::as_str));
        assert_eq!(
            code(
                shop.service
                    .change_roles(&operator(), Uuid::from_u128(1), vec![Role::Staff])
                    .await
            ),
            "not_found"
        );
    })
    .await;
}

#[tokio::test]
async fn a_profile_is_changed_at_the_version_that_was_seen_or_not_at_all() {
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
        assert_eq!(same.version, 2, "a change of nothing is none");
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
            // Two at the same moment: the id decides then.
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
async fn every_instance_and_every_start_signs_with_the_same_key() {
    on_both(crate::SCHEMA, |db| async move {
        let (one, other) = tokio::join!(Shop::open(db.clone()), Shop::open(db.clone()));
        let keys = one.service.jwks().to_vec();
        assert_eq!(keys.len(), 1);
        assert_eq!(keys, other.service.jwks());
        assert_eq!(keys, Shop::open(db).await.service.jwks());
    })
    .await;
}

#[tokio::test]
async fn a_key_file_signs_alone_and_named_others_are_believed() {
    on_both(crate::SCHEMA, |db| async move {
        let kept = Shop::open(db.clone()).await.service.jwks()[0].clone();
        let directory = banyan_durable_testing::SqliteHome::new();
        let file = |name: &str, pem: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, pem).unwrap();
            path
        };
        // RFC 8410, section 10.
        let private =
            "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let other = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
        let settings =
            Settings { signing_key_file: Some(file("new.pem", private)), verifying_key_files: vec![file("old.pem", other)], ..settings() };
        let shop = Shop::open_with(db, settings).await;
        let kids: Vec<_> = shop.service.jwks().iter().map(|key| key.kid.as_str()).collect();
        assert_eq!(kids.len(), 2);
        assert_eq!(kids[1], "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert!(!kids.contains(&kept.kid.as_str()), "a key from the database is believed only if nothing else was said");
    })
    .await;
}

#[tokio::test]
async fn the_demos_users_are_put_in_once_and_cost_nothing_the_second_time() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        seed::demo_users(shop.service.clone()).await.unwrap();
        for (email, role) in [
            ("demo@banyan.example", Role::Customer),
            ("staff@banyan.example", Role::Staff),
            ("ops@banyan.example", Role::Ops),
        ] {
            let tokens = shop.log_in(email, "banyan-demo").await.unwrap();
            assert_eq!(claims(&tokens).roles, [role.as_str()]);
        }
        let hashes = shop.service.hasher.computed();
        seed::demo_users(shop.service.clone()).await.unwrap();
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
async fn the_first_operator_is_made_once_and_never_out_of_somebody_else() {
    on_both(crate::SCHEMA, |db| async move {
        let directory = banyan_durable_testing::SqliteHome::new();
        let password_file = directory.path().join("password");
        std::fs::write(&password_file, "operators only\n").unwrap();
        let shop = Shop::open(db).await;
        shop.register("taken@example.com").await;
        for email in ["taken@example.com", "ops@example.com", "ops@example.com"] {
            let first = crate::FirstOperator {
                email: email.to_owned(),
                password_file: password_file.clone(),
            };
            seed::first_operator(&shop.service, &first).await.unwrap();
        }
        assert_eq!(
            claims(&shop.log_in("taken@example.com", PASSWORD).await.unwrap()).roles,
            [Role::Customer.as_str()]
        );
        let tokens = shop.log_in("ops@example.com", "operators only").await.unwrap();
        assert_eq!(claims(&tokens).roles, [Role::Staff, Role::Ops].map(Role::as_str));
    })
    .await;
}

#[tokio::test]
async fn a_hash_made_with_outdated_parameters_is_made_anew_at_the_next_log_in() {
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
async fn a_hash_of_the_default_settings_is_what_owasp_asks_for() {
    let hasher = Hasher::new(&Settings::default(), Arc::new(RandomSecrets)).unwrap();
    let hash = hasher.slot().await.unwrap().hash(&PASSWORD.into()).await.unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=47104,t=1,p=1$"), "{hash}");
}

#[tokio::test]
async fn a_refresh_token_that_was_exchanged_meanwhile_is_not_exchanged_again() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        shop.register("ada@example.com").await;
        let tokens = shop.log_in("ada@example.com", PASSWORD).await.unwrap();
        let (hash, session_id) = (session::hash_of(&tokens.refresh_token), claims(&tokens).sid.unwrap());
        // What two transactions do that both found the token unused; here in one, so that the order is sure.
        let both = db.write(hash, move |tx, hash| async move {
            let next = |secret: &str| RefreshToken::issue(secret, session_id, tx.clock().now(), DAY);
            store::rotate_token(tx.conn(), &hash, &next("one")).await?;
            store::rotate_token(tx.conn(), &hash, &next("other")).await
        });
        assert_eq!(
            both.await.unwrap_err().kind,
            FaultKind::Unavailable,
            "the race is lost, and the job would run again"
        );
    })
    .await;
}

#[tokio::test]
async fn a_second_signing_key_is_a_lost_race_and_no_bug() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        let second = db.write((), |tx, ()| async move {
            store::insert_signing_key(tx.conn(), "kid", "seed", tx.clock().now()).await
        });
        assert_eq!(second.await.unwrap_err().kind, FaultKind::Unavailable);
        assert_eq!(
            store::list_signing_seeds(db.read()).await.unwrap().len(),
            shop.service.jwks().len()
        );
    })
    .await;
}
