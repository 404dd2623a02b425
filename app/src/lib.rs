//! Where things run: the only crate that knows the modules' implementations.
//!
//! [`App::build`] is what `main` and the tests boot alike.

mod bulkhead;
pub mod bus;
pub mod config;
mod dependencies;
pub mod discovery;
mod docs_ui;
mod document;
#[cfg_attr(not(feature = "gateway"), path = "gateway/none.rs")]
pub mod gateway;
mod health;
mod keys;
#[cfg_attr(not(feature = "modules"), path = "local/none.rs")]
pub mod local;
mod migrated;
pub mod mtls;
mod overview;
pub mod rpc;
mod server;
mod telemetry;
mod tls;
mod wiring;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::dev::{Server, ServerHandle};
use anyhow::Context;
use banyan_core::Bus;
use banyan_http::Routes;
use secrecy::ExposeSecret;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;

use config::Settings;
use health::Checks;
use local::Local;
pub use local::{migrate, modules};
pub use migrated::{Migrated, Tables};
use rpc::{Contracts, Remotes};
use server::Listening;
use wiring::Ground;
pub use wiring::{Placement, mermaid, placements, topics_of};

/// The broker gets so long to answer a goodbye.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Starts writing logs, as the settings say.
///
/// # Errors
/// A filter that cannot be read.
pub fn start_logs(settings: &Settings) -> anyhow::Result<()> {
    telemetry::start_logs(&settings.log)
}

/// The modules of this binary, and whatever else it is made of: built, listening, and running until it is told to stop.
pub struct App {
    settings: Settings,
    listening: Listening,
    rpc: Option<rpc::Serving>,
    local: Arc<Local>,
    running: Vec<JoinHandle<()>>,
    bus: Arc<dyn bus::Carrier>,
    checks: Arc<Checks>,
    discovery: Arc<dyn discovery::Discovery>,
    /// Ends being found: nobody new is sent here.
    stop_being_found: CancellationToken,
    /// Ends what runs beside the requests.
    stop_work: CancellationToken,
    /// Ends the connections to other processes, which the work needs until its end.
    stop_connections: CancellationToken,
}

impl App {
    /// Opens and migrates the data, starts every module of this binary, connects it with those that are elsewhere, and listens.
    ///
    /// # Errors
    /// Whatever keeps it from running, with what would be right.
    pub async fn build(settings: Settings) -> anyhow::Result<App> {
        wiring::check(&settings)?;
        let stop_connections = CancellationToken::new();
        let discovery = discovery::start(&settings, &stop_connections)?;
        let remotes = Arc::new(Remotes::start(
            &settings,
            discovery.clone(),
            wiring::asked_elsewhere(),
            &stop_connections,
        )?);
        let bus = bus::start(&settings, &stop_connections).await?;
        let built = Built::new(&settings, remotes.clone(), &discovery, &stop_connections).await?;
        if !settings.is_demo() {
            warn_of_stand_ins(&settings);
        }
        let verifier = Arc::new(keys::verifier(
            &settings,
            built.contracts.users.clone(),
            built.ground.clock.clone(),
        ));
        keys::get_first(verifier.clone(), stop_connections.clone());
        let mut checks = built.local.checks();
        checks.push(Arc::new(keys::KeysCheck(verifier.clone())));
        checks.extend(dependencies::checks(&bus, &remotes));
        checks.extend(gateway::checks(&built.proxy));
        let checks = Arc::new(Checks::new(checks));
        let routes = built.routes(&settings)?;
        let document = document::assemble(&routes, &built.local.well_known(), &checks)?;
        let (carrier, local) = (bus, built.local);
        let bus: Arc<dyn Bus> = carrier.clone();
        local.connect(&bus).await?;
        let stop_work = CancellationToken::new();
        let served = rpc::Served {
            contracts: built.contracts,
            feeds: local.feeds(),
            modules: modules(),
        };
        let rpc = rpc::serve(&settings, served, stop_work.clone()).await?;
        if let Some(rpc) = &rpc {
            rpc.follow(checks.clone(), stop_work.clone());
        }
        let listening = server::start(
            &settings,
            server::Served {
                api: routes.into_iter().map(|(_, routes)| routes).collect(),
                well_known: local.well_known().into_iter().map(|(_, routes)| routes).collect(),
                document,
                verifier,
                checks: checks.clone(),
                ids: built.ground.ids.clone(),
                proxy: built.proxy,
            },
        )?;
        let mut feeds = local.feeds();
        feeds.extend(
            wiring::elsewhere()
                .into_iter()
                .map(|module| (module.to_owned(), remotes.feed(module))),
        );
        let running = local.run(&bus, &feeds, &stop_work);
        checks.started.cancel();
        let stop_being_found = CancellationToken::new();
        // The edge is found by clients, not by other processes.
        if !modules().is_empty() {
            let instance = wiring::instance(
                &settings,
                listening.api,
                listening.scheme,
                rpc.as_ref().map(|rpc| rpc.address),
            )?;
            discovery.register(instance, stop_being_found.clone()).await?;
        }
        Ok(App {
            settings,
            listening,
            rpc,
            local,
            running,
            bus: carrier,
            checks,
            discovery,
            stop_being_found,
            stop_work,
            stop_connections,
        })
    }

