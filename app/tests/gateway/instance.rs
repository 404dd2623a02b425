//! A fake instance of a module: it records the requests it receives, and handles connections as the test specifies.

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

/// What an instance does when it receives a request.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Writes this response and keeps the connection open.
    Respond(String),
    /// Writes this and then nothing, until the client disconnects.
    StartResponse(String),
    /// Writes the first text, and then the second at this interval, until the client disconnects.
    Heartbeat(String, String, Duration),
    /// Closes the connection without a response.
    CloseConnection,
    /// Writes nothing, until the client disconnects.
    Hang,
}

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    /// Request line and headers.
    pub head: String,
    pub body: String,
}

impl ReceivedRequest {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// The header's value; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        header(&self.head, name)
    }
}

/// The value of a header in a head; empty if it is absent.
pub fn header<'h>(head: &'h str, name: &str) -> &'h str {
    let mut pairs = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    pairs
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .unwrap_or_default()
}

/// A listening instance; it stops when this is dropped.
pub struct Instance {
    pub base: String,
    received: Arc<Mutex<Vec<ReceivedRequest>>>,
    probes: watch::Receiver<usize>,
    disconnects: watch::Receiver<usize>,
    accepting: JoinHandle<()>,
}

struct Shared {
    behaviour: Behaviour,
    received: Arc<Mutex<Vec<ReceivedRequest>>>,
    probes: watch::Sender<usize>,
    disconnects: watch::Sender<usize>,
}

impl Instance {
    pub async fn start(behaviour: Behaviour) -> Instance {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let ((disconnects, seen_disconnects), (probes, seen_probes)) = (watch::channel(0), watch::channel(0));
        let received = Arc::<Mutex<Vec<ReceivedRequest>>>::default();
        let shared = Arc::new(Shared {
            behaviour,
            received: received.clone(),
            probes,
            disconnects,
        });
        let accepting = tokio::spawn(async move {
            // Its connections end with it.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                let shared = shared.clone();
                connections.spawn(async move { serve(connection, &shared).await });
            }
        });
        Instance {
            base,
            received,
            probes: seen_probes,
            disconnects: seen_disconnects,
            accepting,
        }
    }

    /// An instance that responds 200 with this JSON.
    pub async fn responding(body: &str) -> Instance {
        Instance::start(Behaviour::Respond(ok(body))).await
    }

    /// The requests it received, without the probes.
    pub fn received(&self) -> Vec<ReceivedRequest> {
        self.received.lock().unwrap().clone()
    }

    /// The only request it received.
    #[track_caller]
    pub fn received_once(&self) -> ReceivedRequest {
        let received = self.received();
        assert_eq!(received.len(), 1, "{received:?}");
        received[0].clone()
    }

    /// Waits for the first health probe, and then stops: further connections are refused.
    pub async fn stop_after_first_probe(mut self) {
        self.probes.wait_for(|probes| *probes > 0).await.unwrap();
        self.accepting.abort();
        let address = self.base.trim_start_matches("http://");
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until a client disconnected before the response was complete.
    pub async fn wait_for_disconnect(&mut self) {
        let waiting = self.disconnects.wait_for(|disconnects| *disconnects > 0);
        tokio::time::timeout(Duration::from_secs(5), waiting)
            .await
            .expect("the client disconnects")
            .unwrap();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A 200 response with this JSON.
pub fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn serve(mut connection: TcpStream, shared: &Shared) {
    let mut buffer = Vec::new();
    while let Some(received) = read(&mut connection, &mut buffer).await {
        let is_probe = received.line().contains("/health/ready");
        let behaviour = if is_probe {
            Behaviour::Respond(ok("{}"))
        } else {
            shared.behaviour.clone()
        };
        if !is_probe {
            shared.received.lock().unwrap().push(received);
        }
        let (text, keeps_open) = match behaviour {
            Behaviour::Respond(text) => (text, true),
            Behaviour::StartResponse(text) => (text, false),
            Behaviour::Heartbeat(text, ..) => (text, false),
            Behaviour::Hang => (String::new(), false),
            Behaviour::CloseConnection => return,
        };
        if connection.write_all(text.as_bytes()).await.is_err() {
            return;
        }
        shared.probes.send_modify(|probes| *probes += usize::from(is_probe));
        if !keeps_open {
            match &shared.behaviour {
                Behaviour::Heartbeat(_, part, interval) if !is_probe => {
                    while connection.write_all(part.as_bytes()).await.is_ok() {
                        tokio::time::sleep(*interval).await;
                    }
                }
                _ => {
                    let mut rest = [0; 64];
                    while !matches!(connection.read(&mut rest).await, Ok(0) | Err(_)) {}
                }
            }
            shared.disconnects.send_modify(|disconnects| *disconnects += 1);
            return;
        }
    }
}

async fn read(connection: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<ReceivedRequest> {
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
    Some(ReceivedRequest { head, body })
}
