//! Starts the `banyan` binary, as an operator would, on a free port with a database of its own.

use std::{fs, path::PathBuf, process::Stdio, sync::OnceLock, time::Duration};

use durable_testing::{PostgresHome, SqliteHome};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    runtime::Runtime,
};

use super::Client;

/// Where a shop keeps its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Sqlite,
    Postgres,
}

impl Stage {
    pub const ALL: [Stage; 2] = [Stage::Sqlite, Stage::Postgres];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Sqlite => "sqlite",
            Stage::Postgres => "postgres",
        }
    }
}

/// What every test of this binary runs on.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime"))
}

/// The data of a shop, which outlives its process.
enum Home {
    Sqlite(SqliteHome),
    Postgres(PostgresHome, SqliteHome),
}

/// A shop that was started by this test and is killed with it.
pub struct Shop {
    home: Home,
    settings: Vec<(String, String)>,
    child: Option<Child>,
    /// Chosen once, so that clients find the shop again after a restart.
    port: u16,
    base: String,
}

impl Shop {
    /// A new shop with demo data.
    pub async fn start(stage: Stage) -> Shop {
        Shop::start_with(stage, &[]).await
    }

    /// With settings of the test's own, as environment variables.
    pub async fn start_with(stage: Stage, settings: &[(&str, &str)]) -> Shop {
        let home = match stage {
            Stage::Sqlite => Home::Sqlite(SqliteHome::new()),
            Stage::Postgres => Home::Postgres(PostgresHome::new().await, SqliteHome::new()),
        };
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let port = free_port();
        let base = format!("http://127.0.0.1:{port}");
        let mut shop = Shop { home, settings, child: None, port, base };
        shop.boot().await;
        shop
    }

    /// Starts the process on the data that is there.
    ///
    /// # Panics
    /// If it does not come up within a minute; with its log.
    pub async fn boot(&mut self) {
        assert!(self.child.is_none(), "the shop is running");
        let log = fs::File::options().create(true).append(true).open(self.log_path()).expect("a log file");
        let mut command = self.command();
        command.arg("serve").stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{} does not start: {error}", binary().display()));
        let mut banner = BufReader::new(child.stdout.take().expect("its standard output")).lines();
        let is_up = tokio::time::timeout(Duration::from_secs(60), async {
            while let Some(line) = banner.next_line().await.expect("readable output") {
                if line.contains(&self.base) {
                    return true;
                }
            }
            false
        });
        assert!(is_up.await.unwrap_or(false), "the shop did not come up; its log:\n{}", self.log());
        // The pipe must be read on, or the process would block on its own banner.
        tokio::spawn(async move { while let Ok(Some(_)) = banner.next_line().await {} });
        self.child = Some(child);
        let client = self.client();
        durable_testing::eventually("the shop is ready", Duration::from_secs(30), || async {
            client.get("/health/ready").await.status == 200
        })
        .await;
    }

    /// A command of this shop's binary, with its settings.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command
            .current_dir(self.directory())
            .env("BANYAN__HTTP__LISTEN", format!("127.0.0.1:{}", self.port))
            .env("BANYAN__DATA_DIR", self.directory());
        if let Some(url) = self.database_url() {
            command.env("BANYAN__DATABASE__URL", url);
        }
        command.envs(self.settings.iter().cloned());
        command
    }

    pub fn client(&self) -> Client {
        Client::new(&self.base)
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// Where SQLite files and the log are.
    pub fn directory(&self) -> PathBuf {
        match &self.home {
            Home::Sqlite(home) | Home::Postgres(_, home) => home.path().to_owned(),
        }
    }

    /// The superuser's URL of the shop's database; `None` on SQLite.
    pub fn database_url(&self) -> Option<String> {
        match &self.home {
            Home::Sqlite(_) => None,
            Home::Postgres(home, _) => Some(home.url()),
        }
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("the shop runs");
        child.kill().await.expect("it can be killed");
    }

    /// Ends the process and removes the data.
    pub async fn remove(mut self) {
        if self.child.is_some() {
            self.kill().await;
        }
        if let Home::Postgres(home, _) = self.home {
            home.remove().await;
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory().join("shop.log")
    }
}

/// A port nobody listens on. Between this answer and its use somebody else could take it, which a test run survives by failing loudly.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// The binary that was built beside this test.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("this test's own path");
    let target = test.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps");
    let binary = target.join("banyan");
    assert!(binary.exists(), "{} is not built: run scripts/test.sh, or cargo build -p banyan first", binary.display());
    binary
}
