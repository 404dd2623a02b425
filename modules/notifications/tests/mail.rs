//! Mails against a real SMTP conversation, on both databases.

mod support;

use std::{collections::HashSet, time::Duration};

use banyan_durable::Db;
use banyan_durable_testing::{eventually, on_both, published};
use notifications::Settings;
use notifications_contract::MailSent;
use sea_orm::{ConnectionTrait, Statement};
use support::{
    CURSED, LIMIT, Module, quick,
    smtp::{Door, Sink},
};
use uuid::Uuid;

fn through(sink: &Sink) -> Settings {
    Settings {
        smtp_url: Some(sink.url().into()),
        ..quick()
    }
}

#[tokio::test]
async fn a_mail_arrives_whole_and_is_told() {
    on_both(notifications::SCHEMA, |db| async move {
        let sink = Sink::start(&[]).await;
        let mut module = Module::open(db.clone(), through(&sink)).await;
        let user = Uuid::new_v4();
        module.welcome(user).await;
        module.run();
        module.all_become(user, "sent").await;
        let id = module.list(user).await[0].id.clone();
        let letters = sink.letters();
        let [letter] = &letters[..] else { panic!("{letters:?}") };
        assert_eq!(
            (letter.from.as_str(), letter.to.as_str()),
            ("shop@banyan.example", format!("{user}@example.com").as_str())
        );
        assert_eq!(letter.header("From"), "Banyan <shop@banyan.example>");
        assert_eq!(letter.header("To"), format!("Ada <{user}@example.com>"));
        assert_eq!(letter.header("Subject"), "Welcome to Banyan");
        assert_eq!(letter.header("Message-ID"), format!("<{id}@banyan.example>"));
        assert_eq!(letter.header("Auto-Submitted"), "auto-generated");
        assert_eq!(letter.header("Content-Type"), "text/plain; charset=utf-8");
        assert!(!letter.header("Date").is_empty());
        assert!(letter.text.contains("\r\n\r\nHello Ada,\r\n"), "{}", letter.text);

        let told = published(&db).await;
        let [sent] = &told[..] else { panic!("{told:?}") };
        assert_eq!(sent.subject, format!("mail/{id}"));
        let event = sent.find::<MailSent>().unwrap().unwrap();
        assert_eq!(
            (event.notification_id, event.user_id, event.kind),
            (id, user.to_string(), "welcome".to_owned())
        );
        // The trace of the event that caused it.
        assert_eq!(
            sent.traceparent.as_deref(),
            Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        );
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_mail_is_tried_again_under_the_same_message_id() {
    on_both(notifications::SCHEMA, |db| async move {
        let sink = Sink::start(&["451 busy", "", "550 no", "421 going down"]).await;
        let mut module = Module::open(db.clone(), through(&sink)).await;
        let user = Uuid::new_v4();
        module.welcome(user).await;
        module.run();
        module.all_become(user, "sent").await;
        let letters = sink.letters();
        assert_eq!(
            letters.iter().map(|letter| letter.reply.as_str()).collect::<Vec<_>>(),
            ["451 busy", "", "550 no", "421 going down", "250 taken"]
        );
        let texts: HashSet<&str> = letters.iter().map(|letter| letter.text.as_str()).collect();
        assert_eq!(texts.len(), 1, "every attempt is the same mail: {texts:?}");
        assert_eq!(published(&db).await.len(), 1);
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_mail_refused_too_often_is_given_up_and_holds_no_other_back() {
    on_both(notifications::SCHEMA, |db| async move {
        let sink = Sink::start(&["550 no", "550 no", "550 no such mailbox"]).await;
        let mut module = Module::open(
            db.clone(),
            Settings {
                max_refusals: 3,
                ..through(&sink)
            },
        )
        .await;
        let (refused, other) = (Uuid::new_v4(), Uuid::new_v4());
        module.welcome(refused).await;
        module.run();
        module.all_become(refused, "failed").await;
        module.welcome(other).await;
        module.all_become(other, "sent").await;
        assert_eq!(sink.letters().len(), 4);
        assert_eq!(published(&db).await.len(), 1);
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_let_us_in_costs_no_mail() {
    on_both(notifications::SCHEMA, |db| async move {
        for door in [
            Door::Password("535 5.7.8 wrong password"),
            Door::Password("534 5.7.9 too weak"),
            Door::Password("538 encrypt first"),
            Door::UnknownMechanism,
            Door::Greeting("554 5.7.1 your address is on a list"),
            Door::Greeting("521 no mail here"),
            Door::Sender("530 5.7.0 log in first"),
        ] {
            let sink = Sink::behind(door, &[]).await;
            let settings = Settings {
                smtp_url: Some(sink.url_with_password().into()),
                max_refusals: 2,
                ..quick()
            };
            let mut module = Module::open(db.clone(), settings).await;
            let user = Uuid::new_v4();
            module.welcome(user).await;
            module.run();
            let tried = || async { attempts_of_the_queued(&db).await >= 4 };
            eventually("it is tried again and again", LIMIT, tried).await;
            assert_eq!(module.list(user).await[0].status, "queued", "{door:?}");
            // An attempt that is turned away now and let in when it looks again may count as a refusal: one.
            sink.open();
            module.all_become(user, "sent").await;
            module.stop().await;
        }
    })
    .await;
}

/// How often the mail that waits was tried.
async fn attempts_of_the_queued(db: &Db) -> i64 {
    let sql = "select attempts from notification where status = 'queued'";
    let row = db
        .read()
        .query_one_raw(Statement::from_string(db.backend(), sql))
        .await
        .unwrap();
    row.map_or(0, |row| row.try_get("", "attempts").unwrap())
}

#[tokio::test]
async fn a_mail_that_its_sender_or_recipient_makes_impossible_is_given_up() {
    on_both(notifications::SCHEMA, |db| async move {
        for reply in [
            "550 no such mailbox",
            "553 not a name",
            "554 no",
            "555 no such parameter",
        ] {
            let sink = Sink::behind(Door::Sender(reply), &[]).await;
            let mut module = Module::open(
                db.clone(),
                Settings {
                    max_refusals: 2,
                    ..through(&sink)
                },
            )
            .await;
            let user = Uuid::new_v4();
            module.welcome(user).await;
            module.run();
            module.all_become(user, "failed").await;
            module.stop().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_mail_that_meets_a_bug_is_given_up_and_holds_no_other_back() {
    on_both(notifications::SCHEMA, |db| async move {
        let sink = Sink::start(&[]).await;
        let mut module = Module::open(
            db,
            Settings {
                max_refusals: 2,
                ..through(&sink)
            },
        )
        .await;
        let user = Uuid::new_v4();
        for user in [CURSED, user] {
            module.welcome(user).await;
        }
        module.run();
        module.all_become(user, "sent").await;
        module.all_become(CURSED, "failed").await;
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_mail_waits_for_a_server_that_is_away() {
    on_both(notifications::SCHEMA, |db| async move {
        let sink = Sink::start(&[]).await;
        let url = sink.url();
        drop(sink);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut module = Module::open(
            db,
            Settings {
                smtp_url: Some(url.into()),
                max_refusals: 1,
                ..quick()
            },
        )
        .await;
        let user = Uuid::new_v4();
        module.welcome(user).await;
        module.run();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(module.list(user).await[0].status, "queued");
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn instances_share_the_work_and_send_nothing_twice() {
    on_both(notifications::SCHEMA, |db| async move {
        let sink = Sink::start(&[]).await;
        let mut module = Module::open(
            db.clone(),
            Settings {
                concurrency: 3,
                ..through(&sink)
            },
        )
        .await;
        let users: Vec<Uuid> = (0..30).map(|_| Uuid::new_v4()).collect();
        for user in &users {
            module.welcome(*user).await;
        }
        for _ in 0..3 {
            module.run();
        }
        for user in &users {
            module.all_become(*user, "sent").await;
        }
        let letters = sink.letters();
        let ids: HashSet<&str> = letters.iter().map(|letter| letter.header("Message-ID")).collect();
        assert_eq!((letters.len(), ids.len()), (30, 30));
        assert_eq!(published(&db).await.len(), 30);
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_mail_whose_sender_died_is_sent_by_another_after_its_lease() {
    on_both(notifications::SCHEMA, |db| async move {
        let sink = Sink::start(&[]).await;
        let settings = Settings {
            lease_ms: 400,
            ..through(&sink)
        };
        let module = Module::open(db.clone(), settings.clone()).await;
        let user = Uuid::new_v4();
        module.welcome(user).await;
        // Users never answer this instance, and it is ended in the middle of its claim.
        let mut dying = Module::open(
            db.clone(),
            Settings {
                users_timeout_ms: 60_000,
                ..settings
            },
        )
        .await;
        dying.users.never.store(true, std::sync::atomic::Ordering::SeqCst);
        dying.run();
        let asked = || async { dying.users.asked.load(std::sync::atomic::Ordering::SeqCst) > 0 };
        eventually("the mail is claimed", LIMIT, asked).await;
        dying.abort();

        let mut module = module;
        module.run();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(
            sink.letters().is_empty(),
            "a claimed mail is left to its sender while the lease lasts"
        );
        module.all_become(user, "sent").await;
        assert_eq!(sink.letters().len(), 1);
        module.stop().await;
    })
    .await;
}