    /// Only puts the demo data in, after throwing away what was there if `reset` says so.
    ///
    /// # Errors
    /// As [`build`](App::build).
    pub async fn seed(settings: Settings, reset: bool) -> anyhow::Result<()> {
        let stop = CancellationToken::new();
        let remotes = Remotes::start(
            &settings,
            discovery::start(&settings, &stop)?,
            wiring::asked_elsewhere(),
            &stop,
        )?;
        let mut contracts = remotes.contracts();
        Local::seed_only(&Ground::new(settings), &mut contracts, reset).await
    }

    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.listening.api
    }

    /// What runs, where its data is, and which URLs to open.
    pub fn banner(&self) -> String {
        let scheme = self.listening.scheme;
        let url = format!("{scheme}://{}", self.listening.api);
        let admin = format!("{}://{}", self.listening.admin_scheme, self.listening.admin);
        let (here, elsewhere) = (modules(), wiring::elsewhere());
        let mut names = here.clone();
        names.extend(gateway::IS_HERE.then_some("gateway").filter(|_| !elsewhere.is_empty()));
        let mut lines = vec![format!(
            "Banyan {} is ready: {}",
            env!("CARGO_PKG_VERSION"),
            names.join(", ")
        )];
        if !here.is_empty() {
            lines.push(format!("  data     {}", self.data()));
        }
        lines.push(format!("  API      {url}/api/v1"));
        if let Some(rpc) = &self.rpc {
            lines.push(format!("  gRPC     {}", rpc.address));
        }
        if !elsewhere.is_empty() {
            lines.push(format!("  asks     {} in other processes", elsewhere.join(", ")));
        }
        lines.push(format!("  docs     {admin}/docs"));
        lines.push(format!("  OpenAPI  {admin}/openapi.json"));
        lines.push(format!("  health   {admin}/health/ready   metrics {admin}/metrics"));
        if self.settings.is_demo() {
            lines.push("  profile  demo: on loopback only, with demo data and known passwords".to_owned());
            lines.push(
                "           demo@banyan.example, staff@banyan.example, ops@banyan.example; password banyan-demo"
                    .to_owned(),
            );
        }
        lines.join("\n")
    }

    fn data(&self) -> String {
        match &self.settings.database.url {
            Some(url) => format!(
                "PostgreSQL, a schema per module: {}",
                banyan_core::without_password(url.expose_secret())
            ),
            None => format!("SQLite, a file per module: {}/", self.settings.data_dir.display()),
        }
    }

    /// Serves until `stop`, then: no longer ready, nothing new accepted, what was accepted finished, leases given back.
    ///
    /// # Errors
    /// The server failed.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let handles: Vec<ServerHandle> = self.listening.servers.iter().map(Server::handle).collect();
        let mut servers = tokio::spawn(futures::future::try_join_all(self.listening.servers));
        let mut stopped_at = Instant::now();
        tokio::select! {
            ended = &mut servers => {
                ended.context("the server ended")?.context("the server failed")?;
            }
            () = stop => {
                // Readiness goes off and those who wait are answered before the API stops accepting; the admin's server ends last.
                stopped_at = Instant::now();
                self.stop_being_found.cancel();
                self.checks.stopping.cancel();
                self.discovery.withdrawn().await;
                for handle in handles {
                    handle.stop(true).await;
                }
            }
        }
        self.stop_work.cancel();
        // What the requests left of the time, and enough to give leases back even if they left nothing.
        let limit = Duration::from_millis(self.settings.http.shutdown_timeout_ms);
        let grace = limit.saturating_sub(stopped_at.elapsed()).max(Duration::from_secs(1));
        let mut work = self.running;
        work.extend(self.rpc.map(|rpc| rpc.task));
        let ended = futures::future::join(futures::future::join_all(work), self.bus.stop_receiving());
        if tokio::time::timeout(grace, ended).await.is_err() {
            tracing::warn!("some work did not end in time; it goes on at the next start");
        }
        // Nobody publishes any more; a broker that does not take its leave is not waited for.
        if tokio::time::timeout(CLOSE_LIMIT, self.bus.close()).await.is_err() {
            tracing::debug!("the broker did not answer the goodbye");
        }
        self.stop_connections.cancel();
        self.local.close().await;
        tracing::info!("stopped");
        Ok(())
    }
}

