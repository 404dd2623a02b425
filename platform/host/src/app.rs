//! The start and the stop of a process, in order.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::dev::{Server, ServerHandle};
use anyhow::Context;
use banyan_bus::{Carrier, Subscription};
use banyan_core::{Bus, Check, Checks};
use banyan_gateway::Proxy;
use banyan_http::{Routes, Verifier};
use banyan_remote::{
    discovery::{self, Discovery},
    grpc::{self, Remotes, Serving},
    mtls::Identity,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;

use crate::{
    banner::banner,
    document,
    health::{self, Health},
    keys::{self, KeysCheck, NoKeys, UserTokens},
    local::{self, LocalModules},
    overview, placement,
    product::{Layout, Product},
    server::{self, Listening, Transport},
    settings::Settings,
    sources::Sources,
    telemetry,
};

/// The timeout for the broker to confirm the end of the connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A process: its modules, servers and connections. It is built, listens, and runs until it is stopped.
pub struct App {
    banner: String,
    shutdown_timeout: Duration,
    listening: Listening,
    rpc: Option<Serving>,
    local: Arc<LocalModules>,
    running: Vec<JoinHandle<()>>,
    bus: Arc<dyn Carrier>,
    health: Arc<Health>,
    discovery: Arc<dyn Discovery>,
    /// Ends the registration in discovery, so that no new callers connect.
    stop_registration: CancellationToken,
    /// Ends the background work.
    stop_work: CancellationToken,
    /// Ends the connections to other processes, which the background work needs until it has ended.
    stop_connections: CancellationToken,
}

impl App {
    /// Opens and migrates the data, starts every module of this binary, connects it with the remote ones, and listens.
    ///
    /// # Errors
    /// Whatever prevents the start, with the setting to change.
    pub async fn build<C>(product: &'static Product<C>, settings: Settings) -> anyhow::Result<App>
    where
        C: Clone + Send + Sync + 'static,
    {
        let origins = settings.clone();
        Self::start(product, settings)
            .await
            .map_err(|error| origins.with_origins(error))
    }

    async fn start<C>(product: &'static Product<C>, settings: Settings) -> anyhow::Result<App>
    where
        C: Clone + Send + Sync + 'static,
    {
        // First: a counter that was made before its recorder counts nothing.
        telemetry::metrics();
        let layout = product.layout();
        placement::check(&layout, &settings)?;
        server::check_addresses(&settings)?;
        let stop_connections = CancellationToken::new();
        let connections = Connections::start(&layout, &settings, &stop_connections)?;
        let bus = start_bus(&layout, &settings, &stop_connections)?;
        let modules = Modules::start(product, &settings, &connections).await?;
        let proxy = connections.proxy(product, &settings, &stop_connections)?;
        let routes = modules.routes(product, &settings, &connections, &proxy)?;
        let verifier = verifier(modules.key_source(product), &settings, &modules.sources);
        let served = grpc::Served {
            modules: product.served(&modules.contracts),
            feeds: modules.local.feeds(),
            tokens: layout.tokens_from.map(|_| Arc::new(UserTokens(verifier.clone())) as _),
        };
        let Modules { local, sources, .. } = modules;
        let parts = Parts {
            layout,
            settings,
            connections,
            bus,
            local,
            sources,
            served,
            proxy,
            routes,
            verifier,
            info: info(product),
            demo: product.demo.users,
            stop_connections,
        };
        parts.assemble().await
    }

    /// Only adds the demo data, after deleting all data if `reset` is true.
    ///
    /// # Errors
    /// As [`build`](App::build).
    pub async fn seed<C>(product: &'static Product<C>, settings: Settings, reset: bool) -> anyhow::Result<()>
    where
        C: Clone + Send + Sync + 'static,
    {
        if reset {
            LocalModules::reset(product, &settings).await?;
        }
        let stop = CancellationToken::new();
        let connections = Connections::start(&product.layout(), &settings, &stop)?;
        let modules = Modules::start(product, &settings, &connections).await?;
        modules.local.close().await;
        Ok(())
    }

    /// The address the API listens on.
    pub fn address(&self) -> SocketAddr {
        self.listening.api
    }

    /// The text printed at start: what runs, where its data is, and which URLs to open.
    pub fn banner(&self) -> &str {
        &self.banner
    }

    /// Serves until `stop`; then reports not ready, accepts no new requests, finishes those it accepted, and releases its leases.
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
                // Readiness ends and waiting requests get their responses before the API stops accepting; the admin server ends last.
                stopped_at = Instant::now();
                self.stop_registration.cancel();
                self.health.stopping.cancel();
                self.discovery.withdrawn().await;
                for handle in handles {
                    handle.stop(true).await;
                }
            }
        }
        self.stop_work.cancel();
        // The time the requests left of the timeout, and always enough to release the leases.
        let grace = self
            .shutdown_timeout
            .saturating_sub(stopped_at.elapsed())
            .max(Duration::from_secs(1));
        let mut work = self.running;
        work.extend(self.rpc.map(|rpc| rpc.task));
        let ended = futures::future::join(futures::future::join_all(work), self.bus.stop_receiving());
        if tokio::time::timeout(grace, ended).await.is_err() {
            tracing::warn!("some work did not end within the shutdown timeout; it continues at the next start");
        }
        // Nothing is published any more, so a broker that does not confirm the end only gets a short timeout.
        if tokio::time::timeout(CLOSE_TIMEOUT, self.bus.close()).await.is_err() {
            tracing::debug!("the broker did not confirm the end of the connection");
        }
        self.stop_connections.cancel();
        self.local.close().await;
        tracing::info!("stopped");
        Ok(())
    }
}

/// The connections to other processes.
struct Connections {
    identity: Option<Identity>,
    discovery: Arc<dyn Discovery>,
    remotes: Arc<Remotes>,
}

impl Connections {
    fn start(layout: &Layout, settings: &Settings, stop: &CancellationToken) -> anyhow::Result<Connections> {
        let identity = Identity::load(&settings.mtls)?;
        if let Some(identity) = &identity {
            placement::check_certificate(layout, identity.names())?;
        }
        let discovery = discovery::start(&settings.discovery, settings.endpoints()?, stop)?;
        let probing = settings.discovery.probing();
        let remotes = Remotes::start(
            &settings.rpc,
            &layout.callees(),
            &discovery,
            probing,
            identity.as_ref(),
            stop,
        )?;
        Ok(Connections {
            identity,
            discovery,
            remotes: Arc::new(remotes),
        })
    }

    /// An edge forwards requests to the remote modules; any other process forwards none.
    fn proxy<C>(
        &self,
        product: &Product<C>,
        settings: &Settings,
        stop: &CancellationToken,
    ) -> anyhow::Result<Arc<Proxy>> {
        let layout = product.layout();
        let modules = if layout.is_edge { layout.remote() } else { Vec::new() };
        Proxy::start(
            settings.gateway.clone(),
            product.document,
            &modules,
            &self.discovery,
            settings.discovery.probing(),
            self.identity.as_ref(),
            stop,
        )
    }
}

/// An edge without modules publishes and consumes nothing, so it needs no broker even if the settings it shares with other processes name one.
fn start_bus(layout: &Layout, settings: &Settings, stop: &CancellationToken) -> anyhow::Result<Arc<dyn Carrier>> {
    let subscribing = layout.modules.iter().filter(|module| !module.subscribes.is_empty());
    let subscriptions: Vec<Subscription> = subscribing.map(|module| (module.name, module.subscribes)).collect();
    let mut own = settings.bus.clone();
    if layout.local().is_empty() {
        own.url = None;
    }
    banyan_bus::start(own, &subscriptions, stop)
}

/// The modules of this process, started, and the contracts of all modules.
struct Modules<C> {
    local: Arc<LocalModules>,
    contracts: C,
    sources: Sources,
}

impl<C: Clone + Send + Sync + 'static> Modules<C> {
    async fn start(
        product: &'static Product<C>,
        settings: &Settings,
        connections: &Connections,
    ) -> anyhow::Result<Modules<C>> {
        let configured = local::configure(product, settings)?;
        let sources = Sources::system();
        let mut contracts = (product.contracts)(&connections.remotes);
        let local = LocalModules::start(product, settings, configured, &sources, &mut contracts).await?;
        Ok(Modules {
            local: Arc::new(local),
            contracts,
            sources,
        })
    }

    /// Every module's routes, the pages composed of several, and the operators'.
    fn routes(
        &self,
        product: &Product<C>,
        settings: &Settings,
        connections: &Connections,
        proxy: &Arc<Proxy>,
    ) -> anyhow::Result<Vec<(&'static str, Routes)>> {
        let mut routes = self.local.routes();
        if product.gateway.is_local {
            routes.push(("gateway", (product.gateway.pages)(&self.contracts)));
        }
        let overview = overview::Overview {
            placements: placement::placements(&product.layout(), settings)?,
            local: self.local.clone(),
            remotes: connections.remotes.clone(),
            proxy: proxy.clone(),
        };
        routes.push(("app", overview::routes(overview)));
        routes.push(("app", self.local.operations()));
        Ok(routes)
    }

    fn key_source(&self, product: &Product<C>) -> Arc<dyn banyan_http::KeySource> {
        match &product.tokens {
            Some(tokens) => (tokens.keys)(&self.contracts),
            None => Arc::new(NoKeys),
        }
    }
}

