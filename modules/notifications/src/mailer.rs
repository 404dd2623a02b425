//! Sends mails over SMTP, or captures them where no mail server is configured.

use std::time::{Duration, SystemTime};

use anyhow::Context;
use banyan_core::outside_transaction;
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox,
        header::{ContentType, HeaderName, HeaderValue},
    },
    transport::smtp,
};
use secrecy::ExposeSecret;

use crate::{
    notification::{Attempt, DueMail, Failure, SECRET},
    settings::Settings,
};

pub struct Mailer {
    from: Mailbox,
    server: Option<AsyncSmtpTransport<Tokio1Executor>>,
    timeout: Duration,
}

/// The user a mail is sent to. Without the name: whoever registers chooses it, and may register the address of somebody else, who would read it.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient {
    pub address: String,
    /// What the text of a mail about the account shows at [`SECRET`]: a token, or a link with it.
    pub secret: Option<String>,
}

impl Mailer {
    /// # Errors
    /// If the mail server's URL or the sender's address is invalid. The server is first contacted when there is a mail to send.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let from = settings
            .from
            .parse()
            .with_context(|| format!("`from` is not an email address: {}", settings.from))?;
        let timeout = settings.timing.send_timeout;
        let server = match &settings.smtp_url {
            None => None,
            Some(url) => {
                // The URL contains a password, so it is not part of the message.
                let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose_secret())
                    .context("`smtp_url` is not a valid URL; expected smtps://user:password@host:465")?;
                Some(builder.timeout(Some(timeout)).build())
            }
        };
        Ok(Mailer { from, server, timeout })
    }

    /// Whether mails are sent: without a mail server they are only captured.
    pub fn sends(&self) -> bool {
        self.server.is_some()
    }

    /// Makes one attempt. Every attempt of a mail has the same Message-ID and Date, so that servers and mail clients recognise a duplicate.
    pub async fn send(&self, mail: &DueMail, recipient: &Recipient) -> Attempt {
        let message = match self.compose(mail, recipient) {
            Ok(message) => message,
            Err(error) => {
                return Attempt::Undeliverable {
                    error: Failure::new("unwritable", format!("{error:#}")),
                };
            }
        };
        let to = recipient.address.clone();
        let Some(server) = &self.server else {
            return Attempt::Captured { to };
        };
        if let Err(fault) = outside_transaction("the mail server") {
            return Attempt::Refused { error: fault.into() };
        }
        let sending = async {
            match server.send(message).await {
                Ok(_) => Attempt::Sent { to },
                Err(error) => classify(server, &error).await,
            }
        };
        tokio::time::timeout(self.timeout, sending).await.unwrap_or_else(|_| {
            let detail = format!("the mail server took longer than {} ms", self.timeout.as_millis());
            Attempt::Unknown {
                error: Failure::new("timeout", detail),
            }
        })
    }

    fn compose(&self, mail: &DueMail, recipient: &Recipient) -> anyhow::Result<Message> {
        let address = recipient
            .address
            .parse()
            .context("the user's email address is invalid")?;
        let created_at = SystemTime::UNIX_EPOCH + Duration::from_millis(mail.created_at.as_ms().unsigned_abs());
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, address))
            .subject(mail.subject.as_str())
            .date(created_at)
            .message_id(Some(format!("<{}@{}>", mail.id, self.from.email.domain())))
            // RFC 3834: out-of-office assistants do not reply to this.
            .raw_header(HeaderValue::new(
                HeaderName::new_from_ascii_str("Auto-Submitted"),
                "auto-generated".to_owned(),
            ))
            .header(ContentType::TEXT_PLAIN)
            .body(match &recipient.secret {
                Some(secret) => mail.body.replace(SECRET, secret),
                None => mail.body.clone(),
            });
        message.context("the mail cannot be composed")
    }
}

