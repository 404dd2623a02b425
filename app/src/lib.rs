//! Where things run: the only crate that knows the modules' implementations.
//!
//! [`App::build`] is what `main` and the tests boot alike.

pub mod bus;
pub mod config;
pub mod data;
pub mod discovery;
mod docs_ui;
mod document;
pub mod gateway;
mod health;
mod keys;
pub mod mtls;
mod ops;
pub mod rpc;
mod server;
mod telemetry;
mod tls;
mod wiring;

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::dev::{Server, ServerHandle};
use anyhow::Context;
use durable::{Db, Feeds};
use shared_kernel::{Bus, RandomIds, SystemClock};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;
use web::Routes;

use bus::InProcessBus;
use config::Settings;
use data::DataLock;
use health::Checks;
use server::Listening;
use wiring::{Ground, Wired};
pub use wiring::{Placement, mermaid, modules, placements, topics};

/// Starts writing logs, as the settings say.
///
/// # Errors
/// A filter that cannot be read.
pub fn start_logs(settings: &Settings) -> anyhow::Result<()> {
    telemetry::start_logs(&settings.log)
}

/// A shop: built, listening, and running until it is told to stop.
pub struct App {
    settings: Settings,
    listening: Listening,
    running: Vec<JoinHandle<()>>,
    databases: Vec<Db>,
    checks: Arc<Checks>,
    /// Ends what runs beside the requests.
    stop_work: CancellationToken,
    _lock: DataLock,
}

impl App {
    /// Opens and migrates the data, starts every module, and listens.
    ///
    /// # Errors
    /// Whatever keeps the shop from running, with what would be right.
    pub async fn build(settings: Settings) -> anyhow::Result<App> {
        let lock = prepare(&settings).await?;
        let ground = Ground { settings: settings.clone(), clock: Arc::new(SystemClock), ids: Arc::new(RandomIds) };
        let wired = wiring::wire(&ground).await?;
        if settings.is_demo() {
            seed(&wired).await?;
        } else {
            warn_of_stand_ins(&settings);
        }
        let verifier = keys::verifier(&settings, wired.asked.users.clone(), ground.clock.clone());
        let (checks, databases) = (checks(&wired), databases(&wired));
        let routes = routes(&settings, &wired)?;
        let document = document::assemble(&routes, &wired.well_known, &checks)?;
        let bus: Arc<dyn Bus> = Arc::new(InProcessBus::default());
        let feeds: Feeds = wired.placed.iter().map(|module| (module.name.to_owned(), module.machinery.feed())).collect();
        for module in &wired.placed {
            module.machinery.connect(&bus).await.map_err(|fault| anyhow::anyhow!("connecting {} to the bus: {fault}", module.name))?;
        }
        let stop_work = CancellationToken::new();
        let proxy = gateway::proxy(&settings, &discovery::start(&settings, &stop_work)?, &modules(), &stop_work)?;
        let served = server::Served {
            api: routes.into_iter().map(|(_, routes)| routes).collect(),
            well_known: wired.well_known,
            document,
            verifier: Arc::new(verifier),
            checks: checks.clone(),
            ids: ground.ids.clone(),
            proxy,
        };
        let listening = server::start(&settings, served)?;
        let running = wired.placed.into_iter().map(|module| module.machinery.run(bus.clone(), feeds.clone(), stop_work.clone())).collect();
        checks.started.cancel();
        Ok(App { settings, listening, running, databases, checks, stop_work, _lock: lock })
    }

