//! An instance of a module as a test needs it: it remembers every byte it got, and does with the connection what it is told.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What it does when it is asked.
#[derive(Clone, Debug)]
pub enum Deed {
    /// Writes this and keeps the connection.
    Answer(String),
    /// Writes this and then nothing, until the other side is gone.
    Begin(String),
    /// Writes the first, and then the second again and again after so long, until the other side is gone.
    Drip(String, String, Duration),
    /// Closes the connection without a word.
    Break,
    /// Says nothing, until the other side is gone.
    Silence,
}

/// One request, as it came over the wire.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Request line and headers.
    pub head: String,
    pub body: String,
}

impl Heard {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// The header's value; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        header(&self.head, name)
    }
}

/// The value of a header in a head; empty if it is not there.
pub fn header<'h>(head: &'h str, name: &str) -> &'h str {
    let mut pairs = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    pairs
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .unwrap_or_default()
}

/// A listening instance; it is gone when this is dropped.
pub struct Instance {
    pub base: String,
    heard: Arc<Mutex<Vec<Heard>>>,
    probed: watch::Receiver<usize>,
    left: watch::Receiver<usize>,
    accepting: JoinHandle<()>,
}

struct Shared {
    deed: Deed,
    heard: Arc<Mutex<Vec<Heard>>>,
    probed: watch::Sender<usize>,
    left: watch::Sender<usize>,
}

impl Instance {
    pub async fn that(deed: Deed) -> Instance {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let ((left, leaving), (probed, probes)) = (watch::channel(0), watch::channel(0));
        let heard = Arc::<Mutex<Vec<Heard>>>::default();
        let shared = Arc::new(Shared {
            deed,
            heard: heard.clone(),
            probed,
            left,
        });
        let accepting = tokio::spawn(async move {
            // Its connections end with it.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                let shared = shared.clone();
                connections.spawn(async move { converse(connection, &shared).await });
            }
        });
        Instance {
            base,
            heard,
            probed: probes,
            left: leaving,
            accepting,
        }
    }

    /// One that answers 200 with this JSON.
    pub async fn answering(body: &str) -> Instance {
        Instance::that(Deed::Answer(ok(body))).await
    }

    /// What it was asked, without the probes.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// The only request it got.
    #[track_caller]
    pub fn heard_once(&self) -> Heard {
        let heard = self.heard();
        assert_eq!(heard.len(), 1, "{heard:?}");
        heard[0].clone()
    }

    /// Waits until it was asked whether it is well, and then is there no more: whoever comes is refused.
    pub async fn dies_after_its_first_probe(mut self) {
        self.probed.wait_for(|probed| *probed > 0).await.unwrap();
        self.accepting.abort();
        let address = self.base.trim_start_matches("http://");
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until whoever asked hung up before the answer had ended.
    pub async fn is_left(&mut self) {
        let waiting = self.left.wait_for(|left| *left > 0);
        tokio::time::timeout(Duration::from_secs(5), waiting)
            .await
            .expect("the asker hangs up")
            .unwrap();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// An answer with this JSON.
pub fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn converse(mut connection: TcpStream, shared: &Shared) {
    let mut buffer = Vec::new();
    while let Some(heard) = read(&mut connection, &mut buffer).await {
        let is_probe = heard.line().contains("/health/ready");
        let deed = if is_probe {
            Deed::Answer(ok("{}"))
        } else {
            shared.deed.clone()
        };
        if !is_probe {
            shared.heard.lock().unwrap().push(heard);
        }
        let (text, stays) = match deed {
            Deed::Answer(text) => (text, true),
            Deed::Begin(text) => (text, false),
            Deed::Drip(text, ..) => (text, false),
            Deed::Silence => (String::new(), false),
            Deed::Break => return,
        };
        if connection.write_all(text.as_bytes()).await.is_err() {
            return;
        }
        shared.probed.send_modify(|probed| *probed += usize::from(is_probe));
        if !stays {
            match &shared.deed {
                Deed::Drip(_, drop, every) if !is_probe => {
                    while connection.write_all(drop.as_bytes()).await.is_ok() {
                        tokio::time::sleep(*every).await;
                    }
                }
                _ => {
                    let mut rest = [0; 64];
                    while !matches!(connection.read(&mut rest).await, Ok(0) | Err(_)) {}
                }
            }
            shared.left.send_modify(|left| *left += 1);
            return;
        }
    }
}

async fn read(connection: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Heard> {
    let head = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..end + 4).collect();
            break String::from_utf8(head).unwrap();
        }
        if connection.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let length = header(&head, "content-length").parse().unwrap_or(0);
    while buffer.len() < length {
        if connection.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8(buffer.drain(..length).collect()).unwrap();
    Some(Heard { head, body })
}
