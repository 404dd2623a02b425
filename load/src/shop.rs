//! The shop that is measured: started for the run, or already running.

use std::{
    fs::{File, Permissions},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{
    counters::Counts,
    fill,
    home::Postgres,
    http::{Connection, request},
    options::local,
    process,
};

const START_LIMIT: Duration = Duration::from_secs(60);
const SETTLE_LIMIT: Duration = Duration::from_secs(15);
const SETTLE_WINDOW: Duration = Duration::from_millis(500);

/// Settings under which the driver measures and not the demo's limits: callers are not limited, customers log in once. They are the same in all versions.
const SETTINGS: [(&str, &str); 3] = [
    ("BANYAN__RATE_LIMIT__PER_SECOND", "1000000"),
    ("BANYAN__RATE_LIMIT__BURST", "1000000"),
    ("BANYAN__USERS__ACCESS_TOKEN_SECONDS", "7200"),
];

/// A shop, killed when dropped if it was started by the driver.
pub struct Shop<'a> {
    pub address: SocketAddr,
    pub pid: Option<u32>,
    /// Its server and its database, if it is on PostgreSQL and was started by the driver.
    pub database: Option<(&'a Postgres, String)>,
    started: Option<Started>,
}

/// A process of the driver, and what it is started by.
struct Started {
    child: Child,
    directory: TempDir,
    command: Command,
}

impl<'a> Shop<'a> {
    /// Starts a binary on data of its own and waits until it is ready.
    pub async fn start(
        binary: &Path,
        postgres: Option<&'a Postgres>,
        variables: &[(String, String)],
    ) -> anyhow::Result<Self> {
        // A shop refuses a directory for its data that every user of the machine can enter.
        let directory = tempfile::Builder::new()
            .prefix("banyan-load-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let binary = std::path::absolute(binary)?;
        let mut command = Command::new(&binary);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"BANYAN_")) {
            command.env_remove(name);
        }
        let database = match postgres {
            None => None,
            Some(postgres) => {
                let name = postgres.create_database().await?;
                command.env("BANYAN__DATABASE__URL", postgres.url_of(&name)?);
                Some((postgres, name))
            }
        };
        command
            .arg("serve")
            .current_dir(directory.path())
            .env("BANYAN__HTTP__LISTEN", address.to_string())
            .env("BANYAN__DATA_DIR", directory.path())
            .envs(SETTINGS)
            .envs(variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log(&directory))?)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .with_context(|| format!("{} does not start", binary.display()))?;
        let mut shop = Shop {
            address,
            pid: child.id(),
            database,
            started: Some(Started {
                child,
                directory,
                command,
            }),
        };
        shop.until_ready().await?;
        Ok(shop)
    }

    /// Stops it in order, stores copies of its orders until there are `orders`, and starts it again. Returns the number of orders then.
    ///
    /// # Errors
    /// The shop was not started by the driver, or does not stop or start.
    pub async fn store(&mut self, orders: u32) -> anyhow::Result<i64> {
        let started = self.started.as_mut().context("a running shop is not filled")?;
        if let Some(pid) = self.pid {
            let signal = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
            ensure!(signal.success(), "the shop could not be told to stop");
        }
        let stopped = timeout(START_LIMIT, started.child.wait()).await;
        stopped.with_context(|| format!("the shop did not stop within {START_LIMIT:?}"))??;
        let stored = match &self.database {
            None => fill::sqlite(started.directory.path(), orders)?,
            Some((postgres, name)) => fill::postgres(postgres, name, orders).await?,
        };
        started.child = started.command.spawn()?;
        self.pid = started.child.id();
        self.until_ready().await?;
        Ok(stored)
    }

    /// A shop that runs already.
    pub async fn attach(url: &str, pid: Option<u32>) -> anyhow::Result<Self> {
        let addresses = local(url, "--url", "http")?.socket_addrs(|| Some(80))?;
        let address = *addresses
            .first()
            .with_context(|| format!("--url {url} has no address"))?;
        let shop = Shop {
            address,
            pid,
            database: None,
            started: None,
        };
        let ready = shop.get("/health/ready").await;
        ready.with_context(|| format!("--url {url}: no shop is ready there; `banyan serve` starts one"))?;
        Ok(shop)
    }

    async fn until_ready(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + START_LIMIT;
        while self.get("/health/ready").await.is_err() {
            let Some(started) = &mut self.started else {
                continue;
            };
            let ended = started.child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                let log = std::fs::read_to_string(log(&started.directory)).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(10)..].join("\n");
                bail!("the shop did not become ready within {START_LIMIT:?} ({ended:?}); its log ends with:\n{tail}");
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// The body of a page that anybody may read.
    pub async fn get(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let response = Connection::new(self.address)
            .send(&request("GET", path, None, &[], None))
            .await?;
        if response.status != 200 {
            bail!("GET {path}: {} {}", response.status, response.text());
        }
        Ok(response.body)
    }

    /// Waits until the work behind the requests is done: until the shop needs next to no CPU. Without its process id it waits for a second.
    pub async fn settle(&self) {
        let Some(pid) = self.pid else {
            return sleep(Duration::from_secs(1)).await;
        };
        let end = Instant::now() + SETTLE_LIMIT;
        while Instant::now() < end {
            let before = process::cpu_ms(pid).unwrap_or_default();
            sleep(SETTLE_WINDOW).await;
            if process::cpu_ms(pid).unwrap_or_default() - before <= 20.0 {
                return;
            }
        }
    }

    /// What it has cost so far.
    pub async fn usage(&self) -> Usage {
        let metrics = self.get("/metrics").await.unwrap_or_default();
        Usage {
            cpu_ms: self.pid.and_then(process::cpu_ms),
            postgres_cpu_ms: match &self.database {
                Some((postgres, name)) => Some(postgres.cpu_ms(name).await),
                None => None,
            },
            counts: Counts::read(&String::from_utf8_lossy(&metrics)),
        }
    }
}

/// Readings of a shop at one moment.
pub struct Usage {
    pub cpu_ms: Option<f64>,
    /// By process of the database server.
    pub postgres_cpu_ms: Option<std::collections::BTreeMap<u32, f64>>,
    pub counts: Option<Counts>,
}

fn log(directory: &TempDir) -> PathBuf {
    directory.path().join("shop.log")
}
