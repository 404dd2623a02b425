//! Mails over real SMTP sessions, on both databases.

mod support;

use std::{collections::HashSet, time::Duration};

use banyan_durable::Db;
use banyan_durable_testing::{eventually, on_both, published};
use notifications::Settings;
use notifications_contract::MailSent;
use sea_orm::{FromQueryResult, Statement};
use support::{
    LIMIT, Module, PANICS, quick,
    smtp::{Access, FakeMailServer},
};
use uuid::Uuid;

fn over(server: &FakeMailServer) -> Settings {
    Settings {
        smtp_url: Some(server.url().into()),
        ..quick()
    }
}

#[tokio::test]
async fn a_mail_arrives_complete_and_mail_sent_is_published() {
    on_both(notifications::SCHEMA, |db| async move {
        let server = FakeMailServer::start(&[]).await;
        let mut module = Module::open(db.clone(), over(&server)).await;
        let user = Uuid::new_v4();
        module.welcome(user).await;
        module.run();
        module.all_become(user, "sent").await;
        let id = module.list(user).await[0].id.clone();
        let mails = server.mails();
        let [mail] = &mails[..] else { panic!("{mails:?}") };
        assert_eq!(
            (mail.from.as_str(), mail.to.as_str()),
            ("shop@banyan.example", format!("{user}@example.com").as_str())
        );
        assert_eq!(mail.header("From"), "Banyan <shop@banyan.example>");
        assert_eq!(mail.header("To"), format!("{user}@example.com"));
        assert_eq!(mail.header("Subject"), "Welcome to Banyan");
        assert_eq!(mail.header("Message-ID"), format!("<{id}@banyan.example>"));
        assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
        assert_eq!(mail.header("Content-Type"), "text/plain; charset=utf-8");
        assert!(!mail.header("Date").is_empty());
        assert!(mail.text.contains("\r\n\r\nHello,\r\n"), "{}", mail.text);
        // The name is the text of whoever registered, perhaps with the address of somebody else.
        assert!(!mail.text.contains("Ada"), "{}", mail.text);

        let events = published(&db).await;
        let [sent] = &events[..] else { panic!("{events:?}") };
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
        let server = FakeMailServer::start(&["451 busy", "", "550 no", "421 going down"]).await;
        let mut module = Module::open(db.clone(), over(&server)).await;
        let user = Uuid::new_v4();
        module.welcome(user).await;
        module.run();
        module.all_become(user, "sent").await;
        let mails = server.mails();
        assert_eq!(
            mails.iter().map(|mail| mail.reply.as_str()).collect::<Vec<_>>(),
            ["451 busy", "", "550 no", "421 going down", "250 accepted"]
        );
        let texts: HashSet<&str> = mails.iter().map(|mail| mail.text.as_str()).collect();
        assert_eq!(texts.len(), 1, "every attempt is the same mail: {texts:?}");
        assert_eq!(published(&db).await.len(), 1);
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_mail_refused_repeatedly_is_given_up_and_blocks_no_other() {
    on_both(notifications::SCHEMA, |db| async move {
        let server = FakeMailServer::start(&["550 no", "550 no", "550 no such mailbox"]).await;
        let mut settings = over(&server);
        settings.timing.max_refusals = 3;
        let mut module = Module::open(db.clone(), settings).await;
        let (refused, other) = (Uuid::new_v4(), Uuid::new_v4());
        module.welcome(refused).await;
        module.run();
        module.all_become(refused, "failed").await;
        module.welcome(other).await;
        module.all_become(other, "sent").await;
        assert_eq!(server.mails().len(), 4);
        assert_eq!(published(&db).await.len(), 1);
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn no_mail_is_given_up_while_the_server_refuses_the_client() {
    on_both(notifications::SCHEMA, |db| async move {
        for door in [
            Access::Password("535 5.7.8 wrong password"),
            Access::Password("534 5.7.9 too weak"),
            Access::Password("538 encrypt first"),
            Access::UnknownMechanism,
            Access::Greeting("554 5.7.1 your address is on a list"),
            Access::Greeting("521 no mail here"),
            Access::Sender("530 5.7.0 log in first"),
        ] {
            let server = FakeMailServer::with_access(door, &[]).await;
            let mut settings = quick();
            settings.smtp_url = Some(server.url_with_password().into());
            settings.timing.max_refusals = 2;
            let mut module = Module::open(db.clone(), settings).await;
            let user = Uuid::new_v4();
            module.welcome(user).await;
            module.run();
            let tried = || async { attempts_of_queued_mail(&db).await >= 4 };
            eventually("it is retried", LIMIT, tried).await;
            assert_eq!(module.list(user).await[0].status, "queued", "{door:?}");
            // An attempt that is refused now, while the connection test after it succeeds, may count as one refusal.
            server.allow_access();
            module.all_become(user, "sent").await;
            module.stop().await;
        }
    })
    .await;
}

/// The number of attempts of the queued mail.
async fn attempts_of_queued_mail(db: &Db) -> i64 {
    #[derive(FromQueryResult)]
    struct Row {
        attempts: i64,
    }
    let sql = "select attempts from notification where status = 'queued'";
    let query = Row::find_by_statement(Statement::from_string(db.backend(), sql));
    query.one(db.read()).await.unwrap().map_or(0, |row| row.attempts)
}

#[tokio::test]
async fn a_mail_whose_sender_or_recipient_is_refused_is_given_up() {
    on_both(notifications::SCHEMA, |db| async move {
        for reply in [
            "550 no such mailbox",
            "553 not a name",
            "554 no",
            "555 no such parameter",
        ] {
            let server = FakeMailServer::with_access(Access::Sender(reply), &[]).await;
            let mut settings = over(&server);
            settings.timing.max_refusals = 2;
            let mut module = Module::open(db.clone(), settings).await;
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
async fn a_mail_that_panics_is_given_up_and_blocks_no_other() {
    on_both(notifications::SCHEMA, |db| async move {
        let server = FakeMailServer::start(&[]).await;
        let mut settings = over(&server);
        settings.timing.max_refusals = 2;
        let mut module = Module::open(db, settings).await;
        let user = Uuid::new_v4();
        for user in [PANICS, user] {
            module.welcome(user).await;
        }
        module.run();
        module.all_become(user, "sent").await;
        module.all_become(PANICS, "failed").await;
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_mail_waits_for_an_unreachable_server() {
    on_both(notifications::SCHEMA, |db| async move {
        let server = FakeMailServer::start(&[]).await;
        let url = server.url();
        drop(server);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut settings = quick();
        settings.smtp_url = Some(url.into());
        settings.timing.max_refusals = 1;
        let mut module = Module::open(db, settings).await;
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
async fn instances_share_the_work_and_send_no_mail_twice() {
    on_both(notifications::SCHEMA, |db| async move {
        let server = FakeMailServer::start(&[]).await;
        let mut module = Module::open(
            db.clone(),
            Settings {
                concurrency: 3,
                ..over(&server)
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
        let mails = server.mails();
        let ids: HashSet<&str> = mails.iter().map(|mail| mail.header("Message-ID")).collect();
        assert_eq!((mails.len(), ids.len()), (30, 30));
        assert_eq!(published(&db).await.len(), 30);
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_mail_whose_sender_died_is_sent_by_another_after_its_lease() {
    on_both(notifications::SCHEMA, |db| async move {
        let server = FakeMailServer::start(&[]).await;
        let mut settings = over(&server);
        settings.timing.lease = Duration::from_millis(400);
        let module = Module::open(db.clone(), settings.clone()).await;
        let user = Uuid::new_v4();
        module.welcome(user).await;
        // Calls of this instance to users never return, and it is aborted while it has the claim.
        settings.timing.users_timeout = Duration::from_secs(60);
        let mut dying = Module::open(db.clone(), settings).await;
        dying.users.hangs.store(true, std::sync::atomic::Ordering::SeqCst);
        dying.run();
        let looked_up = || async { dying.users.calls.load(std::sync::atomic::Ordering::SeqCst) > 0 };
        eventually("the mail is claimed", LIMIT, looked_up).await;
        dying.abort();

        let mut module = module;
        module.run();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(
            server.mails().is_empty(),
            "a claimed mail is not sent by another instance while the lease lasts"
        );
        module.all_become(user, "sent").await;
        assert_eq!(server.mails().len(), 1);
        module.stop().await;
    })
    .await;
}