/// The modules of this binary, started, with the contracts of all and the way to the others.
struct Built {
    ground: Ground,
    local: Arc<Local>,
    contracts: Contracts,
    remotes: Arc<Remotes>,
    proxy: Arc<gateway::Proxy>,
}

impl Built {
    async fn new(
        settings: &Settings,
        remotes: Arc<Remotes>,
        discovery: &Arc<dyn discovery::Discovery>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Built> {
        let ground = Ground::new(settings.clone());
        let mut contracts = remotes.contracts();
        let local = Arc::new(Local::start(&ground, &mut contracts).await?);
        let proxy = gateway::proxy(settings, discovery, &modules(), stop)?;
        Ok(Built {
            ground,
            local,
            contracts,
            remotes,
            proxy,
        })
    }

    /// Every module's routes, the pages composed of several, and the operators'.
    fn routes(&self, settings: &Settings) -> anyhow::Result<Vec<(&'static str, Routes)>> {
        let mut routes = self.local.routes();
        routes.extend(gateway::pages(&self.contracts).map(|pages| ("gateway", pages)));
        let overview = overview::Overview {
            placements: placements(settings)?,
            local: self.local.clone(),
            remotes: self.remotes.clone(),
            proxy: self.proxy.clone(),
        };
        routes.push(("app", overview::routes(overview)));
        routes.push(("app", self.local.operations()));
        Ok(routes)
    }
}

/// The OpenAPI document of what is in this binary.
///
/// # Errors
/// The modules cannot be started in a temporary directory.
pub async fn openapi() -> anyhow::Result<OpenApi> {
    let directory = std::env::temp_dir().join(format!("banyan-openapi-{}", std::process::id()));
    let variable = ("BANYAN__DATA_DIR".to_owned(), directory.display().to_string());
    let settings = Settings::from_sources(None, [variable])?;
    let document = document_of(&settings).await;
    if directory.exists() {
        std::fs::remove_dir_all(&directory).with_context(|| format!("removing {}", directory.display()))?;
    }
    document
}

async fn document_of(settings: &Settings) -> anyhow::Result<OpenApi> {
    let stop = CancellationToken::new();
    let discovery = discovery::start(settings, &stop)?;
    let remotes = Arc::new(Remotes::start(
        settings,
        discovery.clone(),
        wiring::asked_elsewhere(),
        &stop,
    )?);
    let built = Built::new(settings, remotes, &discovery, &stop).await?;
    let checks = Arc::new(Checks::new(built.local.checks()));
    let document = document::assemble(&built.routes(settings)?, &built.local.well_known(), &checks)?;
    stop.cancel();
    built.local.close().await;
    Ok(document)
}

/// Says what a shop in earnest should not be without.
fn warn_of_stand_ins(settings: &Settings) {
    if modules().contains(&"payments") {
        tracing::warn!("payments go to the built-in sandbox provider: no real money moves");
    }
    if modules().contains(&"notifications") && !settings.is_set("notifications.smtp_url") {
        tracing::warn!(
            "notifications.smtp_url is not set: mails are captured and shown by GET /api/v1/notifications, none is sent"
        );
    }
}
