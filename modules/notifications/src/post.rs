//! Hands mails to the mail server, or keeps them where there is none.

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
    notification::{Attempt, Claimed, Failure},
    settings::Settings,
};

/// Where mails go.
pub struct Post {
    from: Mailbox,
    server: Option<AsyncSmtpTransport<Tokio1Executor>>,
    timeout: Duration,
}

/// Whom a mail is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    pub name: String,
    pub address: String,
}

impl Post {
    /// # Errors
    /// If the mail server's URL or the sender's address cannot be read. The server itself is not asked before there is a mail.
    pub fn open(settings: &Settings) -> anyhow::Result<Self> {
        let from = settings
            .from
            .parse()
            .with_context(|| format!("`from` is no mail address: {}", settings.from))?;
        let timeout = settings.send_timeout();
        let server = match &settings.smtp_url {
            None => None,
            Some(url) => {
                // The URL holds a password, so it is not part of the message.
                let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose_secret())
                    .context("`smtp_url` is none: it reads like smtps://user:password@host:465")?;
                Some(builder.timeout(Some(timeout)).build())
            }
        };
        Ok(Post { from, server, timeout })
    }

    /// One attempt. Every attempt of a mail carries the same Message-ID and Date, so that servers and readers can tell a repeat.
    pub async fn send(&self, mail: &Claimed, recipient: &Recipient) -> Attempt {
        let message = match self.write(mail, recipient) {
            Ok(message) => message,
            Err(error) => {
                return Attempt::Hopeless {
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
                Err(error) => attempt_of(server, &error).await,
            }
        };
        tokio::time::timeout(self.timeout, sending).await.unwrap_or_else(|_| {
            let said = format!("the mail server took longer than {} ms", self.timeout.as_millis());
            Attempt::Unanswered {
                error: Failure::new("timeout", said),
            }
        })
    }

    fn write(&self, mail: &Claimed, recipient: &Recipient) -> anyhow::Result<Message> {
        // A name is one line. lettre panics on a line end in it, which at least brings no headers along.
        let name = recipient.name.replace(char::is_control, " ");
        let name = Some(name).filter(|name| !name.trim().is_empty());
        let address = recipient
            .address
            .parse()
            .context("the user's mail address cannot be read")?;
        let created_at = SystemTime::UNIX_EPOCH + Duration::from_millis(mail.created_at.as_ms().unsigned_abs());
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(name, address))
            .subject(mail.subject.as_str())
            .date(created_at)
            .message_id(Some(format!("<{}@{}>", mail.id, self.from.email.domain())))
            // RFC 3834: nobody's out-of-office assistant answers this.
            .raw_header(HeaderValue::new(
                HeaderName::new_from_ascii_str("Auto-Submitted"),
                "auto-generated".to_owned(),
            ))
            .header(ContentType::TEXT_PLAIN)
            .body(mail.body.clone());
        message.context("the mail cannot be written")
    }
}

/// Only a reply that says "no, for good" (5yz) to the mail itself is a refusal. A "not now" (4yz), a connection that was not made or broke off, or
/// silence leave the outcome open; and so does a server that refuses us whatever the mail: a wrong password, no encryption or none it takes, our
/// address on its list. That is for an operator to mend, and no mail is given up for it.
async fn attempt_of(server: &AsyncSmtpTransport<Tokio1Executor>, error: &smtp::Error) -> Attempt {
    let code = error.status().filter(|_| error.is_permanent()).map(u16::from);
    let failure = Failure::new(
        &error
            .status()
            .map_or_else(|| kind_of(error).to_owned(), |code| code.to_string()),
        error.to_string(),
    );
    // Some codes, 554 above all, are said at the greeting as well as to a mail. A server that lets us in otherwise meant the mail.
    let means_the_mail = code.is_some_and(is_said_to_mails) && server.test_connection().await.is_ok();
    if means_the_mail {
        Attempt::Refused { error: failure }
    } else {
        Attempt::Unanswered { error: failure }
    }
}

/// Whether this 5yz can be about a mail: not about a command (RFC 5321, 4.2.2), a host that takes no mail at all (RFC 7504), or who we are (RFC
/// 4954).
fn is_said_to_mails(code: u16) -> bool {
    !matches!(code, 500 | 502..=504 | 521 | 530 | 534 | 535 | 538)
}

/// What went wrong where there was no reply.
fn kind_of(error: &smtp::Error) -> &'static str {
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

    fn settings(from: &str, url: Option<&str>) -> Settings {
        Settings {
            from: from.to_owned(),
            smtp_url: url.map(|url| url.to_owned().into()),
            ..Settings::default()
        }
    }

    fn mail() -> Claimed {
        Claimed {
            id: Uuid::from_u128(7),
            user_id: Uuid::from_u128(2),
            kind: Kind::Welcome,
            subject: "Grüße".into(),
            body: "Hallo Zoë,\n.\nschön.\n".into(),
            attempts: 1,
            refusals: 0,
            token: 1,
            created_at: Timestamp::from_ms(1_732_188_000_042),
            traceparent: None,
        }
    }

    fn written(recipient: &Recipient) -> String {
        let post = Post::open(&settings("Banyan <shop@banyan.example>", None)).unwrap();
        String::from_utf8(post.write(&mail(), recipient).unwrap().formatted()).unwrap()
    }

    #[test]
    fn a_mail_is_the_same_whenever_it_is_written() {
        let zoe = Recipient {
            name: "Zoë".into(),
            address: "zoe@example.com".into(),
        };
        let text = written(&zoe);
        assert_eq!(text, written(&zoe));
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

    #[test]
    fn a_name_cannot_bring_headers_along() {
        let mallory = Recipient {
            name: "Mallory\r\nBcc: everybody@example.com".into(),
            address: "mallory@example.com".into(),
        };
        let text = written(&mallory);
        assert!(
            !text.contains("\nBcc:") && text.contains("mallory@example.com"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_hopeless() {
        let post = Post::open(&settings("shop@banyan.example", None)).unwrap();
        for address in ["", "nobody", "a@b\r\nRCPT TO:<c@d>"] {
            let attempt = post
                .send(
                    &mail(),
                    &Recipient {
                        name: String::new(),
                        address: address.into(),
                    },
                )
                .await;
            assert!(matches!(attempt, Attempt::Hopeless { .. }), "{address:?}: {attempt:?}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused_at_start_without_telling_the_password() {
        assert!(Post::open(&settings("nobody", None)).is_err());
        let Err(error) = Post::open(&settings("shop@banyan.example", Some("http://me:hush@example.com"))) else {
            panic!("taken")
        };
        assert!(
            format!("{error:?}").contains("smtp_url") && !format!("{error:?}").contains("hush"),
            "{error:?}"
        );
    }
}
