//! Counts the statements that reach PostgreSQL: a proxy that reads its protocol.
//!
//! Counts are exact and do not depend on the machine, so a test can hold a command to them; a delay shows what a distance to the server does.
//! The protocol: <https://www.postgresql.org/docs/current/protocol-message-formats.html>.

use std::{collections::HashMap, sync::Arc, time::Duration};

use banyan_durable::Storage;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    task::JoinSet,
};

/// What passed through a proxy before a PostgreSQL server. The proxy ends when this is dropped.
pub struct StatementLog {
    statements: Arc<Mutex<Vec<String>>>,
    _proxy: JoinSet<()>,
}

impl StatementLog {
    /// A proxy before this storage's server, and the same storage through it. Whatever a client sends is forwarded `delay` later.
    ///
    /// # Panics
    /// For SQLite, which is not reached through a network; if no port is free.
    pub async fn before(storage: &Storage, delay: Duration) -> (StatementLog, Storage) {
        let Storage::Postgres { url, schema } = storage else {
            panic!("{storage:?} is not reached through a network");
        };
        let (login, rest) = url.split_once('@').expect("the URL has a login");
        let (server, database) = rest.split_once('/').expect("the URL has a database");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        // Encrypted, the protocol could not be read.
        let url = format!("{login}@127.0.0.1:{port}/{database}?sslmode=disable");
        let statements: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut proxy = JoinSet::new();
        proxy.spawn(accept(listener, server.to_owned(), statements.clone(), delay));
        let log = StatementLog {
            statements,
            _proxy: proxy,
        };
        let schema = schema.clone();
        (log, Storage::Postgres { url, schema })
    }

    /// The statements since the last call that do a module's work: without `begin`, `commit` and `rollback`, pings, and what notifies other processes.
    pub fn take(&self) -> Vec<String> {
        let driver = [
            "begin",
            "commit",
            "rollback",
            "listen",
            "/*",
            "select pg_notify",
            "set ",
        ];
        let mut statements = std::mem::take(&mut *self.statements.lock());
        statements.retain(|statement| {
            let statement = statement.trim_start().to_lowercase();
            !statement.is_empty() && !driver.iter().any(|start| statement.starts_with(start))
        });
        statements
    }
}

async fn accept(listener: TcpListener, server: String, statements: Arc<Mutex<Vec<String>>>, delay: Duration) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (server, statements) = (server.clone(), statements.clone());
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(&server).await else {
                return;
            };
            let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
            let (from_client, mut to_client) = client.into_split();
            let (mut from_server, to_server) = server.into_split();
            // A connection that one side has closed is of no use to the other.
            tokio::select! {
                () = forward(from_client, to_server, Frontend::new(statements), delay) => {}
                _ = copy(&mut from_server, &mut to_client) => {}
            }
        });
    }
}

async fn forward(mut client: OwnedReadHalf, mut server: OwnedWriteHalf, mut frontend: Frontend, delay: Duration) {
    let mut bytes = [0; 16 * 1_024];
    while let Ok(count @ 1..) = client.read(&mut bytes).await {
        tokio::time::sleep(delay).await;
        frontend.read(&bytes[..count]);
        if server.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// The messages of a client.
struct Frontend {
    unread: Vec<u8>,
    has_started: bool,
    prepared: HashMap<Vec<u8>, String>,
    portals: HashMap<Vec<u8>, String>,
    statements: Arc<Mutex<Vec<String>>>,
}

impl Frontend {
    fn new(statements: Arc<Mutex<Vec<String>>>) -> Self {
        Frontend {
            unread: Vec::new(),
            has_started: false,
            prepared: HashMap::new(),
            portals: HashMap::new(),
            statements,
        }
    }

    fn read(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        // The first message has no type.
        while let Some(length) = self.unread.get(usize::from(self.has_started)..).and_then(length_of) {
            let end = usize::from(self.has_started) + length;
            if self.unread.len() < end {
                return;
            }
            let message: Vec<u8> = self.unread.drain(..end).collect();
            if self.has_started {
                self.message(message[0], &message[5..]);
            }
            self.has_started = true;
        }
    }

    fn message(&mut self, kind: u8, body: &[u8]) {
        let mut texts = body.split(|byte| *byte == 0);
        let mut next = || texts.next().unwrap_or_default().to_vec();
        match kind {
            b'Q' => self.statements.lock().push(text_of(&next())),
            // Parse
            b'P' => {
                let (name, statement) = (next(), next());
                self.prepared.insert(name, text_of(&statement));
            }
            // Bind
            b'B' => {
                let (portal, name) = (next(), next());
                let statement = self.prepared.get(&name).cloned().unwrap_or_default();
                self.portals.insert(portal, statement);
            }
            // Execute
            b'E' => {
                let statement = self.portals.get(&next()).cloned().unwrap_or_default();
                self.statements.lock().push(statement);
            }
            _ => {}
        }
    }
}

/// The length that a message starts with, which counts itself.
fn length_of(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    usize::try_from(length).ok()
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
