//! Starts a shop, as an operator would: one process, or several with a broker between them, on free ports with data of its own.

use std::{path::PathBuf, sync::OnceLock};

use banyan_durable_testing::{PostgresHome, SqliteHome};
use tokio::{process::Command, runtime::Runtime};
use uuid::Uuid;

use super::{
    Client,
    process::Process,
    stage::{Role, Stage},
};

/// The runtime of every test of this binary.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime"))
}

/// The data of a shop, which outlives its processes.
enum Home {
    Sqlite(SqliteHome),
    Postgres(PostgresHome, SqliteHome),
}

/// A shop that was started by this test and is killed with it.
pub struct Shop {
    home: Home,
    processes: Vec<Process>,
}

/// How to start a shop, for tests that need something other than the default.
pub struct Plan {
    stage: Stage,
    settings: Vec<(String, String)>,
    broker_url: Option<String>,
    postgres_url: Option<String>,
    /// Ports of the test's own proxies, through which the gRPC server of a process is reached.
    endpoints: Vec<(&'static str, u16)>,
    instances: Vec<(&'static str, usize)>,
}

impl Plan {
    pub fn on(stage: Stage) -> Plan {
        Plan {
            stage,
            settings: Vec::new(),
            broker_url: None,
            postgres_url: None,
            endpoints: Vec::new(),
            instances: Vec::new(),
        }
    }

    /// Settings for all processes, as environment variables.
    pub fn with(mut self, settings: &[(&str, &str)]) -> Plan {
        self.settings.extend(
            settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        self
    }

    /// Uses the test's own broker instead of the shared one.
    pub fn broker(mut self, url: &str) -> Plan {
        self.broker_url = Some(url.to_owned());
        self
    }

    /// Uses the test's own PostgreSQL instead of the shared one.
    pub fn postgres(mut self, url: &str) -> Plan {
        self.postgres_url = Some(url.to_owned());
        self
    }

    /// Other processes reach the gRPC server of the process `name` through this port, on which the test runs a proxy.
    pub fn rpc_through(mut self, name: &'static str, port: u16) -> Plan {
        self.endpoints.push((name, port));
        self
    }

    /// Starts `count` processes of that role instead of one.
    pub fn instances(mut self, name: &'static str, count: usize) -> Plan {
        self.instances.push((name, count));
        self
    }

    pub async fn start(self) -> Shop {
        let mut shop = self.prepare().await;
        shop.boot().await;
        shop
    }

    /// Prepares everything but the processes themselves, whose ports are known now; [`boot`](Shop::boot) starts them.
    pub async fn prepare(self) -> Shop {
        let home = match self.stage {
            Stage::Sqlite => Home::Sqlite(SqliteHome::new()),
            Stage::Postgres | Stage::Extracted | Stage::Split => {
                let database = match &self.postgres_url {
                    Some(server) => PostgresHome::at(server).await,
                    None => PostgresHome::new().await,
                };
                Home::Postgres(database, SqliteHome::new())
            }
        };
        let mut shop = Shop {
            home,
            processes: Vec::new(),
        };
        for role in self.stage.roles() {
            let count = self
                .instances
                .iter()
                .find(|(name, _)| *name == role.name)
                .map_or(1, |(_, count)| *count);
            for _ in 0..count {
                shop.processes.push(Process::new(role.clone(), &shop.directory()));
            }
        }
        self.connect(&mut shop);
        shop
    }

    /// Configures every process with the addresses of the others.
    fn connect(&self, shop: &mut Shop) {
        let url = shop.database_url();
        let addresses: Vec<(Role, String, String)> = self
            .stage
            .roles()
            .into_iter()
            .map(|role| self.addresses(shop, role))
            .collect();
        let exchange = format!("banyan-{}", Uuid::new_v4().simple());
        for process in &mut shop.processes {
            if let Some(url) = &url {
                process.set("BANYAN__DATABASE__URL", url);
            }
            let own_role = process.role.name;
            if self.stage.is_split() {
                let broker = self
                    .broker_url
                    .clone()
                    .or_else(|| std::env::var("BANYAN_TEST_RABBITMQ").ok());
                process.set(
                    "BANYAN__BUS__URL",
                    broker.expect("BANYAN_TEST_RABBITMQ names a broker: run scripts/test.sh, it starts one"),
                );
                process.set("BANYAN__BUS__EXCHANGE", &exchange);
                process.set("BANYAN__HTTP__TRUSTED_PROXIES", "127.0.0.1");
                if !process.role.modules.is_empty() {
                    process.set("BANYAN__RPC__LISTEN", format!("127.0.0.1:{}", process.rpc_port));
                }
                for (role, rpc, http) in addresses.iter().filter(|(role, ..)| role.name != own_role) {
                    for module in &role.modules {
                        let key = module.to_uppercase();
                        process.set(format!("BANYAN__MODULES__{key}__ENDPOINT"), rpc);
                        process.set(format!("BANYAN__MODULES__{key}__HTTP_ENDPOINT"), http);
                    }
                }
            }
            for (name, value) in &self.settings {
                process.set(name, value);
            }
        }
    }

    /// The gRPC and the REST addresses of the instances of a role, each comma-separated.
    fn addresses(&self, shop: &Shop, role: Role) -> (Role, String, String) {
        let through = self
            .endpoints
            .iter()
            .find(|(name, _)| *name == role.name)
            .map(|(_, port)| *port);
        let of_role = || shop.processes.iter().filter(|process| process.role.name == role.name);
        let join = |ports: Vec<u16>| {
            ports
                .iter()
                .map(|port| format!("http://127.0.0.1:{port}"))
                .collect::<Vec<_>>()
                .join(",")
        };
        let rpc = through.map_or_else(
            || of_role().map(|process| process.rpc_port).collect(),
            |port| vec![port],
        );
        let http = of_role().map(|process| process.http_port).collect();
        (role, join(rpc), join(http))
    }
}

impl Shop {
    /// A new shop with demo data.
    pub async fn start(stage: Stage) -> Shop {
        Plan::on(stage).start().await
    }

    /// With these settings, as environment variables.
    pub async fn start_with(stage: Stage, settings: &[(&str, &str)]) -> Shop {
        Plan::on(stage).with(settings).start().await
    }

    /// Starts every process that does not run, on the data that is there, and waits until all are ready.
    ///
    /// # Panics
    /// If one is not ready within a minute; with its log.
    pub async fn boot(&mut self) {
        for process in self.processes.iter_mut().filter(|process| !process.is_running()) {
            process.spawn();
        }
        self.until_ready().await;
    }

    /// Waits until every process and everything it depends on are ready.
    ///
    /// # Panics
    /// If that takes more than a minute, or one does not run; with its log.
    pub async fn until_ready(&mut self) {
        for process in &mut self.processes {
            process.ready().await;
        }
    }

    /// A command of the edge's binary, with its settings.
    pub fn command(&self) -> Command {
        self.edge().command()
    }

    pub fn client(&self) -> Client {
        self.edge().client()
    }

    pub fn base(&self) -> String {
        self.edge().base()
    }

    /// The process that clients call; the first one if there are several.
    fn edge(&self) -> &Process {
        self.processes
            .iter()
            .find(|process| process.role.is_edge)
            .expect("a shop has an edge")
    }

    /// The first process of that name.
    pub fn process(&mut self, name: &str) -> &mut Process {
        self.processes
            .iter_mut()
            .find(|process| process.role.name == name)
            .unwrap_or_else(|| panic!("no process {name}"))
    }

    pub fn processes(&mut self) -> &mut Vec<Process> {
        &mut self.processes
    }

    /// Where SQLite files and logs are.
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

    /// `kill -9` for every process that runs.
    pub async fn kill(&mut self) {
        for process in self.processes.iter_mut().filter(|process| process.is_running()) {
            process.kill().await;
        }
    }

    /// Kills the processes and removes the data.
    pub async fn remove(mut self) {
        self.kill().await;
        if let Home::Postgres(home, _) = self.home {
            home.remove().await;
        }
    }

    /// What all processes wrote, one after the other.
    pub fn log(&self) -> String {
        let log = |process: &Process| format!("--- {}\n{}", process.role.name, process.log());
        if let [only] = &self.processes[..] {
            only.log()
        } else {
            self.processes.iter().map(log).collect()
        }
    }
}