/// Only a permanent failure (5yz) that is about the mail itself is a refusal. After a transient failure (4yz), a failed or broken connection, or a
/// timeout the outcome is unknown. The same holds for a server that refuses this client whatever the mail: wrong password, missing encryption,
/// blocked address. An operator has to fix that, and no mail is given up for it.
async fn classify(server: &AsyncSmtpTransport<Tokio1Executor>, error: &smtp::Error) -> Attempt {
    let code = error.status().filter(|_| error.is_permanent()).map(u16::from);
    let failure = Failure::new(
        &error
            .status()
            .map_or_else(|| failure_code(error).to_owned(), |code| code.to_string()),
        error.to_string(),
    );
    // Some codes, 554 above all, reject a connection as well as a mail. If the server accepts a connection now, it rejected the mail.
    let about_the_mail = code.is_some_and(can_be_about_a_mail) && server.test_connection().await.is_ok();
    if about_the_mail {
        Attempt::Refused { error: failure }
    } else {
        Attempt::Unknown { error: failure }
    }
}

/// Whether this 5yz can be about a mail: not about a command (RFC 5321, 4.2.2), a host that accepts no mail (RFC 7504), or authentication (RFC
/// 4954).
fn can_be_about_a_mail(code: u16) -> bool {
    !matches!(code, 500 | 502..=504 | 521 | 530 | 534 | 535 | 538)
}

/// The code of a failure without a reply of the server.
fn failure_code(error: &smtp::Error) -> &'static str {
    match error {
        _ if error.is_timeout() => "timeout",
        _ if error.is_tls() => "tls",
        _ if error.is_client() => "not_possible_there",
        _ if error.is_response() => "unreadable_reply",
        _ => "no_connection",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::Kind;
    use banyan_core::Timestamp;
    use uuid::Uuid;

    fn default_settings() -> Settings {
        banyan_durable_testing::default_settings(include_str!("../config/default.toml"), "notifications")
    }

    fn settings(from: &str, url: Option<&str>) -> Settings {
        Settings {
            from: from.to_owned(),
            smtp_url: url.map(|url| url.to_owned().into()),
            ..default_settings()
        }
    }

    fn mail() -> DueMail {
        DueMail {
            id: Uuid::from_u128(7),
            user_id: Uuid::from_u128(2),
            kind: Kind::Welcome,
            subject: "Grüße".into(),
            body: "Hallo Zoë,\n.\nschön.\n".into(),
            account_mail: None,
            attempts: 1,
            refusals: 0,
            token: 1,
            created_at: Timestamp::from_ms(1_732_188_000_042),
            traceparent: None,
        }
    }

    fn composed(recipient: &Recipient) -> String {
        let mailer = Mailer::new(&settings("Banyan <shop@banyan.example>", None)).unwrap();
        String::from_utf8(mailer.compose(&mail(), recipient).unwrap().formatted()).unwrap()
    }

    #[test]
    fn a_mail_is_the_same_at_every_attempt() {
        let zoe = Recipient {
            address: "zoe@example.com".into(),
            secret: None,
        };
        let text = composed(&zoe);
        assert_eq!(text, composed(&zoe));
        for line in [
            "From: Banyan <shop@banyan.example>\r\n",
            "Message-ID: <00000000-0000-0000-0000-000000000007@banyan.example>\r\n",
            "Date: Thu, 21 Nov 2024 11:20:00 +0000\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "Content-Type: text/plain; charset=utf-8\r\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[tokio::test]
    async fn a_mail_to_an_invalid_address_is_undeliverable() {
        let mailer = Mailer::new(&settings("shop@banyan.example", None)).unwrap();
        for address in ["", "nobody", "a@b\r\nRCPT TO:<c@d>"] {
            let attempt = mailer
                .send(
                    &mail(),
                    &Recipient {
                        address: address.into(),
                        secret: None,
                    },
                )
                .await;
            assert!(
                matches!(attempt, Attempt::Undeliverable { .. }),
                "{address:?}: {attempt:?}"
            );
        }
    }

    #[test]
    fn invalid_settings_are_refused_at_start_without_showing_the_password() {
        assert!(Mailer::new(&settings("nobody", None)).is_err());
        let Err(error) = Mailer::new(&settings("shop@banyan.example", Some("http://me:hush@example.com"))) else {
            panic!("accepted")
        };
        assert!(
            format!("{error:?}").contains("smtp_url") && !format!("{error:?}").contains("hush"),
            "{error:?}"
        );
    }
}