    /// Only puts the demo data in.
    ///
    /// # Errors
    /// As [`build`](App::build).
    pub async fn seed(settings: Settings) -> anyhow::Result<()> {
        let _lock = prepare(&settings).await?;
        let ground = Ground { settings, clock: Arc::new(SystemClock), ids: Arc::new(RandomIds) };
        let wired = wiring::wire(&ground).await?;
        seed(&wired).await?;
        for db in databases(&wired) {
            db.close().await;
        }
        Ok(())
    }

    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.listening.api
    }

    /// What runs, where its data is, and which URLs to open.
    pub fn banner(&self) -> String {
        let url = format!("{}://{}", self.listening.scheme, self.listening.api);
        let admin = format!("{}://{}", self.listening.admin_scheme, self.listening.admin);
        let data = match &self.settings.database.url {
            Some(url) => {
                use secrecy::ExposeSecret;
                format!("PostgreSQL, a schema per module: {}", durable::without_password(url.expose_secret()))
            }
            None => format!("SQLite, a file per module: {}/", self.settings.data_dir.display()),
        };
        let mut lines = vec![
            format!("Banyan {} is ready: {}", env!("CARGO_PKG_VERSION"), modules().join(", ")),
            format!("  data     {data}"),
            format!("  API      {url}/api/v1"),
            format!("  docs     {admin}/docs"),
            format!("  OpenAPI  {admin}/openapi.json"),
            format!("  health   {admin}/health/ready   metrics {admin}/metrics"),
        ];
        if self.settings.is_demo() {
            lines.push("  profile  demo: on loopback only, with demo data and known passwords".to_owned());
            lines.push("           demo@banyan.example, staff@banyan.example, ops@banyan.example; password banyan-demo".to_owned());
        }
        lines.join("\n")
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
                self.checks.stopping.cancel();
                for handle in handles {
                    handle.stop(true).await;
                }
            }
        }
        self.stop_work.cancel();
        // What the requests left of the time, and enough to give leases back even if they left nothing.
        let limit = Duration::from_millis(self.settings.http.shutdown_timeout_ms);
        let grace = limit.saturating_sub(stopped_at.elapsed()).max(Duration::from_secs(1));
        if tokio::time::timeout(grace, futures::future::join_all(self.running)).await.is_err() {
            tracing::warn!("some work did not end in time; it goes on at the next start");
        }
        for db in self.databases {
            db.close().await;
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// The OpenAPI document of what is in this binary.
///
/// # Errors
/// The modules cannot be started in a temporary directory.
pub async fn openapi() -> anyhow::Result<OpenApi> {
    let directory = std::env::temp_dir().join(format!("banyan-openapi-{}", std::process::id()));
    let document = document_in(&directory).await;
    std::fs::remove_dir_all(&directory).with_context(|| format!("removing {}", directory.display()))?;
    document
}

async fn document_in(directory: &Path) -> anyhow::Result<OpenApi> {
    let variable = ("BANYAN__DATA_DIR".to_owned(), directory.display().to_string());
    let settings = Settings::from_sources(None, [variable])?;
    let _lock = prepare(&settings).await?;
    let ground = Ground { settings: settings.clone(), clock: Arc::new(SystemClock), ids: Arc::new(RandomIds) };
    let wired = wiring::wire(&ground).await?;
    let document = document::assemble(&routes(&settings, &wired)?, &wired.well_known, &checks(&wired))?;
    for db in databases(&wired) {
        db.close().await;
    }
    Ok(document)
}

/// Says what a shop in earnest should not be without.
fn warn_of_stand_ins(settings: &Settings) {
    tracing::warn!("payments go to the built-in sandbox provider: no real money moves");
    if settings.section::<notifications::Settings>("notifications").is_ok_and(|settings| settings.smtp_url.is_none()) {
        tracing::warn!("notifications.smtp_url is not set: mails are captured and shown by GET /api/v1/notifications, none is sent");
    }
}

/// Locks, provisions and migrates the data.
async fn prepare(settings: &Settings) -> anyhow::Result<DataLock> {
    let lock = data::lock(settings, &data::owners())?;
    if settings.is_demo() {
        data::provision(settings, &data::owners()).await?;
    }
    data::migrate(settings, &modules()).await?;
    Ok(lock)
}

async fn seed(wired: &Wired) -> anyhow::Result<()> {
    for module in &wired.placed {
        (module.seed)().await.map_err(|fault| anyhow::anyhow!("putting the demo data of {} in: {fault}", module.name))?;
    }
    Ok(())
}

fn checks(wired: &Wired) -> Arc<Checks> {
    Arc::new(Checks {
        databases: databases(wired),
        started: CancellationToken::new(),
        stopping: CancellationToken::new(),
        metrics: telemetry::metrics(),
    })
}

fn databases(wired: &Wired) -> Vec<Db> {
    wired.placed.iter().map(|module| module.machinery.db().clone()).collect()
}

/// Every module's routes, and those that compose several.
fn routes(settings: &Settings, wired: &Wired) -> anyhow::Result<Vec<(&'static str, Routes)>> {
    let mut routes: Vec<(&str, Routes)> = wired.placed.iter().map(|module| (module.name, module.routes.clone())).collect();
    routes.push(("gateway", gateway::routes(wired.asked.clone())));
    let ops = wired.placed.iter().map(|module| module.machinery.ops()).collect();
    routes.push(("app", ops::routes(ops, placements(settings)?)));
    Ok(routes)
}
