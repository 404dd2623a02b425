//! Mails about accounts, whose tokens are in the mail that is sent and nowhere else.

mod support;

use banyan_durable::Db;
use banyan_durable_testing::on_both;
use notifications::Settings;
use sea_orm::{ConnectionTrait, Statement};
use support::{Module, NOBODY, quick, smtp::FakeMailServer};
use uuid::Uuid;

const LINK: &str = "https://shop.example/account/{kind}#token={token}";

fn over(server: &FakeMailServer, link: Option<&str>) -> Settings {
    Settings {
        smtp_url: Some(server.url().into()),
        account_link: link.map(str::to_owned),
        ..quick()
    }
}

/// Every text of the module's tables.
async fn stored(db: &Db) -> String {
    let mut all = String::new();
    for (table, columns) in [
        (
            "notification",
            "subject || body || coalesce(last_error, '') || coalesce(recipient, '')",
        ),
        ("outbox", "body"),
    ] {
        let statement = Statement::from_string(db.backend(), format!("select {columns} as text from {table}"));
        for row in db.read().query_all_raw(statement).await.expect("the table") {
            all.push_str(&row.try_get::<String>("", "text").expect("a text"));
        }
    }
    all
}

#[tokio::test]
async fn a_token_is_in_the_mail_that_is_sent_and_nowhere_else() {
    on_both(notifications::SCHEMA, |db| async move {
        let server = FakeMailServer::start(&["451 busy"]).await;
        let mut module = Module::open(db.clone(), over(&server, None)).await;
        let user = Uuid::new_v4();
        module.account_mail(user, "password_reset", Uuid::new_v4()).await;
        module.run();
        module.all_become(user, "sent").await;
        let mails = server.mails();
        let [first, second] = &mails[..] else {
            panic!("{mails:?}")
        };
        assert_eq!(first.to, "new@example.com", "users says where it goes");
        // An attempt whose mail may have arrived is followed by one with a token of its own, under the same Message-ID.
        assert!(first.text.contains("\r\n\r\ntoken-1\r\n\r\n"), "{}", first.text);
        assert!(second.text.contains("\r\n\r\ntoken-2\r\n\r\n"), "{}", second.text);
        assert_eq!(first.header("Message-ID"), second.header("Message-ID"));
        let listed = &module.list(user).await[0];
        assert_eq!(
            (listed.kind.as_str(), listed.subject.as_str()),
            ("password_reset", "Choose a new password")
        );
        let stored = stored(&db).await;
        assert!(
            stored.contains("(shown in the mail alone)") && !stored.contains("token-"),
            "{stored}"
        );
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_captured_mail_shows_its_user_no_token() {
    on_both(notifications::SCHEMA, |db| async move {
        let mut module = Module::open(db.clone(), quick()).await;
        let user = Uuid::new_v4();
        module.account_mail(user, "password_reset", Uuid::new_v4()).await;
        module.run();
        module.all_become(user, "captured").await;
        let stored = stored(&db).await;
        assert!(
            stored.contains("(shown in the mail alone)") && !stored.contains("token-"),
            "{stored}"
        );
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_mail_links_to_the_page_of_the_shop() {
    on_both(notifications::SCHEMA, |db| async move {
        let server = FakeMailServer::start(&[]).await;
        let mut module = Module::open(db, over(&server, Some(LINK))).await;
        let user = Uuid::new_v4();
        module.account_mail(user, "email_change", Uuid::new_v4()).await;
        module.run();
        module.all_become(user, "sent").await;
        let mail = &server.mails()[0];
        // Quoted-printable, which mail clients decode.
        let text = mail.text.replace("=\r\n", "").replace("=3D", "=");
        let link = "\r\n\r\nhttps://shop.example/account/email_change#token=token-1\r\n\r\n";
        assert!(text.contains(link), "{text}");
        assert_eq!(mail.header("Subject"), "Confirm your new email address");
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_mail_whose_token_has_ended_is_not_sent() {
    on_both(notifications::SCHEMA, |db| async move {
        let server = FakeMailServer::start(&[]).await;
        let mut module = Module::open(db, over(&server, None)).await;
        let user = Uuid::new_v4();
        module.account_mail(user, "email_verification", NOBODY).await;
        module.run();
        module.all_become(user, "failed").await;
        assert!(server.mails().is_empty());
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_link_without_a_place_for_the_token_does_not_start() {
    let home = banyan_durable_testing::SqliteHome::new();
    let db = banyan_durable_testing::open(
        notifications::SCHEMA,
        &home.storage("notifications"),
        banyan_durable_testing::settings(),
    )
    .await;
    for link in [
        "https://shop.example/reset",
        "/reset#{token}",
        "https://shop.example/a b#{token}",
    ] {
        let needs = support::needs(
            db.clone(),
            Settings {
                account_link: Some(link.to_owned()),
                ..quick()
            },
        );
        let refused = notifications::start(needs).await.err().expect("refused").to_string();
        assert!(
            refused.contains("notifications.account_link") && refused.contains("{token}"),
            "{refused}"
        );
    }
}
