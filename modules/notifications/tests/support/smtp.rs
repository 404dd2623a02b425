//! A fake mail server that accepts all mails, except where the script of a test has another reply.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A mail sent by the client, accepted or not.
#[derive(Clone, Debug)]
pub struct ReceivedMail {
    pub from: String,
    pub to: String,
    /// Headers and body as received, with dot-stuffing undone.
    pub text: String,
    /// The reply of the server; empty if it closed the connection instead.
    pub reply: String,
}

impl ReceivedMail {
    /// A header's value; empty if absent.
    pub fn header(&self, name: &str) -> &str {
        let head = self.text.split("\r\n\r\n").next().unwrap_or_default();
        head.split("\r\n")
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .unwrap_or_default()
    }
}

/// What the server does before a client can send a mail.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    Open,
    /// Replies with this instead of the greeting.
    Greeting(&'static str),
    /// Requires a password and replies to it with this.
    Password(&'static str),
    /// Requires authentication by a mechanism that no client supports.
    UnknownMechanism,
    /// Replies to `MAIL FROM` with this.
    Sender(&'static str),
}

pub struct FakeMailServer {
    access: Arc<Mutex<Access>>,
    address: SocketAddr,
    mails: Arc<Mutex<Vec<ReceivedMail>>>,
    server: JoinHandle<()>,
}

impl FakeMailServer {
    /// Replies to the first mails with these, one each (an empty one closes the connection), and accepts all others.
    pub async fn start(script: &[&str]) -> Self {
        FakeMailServer::with_access(Access::Open, script).await
    }

    pub async fn with_access(access: Access, script: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let script: Arc<Mutex<VecDeque<String>>> =
            Arc::new(Mutex::new(script.iter().map(|reply| (*reply).to_owned()).collect()));
        let mails: Arc<Mutex<Vec<ReceivedMail>>> = Arc::default();
        let (received, access) = (mails.clone(), Arc::new(Mutex::new(access)));
        let current_access = access.clone();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, mails, access) = (script.clone(), received.clone(), *current_access.lock());
                tokio::spawn(async move {
                    // A client may disconnect at any time.
                    let _ = converse(stream, access, &script, &mails).await;
                });
            }
        });
        FakeMailServer {
            access,
            address,
            mails,
            server,
        }
    }

    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// With a user and a password, for a server that requires authentication.
    pub fn url_with_password(&self) -> String {
        format!("smtp://shop:hush@{}", self.address)
    }

    /// From now on all clients have access.
    pub fn allow_access(&self) {
        *self.access.lock() = Access::Open;
    }

    pub fn mails(&self) -> Vec<ReceivedMail> {
        self.mails.lock().clone()
    }
}

impl Drop for FakeMailServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn converse(
    stream: TcpStream,
    access: Access,
    script: &Mutex<VecDeque<String>>,
    mails: &Mutex<Vec<ReceivedMail>>,
) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    let (mut from, mut to) = (String::new(), String::new());
    let greeting = if let Access::Greeting(reply) = access {
        reply
    } else {
        "220 fake ready"
    };
    write.write_all(format!("{greeting}\r\n").as_bytes()).await?;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let verb = line.trim_end().to_ascii_uppercase();
        let reply = if verb.starts_with("EHLO") || verb.starts_with("HELO") {
            match access {
                Access::UnknownMechanism => "250-fake\r\n250-AUTH GSSAPI\r\n250 8BITMIME",
                _ => "250-fake\r\n250-AUTH PLAIN\r\n250 8BITMIME",
            }
        } else if verb.starts_with("AUTH") {
            if let Access::Password(reply) = access {
                reply
            } else {
                "235 welcome"
            }
        } else if verb.starts_with("MAIL FROM:") {
            from = inside(&line);
            if let Access::Sender(reply) = access {
                reply
            } else {
                "250 ok"
            }
        } else if verb.starts_with("RCPT TO:") {
            to = inside(&line);
            "250 ok"
        } else if verb == "DATA" {
            write.write_all(b"354 go on\r\n").await?;
            let text = read_data(&mut lines).await?;
            let reply = script.lock().pop_front().unwrap_or_else(|| "250 accepted".to_owned());
            mails.lock().push(ReceivedMail {
                from: from.clone(),
                to: to.clone(),
                text,
                reply: reply.clone(),
            });
            if reply.is_empty() {
                return Ok(());
            }
            write.write_all(format!("{reply}\r\n").as_bytes()).await?;
            continue;
        } else if verb == "NOOP" {
            "250 ok"
        } else if verb == "QUIT" {
            write.write_all(b"221 bye\r\n").await?;
            return Ok(());
        } else {
            "500 what?"
        };
        write.write_all(format!("{reply}\r\n").as_bytes()).await?;
    }
}

/// The address between the angle brackets.
fn inside(line: &str) -> String {
    let inner = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inner.map(|(address, _)| address.to_owned()).unwrap_or_default()
}

async fn read_data(lines: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line == ".\r\n" {
            return Ok(text);
        }
        text.push_str(line.strip_prefix('.').unwrap_or(&line));
    }
}
