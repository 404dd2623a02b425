//! A mail server that takes everything, but for the replies a test wrote into its script.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What a client handed over, taken or not.
#[derive(Clone, Debug)]
pub struct Letter {
    pub from: String,
    pub to: String,
    /// Headers and body as they came over the wire, dot-stuffing undone.
    pub text: String,
    /// What the server said to it; empty if it hung up instead.
    pub reply: String,
}

impl Letter {
    /// A header's value; empty if absent.
    pub fn header(&self, name: &str) -> &str {
        let head = self.text.split("\r\n\r\n").next().unwrap_or_default();
        head.split("\r\n")
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .unwrap_or_default()
    }
}

/// What a client meets before it can hand anything over.
#[derive(Clone, Copy, Debug)]
pub enum Door {
    Open,
    /// This instead of the greeting.
    Greeting(&'static str),
    /// Passwords are asked for, and met with this.
    Password(&'static str),
    /// Passwords are asked for in a way that no client knows.
    UnknownMechanism,
    /// `MAIL FROM` is met with this.
    Sender(&'static str),
}

pub struct Sink {
    door: Arc<Mutex<Door>>,
    address: SocketAddr,
    letters: Arc<Mutex<Vec<Letter>>>,
    server: JoinHandle<()>,
}

impl Sink {
    /// Answers the first letters with these replies, one each (an empty one hangs up), and takes all others.
    pub async fn start(script: &[&str]) -> Self {
        Sink::behind(Door::Open, script).await
    }

    pub async fn behind(door: Door, script: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let script: Arc<Mutex<VecDeque<String>>> =
            Arc::new(Mutex::new(script.iter().map(|reply| (*reply).to_owned()).collect()));
        let letters: Arc<Mutex<Vec<Letter>>> = Arc::default();
        let (kept, door) = (letters.clone(), Arc::new(Mutex::new(door)));
        let at_door = door.clone();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, letters, door) = (script.clone(), kept.clone(), *at_door.lock().unwrap());
                tokio::spawn(async move {
                    // A client that hangs up in the middle is its own affair.
                    let _ = converse(stream, door, &script, &letters).await;
                });
            }
        });
        Sink {
            door,
            address,
            letters,
            server,
        }
    }

    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// For a server that wants to know who we are.
    pub fn url_with_password(&self) -> String {
        format!("smtp://shop:hush@{}", self.address)
    }

    /// Somebody has mended what kept us out.
    pub fn open(&self) {
        *self.door.lock().unwrap() = Door::Open;
    }

    pub fn letters(&self) -> Vec<Letter> {
        self.letters.lock().unwrap().clone()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn converse(
    stream: TcpStream,
    door: Door,
    script: &Mutex<VecDeque<String>>,
    letters: &Mutex<Vec<Letter>>,
) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    let (mut from, mut to) = (String::new(), String::new());
    let greeting = if let Door::Greeting(reply) = door {
        reply
    } else {
        "220 sink ready"
    };
    write.write_all(format!("{greeting}\r\n").as_bytes()).await?;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let verb = line.trim_end().to_ascii_uppercase();
        let reply = if verb.starts_with("EHLO") || verb.starts_with("HELO") {
            match door {
                Door::UnknownMechanism => "250-sink\r\n250-AUTH GSSAPI\r\n250 8BITMIME",
                _ => "250-sink\r\n250-AUTH PLAIN\r\n250 8BITMIME",
            }
        } else if verb.starts_with("AUTH") {
            if let Door::Password(reply) = door {
                reply
            } else {
                "235 welcome"
            }
        } else if verb.starts_with("MAIL FROM:") {
            from = inside(&line);
            if let Door::Sender(reply) = door {
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
            let reply = script
                .lock()
                .unwrap()
                .pop_front()
                .unwrap_or_else(|| "250 taken".to_owned());
            letters.lock().unwrap().push(Letter {
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
