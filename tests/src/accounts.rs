//! Accounts whose life goes through mail, from the request to the log-in, with a mail server.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use reqwest::Method;
use serde_json::json;

use crate::harness::{Client, Shop, Stage, runtime};

#[path = "../../modules/notifications/tests/support/smtp.rs"]
#[allow(dead_code, reason = "the module's own tests use all of it")]
mod smtp;

use smtp::FakeMailServer;

const PASSWORD: &str = "correct horse battery";
const NEW_PASSWORD: &str = "another horse battery";
const LINK: &str = "https://shop.example/account/{kind}#token={token}";

pub fn trials() -> Vec<Trial> {
    let on_stage = |stage: Stage| {
        Trial::test(
            format!(
                "accounts[{}]::an_account_is_verified_recovered_and_moved_by_mail",
                stage.name()
            ),
            move || runtime().block_on(by_mail(stage)),
        )
    };
    [Stage::Sqlite, Stage::Postgres, Stage::Split]
        .into_iter()
        .map(on_stage)
        .collect()
}

async fn by_mail(stage: Stage) -> Result<(), Failed> {
    let server = FakeMailServer::start(&[]).await;
    let settings = [
        ("BANYAN__NOTIFICATIONS__SMTP_URL", server.url()),
        ("BANYAN__NOTIFICATIONS__ACCOUNT_LINK", LINK.to_owned()),
        ("BANYAN__USERS__VERIFY_EMAIL", "true".to_owned()),
    ];
    let shop = Shop::start_with(stage, &settings.each_ref().map(|(name, value)| (*name, value.as_str()))).await;
    let client = shop.client();
    let confirm = async |token: &str| {
        let body = json!({"token": token});
        client.post("/api/v1/users/email-confirmations", &body).await
    };

    let registration =
        json!({"email": "ada@shop.example", "password": PASSWORD, "name": "Buy at https://evil.example"});
    client.post("/api/v1/users", &registration).await.expect(202);
    log_in(&client, "ada@shop.example", PASSWORD)
        .await
        .expect_problem(403, "email_not_verified");
    let token = token(&server, "ada@shop.example", "email_verification").await;
    confirm(&token).await.expect(204);
    let ada = client.log_in_with("ada@shop.example", PASSWORD).await;

    let forgotten = json!({"email": "ada@shop.example"});
    client
        .post("/api/v1/users/password-reset-requests", &forgotten)
        .await
        .expect(202);
    let token = self::token(&server, "ada@shop.example", "password_reset").await;
    // A stolen session reads the user's notifications, and must not find a token in them.
    let listed = ada.get("/api/v1/notifications").await.expect(200).json().to_string();
    assert!(
        listed.contains("password_reset") && !listed.contains(&token) && !listed.contains("#token="),
        "{listed}"
    );
    let reset = json!({"token": token, "new_password": NEW_PASSWORD});
    client.post("/api/v1/users/password-resets", &reset).await.expect(204);
    client
        .post("/api/v1/users/password-resets", &reset)
        .await
        .expect_problem(422, "invalid_token");
    log_in(&client, "ada@shop.example", PASSWORD)
        .await
        .expect_problem(401, "invalid_credentials");
    let ada = client.log_in_with("ada@shop.example", NEW_PASSWORD).await;

    let change = json!({"email": "ada@other.example", "current_password": NEW_PASSWORD});
    ada.send(Method::PUT, "/api/v1/users/me/email", &[], Some(&change))
        .await
        .expect(202);
    let token = self::token(&server, "ada@other.example", "email_change").await;
    confirm(&token).await.expect(204);
    client.log_in_with("ada@other.example", NEW_PASSWORD).await;
    mail(&server, "ada@shop.example", "another email address").await;
    // An address that is known gets a mail, and the same response.
    let again = json!({"email": "ada@other.example", "password": PASSWORD, "name": "Ada"});
    client.post("/api/v1/users", &again).await.expect(202);
    mail(&server, "ada@other.example", "have an account already").await;
    for mail in server.mails().iter().filter(|mail| mail.to.starts_with("ada@")) {
        assert!(!mail.text.contains("evil.example"), "a stranger's text: {}", mail.text);
        assert!(!mail.header("Subject").contains("Welcome"), "{}", mail.text);
    }
    shop.remove().await;
    Ok(())
}

async fn log_in(client: &Client, email: &str, password: &str) -> crate::harness::Response {
    let credentials = json!({"email": email, "password": password});
    client.post("/api/v1/sessions", &credentials).await
}

/// The token in the link of a mail to this address.
async fn token(server: &FakeMailServer, to: &str, kind: &str) -> String {
    let link = format!("https://shop.example/account/{kind}#token=");
    let text = mail(server, to, &link).await;
    let token = text.split(&link).nth(1).and_then(|rest| rest.split_whitespace().next());
    token.expect("the link has a token").to_owned()
}

/// The decoded text of a mail to this address that contains `part`, once it has arrived.
async fn mail(server: &FakeMailServer, to: &str, part: &str) -> String {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let mails = server.mails();
        let texts = mails.iter().filter(|mail| mail.to == to).map(|mail| {
            // Quoted-printable.
            mail.text.replace("=\r\n", "").replace("=3D", "=")
        });
        if let Some(text) = texts.into_iter().find(|text| text.contains(part)) {
            return text;
        }
        assert!(
            tokio::time::Instant::now() < end,
            "no mail to {to} with {part} within 30 s: {mails:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
