//! An installation of the shop: its working directory, its database, its settings, and `banyan` processes that run on it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use banyan_durable_testing::{PostgresHome, SqliteHome};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::harness::{Client, Stage, binary, clean_command};

/// No command may take longer than this, on however busy a machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A working directory, and the database that the settings name.
pub struct Installation {
    home: SqliteHome,
    postgres: Option<PostgresHome>,
    settings: Vec<(String, String)>,
}

/// The exit code and the output of a command.
#[derive(Debug)]
pub struct CommandOutput {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl CommandOutput {
    /// # Panics
    /// If the exit code is a different one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "standard output:\n{}\nstandard error:\n{}",
            self.out,
            self.err
        );
        self
    }

    /// Expects standard error to contain each of these texts.
    #[track_caller]
    pub fn stderr_contains(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "expected {word:?} in:\n{}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("not JSON: {error}; {}", self.out))
    }
}

impl Installation {
    pub async fn new(stage: Stage) -> Installation {
        let postgres = match stage {
            Stage::Sqlite => None,
            Stage::Postgres | Stage::Extracted | Stage::Split => Some(PostgresHome::new().await),
        };
        Installation {
            home: SqliteHome::new(),
            postgres,
            settings: Vec::new(),
        }
    }

    /// Adds settings, as environment variables.
    pub fn with(mut self, settings: &[(&str, &str)]) -> Installation {
        self.settings.extend(
            settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        self
    }

    pub fn directory(&self) -> &Path {
        self.home.path()
    }

    pub fn data_directory(&self) -> PathBuf {
        self.directory().join("data")
    }

    /// The superuser's URL; `None` on SQLite. It has a password, which `prod` requires, even where the server needs none.
    pub fn database_url(&self) -> Option<String> {
        let url = self.postgres.as_ref().map(PostgresHome::url)?;
        let (scheme, rest) = url.split_once("://").expect("a URL");
        match rest.split_once('@') {
            Some((login, server)) if !login.contains(':') => Some(format!("{scheme}://{login}:a-password@{server}")),
            _ => Some(url),
        }
    }

    /// Writes a file into the working directory; returns its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory().join(name);
        fs::write(&path, text).expect("a file in the test's own directory");
        path.display().to_string()
    }

    fn command(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Command {
        self.command_of(&binary(), arguments, settings)
    }

    fn command_of(&self, binary: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Command {
        let mut command = clean_command(binary);
        command
            .current_dir(self.directory())
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command.env("BANYAN__HTTP__LISTEN", "127.0.0.1:0");
        if let Some(url) = self.database_url() {
            command.env("BANYAN__DATABASE__URL", url);
        }
        command
            .envs(self.settings.iter().cloned())
            .envs(settings.iter().copied());
        command
    }

    /// Runs a command until it exits.
    pub async fn run(&self, arguments: &[&str]) -> CommandOutput {
        self.run_with(arguments, &[]).await
    }

    pub async fn run_with(&self, arguments: &[&str], settings: &[(&str, &str)]) -> CommandOutput {
        let output = tokio::time::timeout(COMMAND_LIMIT, self.command(arguments, settings).output()).await;
        let output = output
            .unwrap_or_else(|_| panic!("banyan {arguments:?} did not end within {COMMAND_LIMIT:?}"))
            .expect("the binary runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        CommandOutput {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// Starts a server on a free port.
    pub async fn serve(&self) -> Process {
        self.serve_with(&[]).await
    }

    /// # Panics
    /// If it is not ready within a minute; with its log.
    pub async fn serve_with(&self, settings: &[(&str, &str)]) -> Process {
        // Without `serve`: it is the default.
        self.start(self.command(&[], settings)).await
    }

    /// As [`serve`](Installation::serve), through a program that starts the binary.
    pub async fn serve_by(&self, program: &Path) -> Process {
        self.start(self.command_of(program, &[], &[])).await
    }

    async fn start(&self, mut command: Command) -> Process {
        let log = self
            .directory()
            .join(format!("serve-{}.log", uuid::Uuid::new_v4().simple()));
        let file = fs::File::create(&log).expect("a log file");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .expect("the binary runs");
        let mut lines = BufReader::new(child.stdout.take().expect("its standard output")).lines();
        let banner = tokio::time::timeout(COMMAND_LIMIT, async {
            let mut banner = Vec::new();
            while let Some(line) = lines.next_line().await.expect("readable output") {
                banner.push(line);
                if banner.iter().any(|line| line.trim_start().starts_with("health ")) {
                    break;
                }
            }
            banner
        });
        let banner = banner.await.unwrap_or_default().join("\n");
        let base = banner.lines().find_map(|line| {
            line.trim_start()
                .strip_prefix("API")?
                .trim()
                .strip_suffix("/api/v1")
                .map(str::to_owned)
        });
        let base = base.unwrap_or_else(|| {
            panic!(
                "it did not start: {banner}\n{}",
                fs::read_to_string(&log).unwrap_or_default()
            )
        });
        // The pipe must be drained, or the process would block on its own banner.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Process {
            client: Client::new(&base),
            child,
            base,
            banner,
            log,
        }
    }

    /// Starts a server and kills it after this time, whatever it has come to.
    pub async fn kill_after(&self, time: Duration) {
        let mut child = self
            .command(&[], &[])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        tokio::time::sleep(time).await;
        child.kill().await.expect("it can be killed");
    }

    pub async fn remove(self) {
        if let Some(postgres) = self.postgres {
            postgres.remove().await;
        }
    }
}

/// A running server.
pub struct Process {
    pub client: Client,
    pub base: String,
    pub banner: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// `host:port`, as `http.listen` wants it.
    pub fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its log has this text: lines are written a moment after what they tell.
    pub async fn logged(&self, text: &str) {
        let end = tokio::time::Instant::now() + Duration::from_secs(30);
        while !self.log().contains(text) {
            let late = tokio::time::Instant::now() > end;
            assert!(!late, "{text:?} is not in the log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Sends a signal, such as `TERM`.
    pub async fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs").to_string();
        assert!(
            Command::new("kill")
                .args([&format!("-{name}"), &id])
                .status()
                .await
                .expect("kill(1)")
                .success()
        );
    }

    /// Waits until it exits; returns how long that took and the exit code.
    pub async fn ended(&mut self) -> (Duration, Option<i32>) {
        let started = Instant::now();
        let status = tokio::time::timeout(COMMAND_LIMIT, self.child.wait()).await;
        let status = status
            .unwrap_or_else(|_| panic!("it did not stop within {COMMAND_LIMIT:?}:\n{}", self.log()))
            .expect("it ends");
        (started.elapsed(), status.code())
    }

    /// Sends SIGTERM and expects exit code 0.
    pub async fn stop(mut self) {
        self.signal("TERM").await;
        let (_, code) = self.ended().await;
        assert_eq!(code, Some(0), "{}", self.log());
    }

    /// `kill -9`.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it can be killed");
    }
}

/// An Ed25519 key as `openssl genpkey -algorithm ed25519` writes it (RFC 8410).
pub fn signing_key() -> String {
    let mut der = vec![
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
    ];
    der.extend(rand::random::<[u8; 32]>());
    let body = STANDARD.encode(der);
    format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
}
