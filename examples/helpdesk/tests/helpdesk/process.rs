//! A real helpdesk in a real process, on a database of its own, and a client of its API.

use std::{path::Path, process::Stdio, time::Duration};

use banyan_durable_testing::{PostgresHome, SqliteHome, eventually};
use reqwest::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
};

const BINARY: &str = env!("CARGO_BIN_EXE_helpdesk");
const START_LIMIT: Duration = Duration::from_secs(60);
const CONDITION_LIMIT: Duration = Duration::from_secs(30);

/// A command of the binary, without the `BANYAN_` variables of the environment that the tests run in.
pub fn command() -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("BANYAN_")) {
        command.env_remove(name);
    }
    command
}

/// Settings as environment variables.
pub type Settings = &'static [(&'static str, &'static str)];

/// With demo data. Capacity is requested again at once while all agents are busy.
pub const DEMO: Settings = &[("BANYAN__TICKETS__BUSY_RETRY_MS", "20")];
/// With demo data. Capacity is requested once an hour while all agents are busy.
pub const PATIENT: Settings = &[("BANYAN__TICKETS__BUSY_RETRY_MS", "3600000")];
/// Without demo data.
pub const PROD: Settings = &[("BANYAN__PROFILE", "prod")];

/// A helpdesk that is killed with its test.
pub struct Helpdesk {
    settings: Settings,
    directory: SqliteHome,
    database: Option<PostgresHome>,
    running: Running,
    http: reqwest::Client,
}

struct Running {
    child: Child,
    base: String,
    /// Closing it would make the process fail when it prints.
    _stdout: BufReader<ChildStdout>,
}

impl Helpdesk {
    pub async fn on_sqlite(settings: Settings) -> Helpdesk {
        Helpdesk::start(settings, None).await
    }

    pub async fn on_postgres(settings: Settings) -> Helpdesk {
        Helpdesk::start(settings, Some(PostgresHome::new().await)).await
    }

    async fn start(settings: Settings, database: Option<PostgresHome>) -> Helpdesk {
        let directory = SqliteHome::new();
        let running = Running::start(settings, directory.path(), database.as_ref()).await;
        Helpdesk {
            settings,
            directory,
            database,
            running,
            http: reqwest::Client::new(),
        }
    }

    /// `kill -9`, and a new process on the data that is there.
    pub async fn kill_and_restart(&mut self) {
        self.running.child.kill().await.expect("it can be killed");
        self.running = Running::start(self.settings, self.directory.path(), self.database.as_ref()).await;
    }

    /// Kills the process and removes its data.
    pub async fn remove(mut self) {
        self.running.child.kill().await.expect("it can be killed");
        if let Some(database) = self.database {
            database.remove().await;
        }
    }

    pub async fn get(&self, path: &str) -> Value {
        self.get_with(path, 200).await
    }

    /// Expects this status.
    pub async fn get_with(&self, path: &str, status: u16) -> Value {
        let (actual, body) = self.send(Method::GET, path, None, None).await;
        assert_eq!(actual, status, "{path}: {body}");
        body
    }

    /// Expects this status.
    pub async fn post(&self, path: &str, body: Option<Value>, status: u16) -> Value {
        let (actual, body) = self.send(Method::POST, path, None, body).await;
        assert_eq!(actual, status, "{path}: {body}");
        body
    }

    pub async fn post_keyed(&self, path: &str, key: &str, body: &Value) -> Value {
        let (status, body) = self.send(Method::POST, path, Some(key), Some(body.clone())).await;
        assert_eq!(status, 201, "{path}: {body}");
        body
    }

    async fn send(&self, method: Method, path: &str, key: Option<&str>, body: Option<Value>) -> (u16, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.running.base));
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.expect("a response");
        (response.status().as_u16(), response.json().await.expect("JSON"))
    }

    /// Waits until what is at `path` fulfils the condition, and returns it.
    pub async fn until(&self, path: &str, what: &str, holds: fn(&Value) -> bool) -> Value {
        eventually(what, CONDITION_LIMIT, || async { holds(&self.get(path).await) }).await;
        self.get(path).await
    }
}

impl Running {
    /// On a free port; returns once it serves.
    async fn start(settings: Settings, directory: &Path, database: Option<&PostgresHome>) -> Running {
        let mut command = command();
        command
            .current_dir(directory)
            .env("BANYAN__HTTP__LISTEN", "127.0.0.1:0")
            .env("BANYAN__LOG__FILTER", "warn")
            // A saga whose process was killed is continued once its lease has expired.
            .env("BANYAN__DURABLE__LEASE_MS", "1000")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(database) = database {
            command.env("BANYAN__DATABASE__URL", database.url());
        }
        let mut child = command.spawn().expect("the binary starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("its standard output"));
        let banner = async {
            let mut line = String::new();
            while stdout.read_line(&mut line).await.expect("a line") > 0 {
                if let Some(api) = line.trim().strip_prefix("API ") {
                    let base = api.trim().strip_suffix("/api/v1").expect("the URL of the API");
                    return base.to_owned();
                }
                line.clear();
            }
            panic!("the helpdesk ended");
        };
        let base = tokio::time::timeout(START_LIMIT, banner)
            .await
            .expect("it starts in time");
        Running {
            child,
            base,
            _stdout: stdout,
        }
    }
}