/// The parts of a process before it listens.
struct Parts {
    layout: Layout,
    settings: Settings,
    connections: Connections,
    bus: Arc<dyn Carrier>,
    local: Arc<LocalModules>,
    sources: Sources,
    served: grpc::Served,
    proxy: Arc<Proxy>,
    routes: Vec<(&'static str, Routes)>,
    verifier: Arc<Verifier>,
    info: document::Info,
    demo: &'static str,
    stop_connections: CancellationToken,
}

impl Parts {
    async fn assemble(self) -> anyhow::Result<App> {
        let Parts {
            layout,
            settings,
            local,
            verifier,
            ..
        } = self;
        let Connections {
            identity,
            discovery,
            remotes,
        } = self.connections;
        let mut checks = local.checks();
        if layout.tokens_from.is_some() {
            keys::fetch_first(verifier.clone(), self.stop_connections.clone());
            keys::follow_ended_sessions(verifier.clone(), self.stop_connections.clone());
            checks.push(Arc::new(KeysCheck(verifier.clone())) as Arc<dyn Check>);
        }
        checks.extend(health::checks(&self.bus, &remotes, &layout.called()));
        checks.extend(banyan_gateway::checks(&self.proxy));
        let health = Arc::new(Health::new(Checks::new(checks)));
        let document = document::assemble(&self.info, &self.routes, &local.well_known(), &health)?;
        let bus: Arc<dyn Bus> = self.bus.clone();
        local.connect(&bus).await?;
        let stop_work = CancellationToken::new();
        let shutdown_timeout = Duration::from_millis(settings.http.shutdown_timeout_ms);
        let rpc = grpc::serve(
            &settings.rpc,
            self.served,
            identity.as_ref(),
            shutdown_timeout,
            stop_work.clone(),
        )
        .await?;
        if let Some(rpc) = &rpc {
            rpc.follow(health.checks.clone(), stop_work.clone());
        }
        let transport = Transport::of(&settings.http, identity.as_ref(), layout.is_edge)?;
        let listening = server::start(
            &settings,
            transport,
            server::Served {
                api: self.routes.into_iter().map(|(_, routes)| routes).collect(),
                well_known: local.well_known().into_iter().map(|(_, routes)| routes).collect(),
                document,
                verifier,
                health: health.clone(),
                ids: self.sources.ids.clone(),
                proxy: self.proxy,
                is_edge: layout.is_edge,
                // Such a product has no tokens to check, and in `demo` it listens on loopback only.
                anyone_operates: layout.tokens_from.is_none() && settings.is_demo(),
            },
        )?;
        let mut feeds = local.feeds();
        feeds.extend(
            layout
                .remote()
                .into_iter()
                .map(|module| (module.to_owned(), remotes.feed(module))),
        );
        let running = local.run(&bus, &feeds, &stop_work);
        health.started.cancel();
        let stop_registration = CancellationToken::new();
        let rpc_address = rpc.as_ref().map(|rpc| rpc.address);
        // An edge without modules is called by clients, not by other processes.
        if !layout.local().is_empty() {
            let (http, scheme) = (listening.api, listening.scheme);
            let instance = placement::instance(&layout, &settings, identity.is_some(), http, scheme, rpc_address)?;
            discovery.register(instance, stop_registration.clone()).await?;
        }
        Ok(App {
            banner: banner(&self.info, self.demo, &layout, &settings, &listening, rpc_address),
            shutdown_timeout,
            listening,
            rpc,
            local,
            running,
            bus: self.bus,
            health,
            discovery,
            stop_registration,
            stop_work,
            stop_connections: self.stop_connections,
        })
    }
}

fn verifier(keys: Arc<dyn banyan_http::KeySource>, settings: &Settings, sources: &Sources) -> Arc<Verifier> {
    let auth = &settings.auth;
    Arc::new(Verifier::new(keys, &auth.issuer, &auth.audience, sources.clock.clone()))
}

fn info<C>(product: &Product<C>) -> document::Info {
    document::Info {
        name: product.name,
        version: product.version,
        description: product.description,
    }
}

/// The OpenAPI document of what is in this binary.
///
/// # Errors
/// The modules cannot be started in a temporary directory.
pub async fn openapi<C>(product: &'static Product<C>) -> anyhow::Result<OpenApi>
where
    C: Clone + Send + Sync + 'static,
{
    let directory = std::env::temp_dir().join(format!("banyan-openapi-{}", std::process::id()));
    let variable = ("BANYAN__DATA_DIR".to_owned(), directory.display().to_string());
    let settings = Settings::from_sources(&product.defaults(), None, [variable])?;
    let document = document_of(product, &settings).await;
    if directory.exists() {
        std::fs::remove_dir_all(&directory).with_context(|| format!("removing {}", directory.display()))?;
    }
    document
}

async fn document_of<C>(product: &'static Product<C>, settings: &Settings) -> anyhow::Result<OpenApi>
where
    C: Clone + Send + Sync + 'static,
{
    let stop = CancellationToken::new();
    let connections = Connections::start(&product.layout(), settings, &stop)?;
    let modules = Modules::start(product, settings, &connections).await?;
    let proxy = connections.proxy(product, settings, &stop)?;
    let health = Arc::new(Health::new(Checks::new(modules.local.checks())));
    let routes = modules.routes(product, settings, &connections, &proxy)?;
    let document = document::assemble(&info(product), &routes, &modules.local.well_known(), &health)?;
    stop.cancel();
    modules.local.close().await;
    Ok(document)
}
