//! One process of a shop, which tests start, kill, pause and start again.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::{Client, stage::Role};

/// A process of a shop. It is killed with the test.
pub struct Process {
    pub role: Role,
    /// Chosen once, so that it is the same after a restart.
    pub http_port: u16,
    pub rpc_port: u16,
    directory: PathBuf,
    settings: Vec<(String, String)>,
    child: Option<Child>,
}

impl Process {
    /// Not started yet. Its files and its log are in `directory`.
    pub fn new(role: Role, directory: &Path) -> Process {
        Process {
            role,
            http_port: free_port(),
            rpc_port: free_port(),
            directory: directory.to_owned(),
            settings: Vec::new(),
            child: None,
        }
    }

    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.settings.push((name.into(), value.into()));
    }

    /// A command of this process's binary, with its settings.
    pub fn command(&self) -> Command {
        let mut command = clean_command(&self.role.binary());
        command
            .current_dir(&self.directory)
            .env("BANYAN__HTTP__LISTEN", format!("127.0.0.1:{}", self.http_port))
            .env("BANYAN__DATA_DIR", &self.directory)
            .envs(self.settings.iter().cloned());
        command
    }

    /// Starts it on the data that is there, without waiting for it.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} is running", self.role.name);
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("a log file");
        let mut command = self.command();
        command
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", self.role.name));
        // The pipe must be read, or the process would block on its own banner.
        let mut banner = BufReader::new(child.stdout.take().expect("its standard output")).lines();
        tokio::spawn(async move { while let Ok(Some(_)) = banner.next_line().await {} });
        self.child = Some(child);
    }

    /// Waits until it and everything it depends on are ready.
    ///
    /// # Panics
    /// If that takes more than a minute, or it exits; with its log.
    pub async fn ready(&mut self) {
        let client = self.client();
        let end = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(response) = client.try_send(reqwest::Method::GET, "/health/ready", &[], None).await
                && response.status == 200
                && response.json()["checks"]
                    .as_object()
                    .is_some_and(|checks| checks.values().all(|state| state == "ok"))
            {
                return;
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            let late = tokio::time::Instant::now() > end;
            assert!(
                ended.is_none() && !late,
                "{} did not become ready ({ended:?}); its log:\n{}",
                self.role.name,
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A client of this process alone.
    pub fn client(&self) -> Client {
        Client::new(&self.base())
    }

    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("the process runs");
        child.kill().await.expect("it can be killed");
    }

    /// Sends a signal by its name: `STOP` makes the process hang, `CONT` makes it continue.
    pub async fn signal(&self, name: &str) {
        let id = self
            .child
            .as_ref()
            .and_then(Child::id)
            .expect("the process runs")
            .to_string();
        assert!(
            Command::new("kill")
                .args([&format!("-{name}"), &id])
                .status()
                .await
                .expect("kill(1)")
                .success()
        );
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory
            .join(format!("{}-{}.log", self.role.name, self.http_port))
    }
}

/// A command of a binary, without the `BANYAN_` variables of the environment that the tests run in.
pub fn clean_command(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"BANYAN_")) {
        command.env_remove(name);
    }
    command
}

/// A free port that this function has not returned before. Its range is below the ephemeral ports, which the system could give to another process
/// meanwhile, and above that of `free_port` in `scripts/lib/machine.sh`.
pub fn free_port() -> u16 {
    static RETURNED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = rand::Rng::random_range(&mut rand::rng(), 16_000..32_000);
        let is_new = RETURNED.lock().insert(port);
        if is_new && std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
