//! Answers other processes: the contracts of the modules that are here, their event feeds, health, and reflection.

use std::{collections::HashMap, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use async_trait::async_trait;
use banyan_core::{Call, Fault};
use banyan_event_feed_contract::{
    EventFeed, Events, ListEvents, ListSubjects, ServedEventFeed, Subjects, event_feed_server::EventFeedServer,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::{Service, http},
    server::NamedService,
    service::{Routes, RoutesBuilder},
    transport::{
        Certificate, Identity as TlsIdentity, Server, ServerTlsConfig,
        server::{Router, TcpIncoming},
    },
};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use super::{Contracts, MESSAGE_BYTES, Settings, contracts, reflection};
use crate::{config, health::Checks, mtls::Identity};

/// What is served.
pub struct Served {
    pub contracts: Contracts,
    /// The event feeds of the modules that are here, by module.
    pub feeds: HashMap<String, Arc<dyn EventFeed>>,
    /// The modules that are here.
    pub modules: Vec<&'static str>,
}

/// A server that answers until it is told to stop.
pub struct Serving {
    pub address: SocketAddr,
    /// Ends when what was accepted has been answered.
    pub task: JoinHandle<()>,
    health: HealthReporter,
    services: Vec<&'static str>,
}

impl Serving {
    /// Says from now on that a service is not served while the checks say so, until `stop`.
    pub fn follow(&self, checks: Arc<Checks>, stop: CancellationToken) {
        tokio::spawn(super::health::follow(
            self.health.clone(),
            self.services.clone(),
            checks,
            stop,
        ));
    }
}

/// Listens on `rpc.listen` and answers until `stop`; `None` if it is not set.
///
/// # Errors
/// An address that is taken, not ours, or beyond loopback without `[mtls]`; a setting that is wrong.
pub async fn serve(
    settings: &config::Settings,
    served: Served,
    stop: CancellationToken,
) -> anyhow::Result<Option<Serving>> {
    let own = Settings::read(settings)?;
    let Some(listen) = own.listen else { return Ok(None) };
    let identity = Identity::load(settings)?;
    if identity.is_none() && !listen.ip().is_loopback() {
        bail!(
            "rpc.listen is {listen} without [mtls]: whoever reaches it could act for any user; set mtls.ca_file, mtls.certificate_file and \
             mtls.key_file (scripts/dev-certs makes some), or listen on loopback"
        );
    }
    let incoming = TcpIncoming::bind(listen)
        .with_context(|| format!("cannot listen on {listen} (rpc.listen); port 0 takes any free one"))?;
    let address = incoming.local_addr().context("rpc.listen")?;
    let health = HealthReporter::new();
    let (routes, services) = routes(&served, &health)?;
    for service in &services {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    let router = server(&own, identity.as_ref())?.add_routes(routes);
    let drain = Duration::from_millis(settings.http.shutdown_timeout_ms);
    let task = tokio::spawn(run(
        router,
        incoming.with_nodelay(Some(true)),
        health.clone(),
        services.clone(),
        drain,
        stop,
    ));
    tracing::info!(%address, modules = served.modules.join(", "), tls = identity.is_some(), "answering other processes");
    Ok(Some(Serving {
        address,
        task,
        health,
        services,
    }))
}

fn server(own: &Settings, identity: Option<&Identity>) -> anyhow::Result<Server> {
    let keep_alive = Duration::from_millis(own.keep_alive_ms);
    let server = Server::builder()
        .max_concurrent_streams(own.calls_per_connection)
        .http2_keepalive_interval(Some(keep_alive))
        .http2_keepalive_timeout(Some(keep_alive))
        .trace_fn(|request| {
            let trace = request
                .headers()
                .get("traceparent")
                .and_then(|trace| trace.to_str().ok())
                .unwrap_or_default();
            let trace_id = trace.get(3..35).unwrap_or_default();
            tracing::info_span!(target: "rpc", "call", method = request.uri().path(), trace_id)
        });
    let Some(identity) = identity else { return Ok(server) };
    let tls = ServerTlsConfig::new()
        .identity(TlsIdentity::from_pem(identity.certificate_pem(), identity.key_pem()))
        .client_ca_root(Certificate::from_pem(identity.ca_pem()))
        .timeout(Duration::from_millis(own.connect_timeout_ms));
    server.tls_config(tls).context("[mtls]")
}

/// Serves until `stop`, then says so, finishes what was accepted, and gives up on it after `drain`.
async fn run(
    router: Router,
    incoming: TcpIncoming,
    mut health: HealthReporter,
    services: Vec<&'static str>,
    drain: Duration,
    stop: CancellationToken,
) {
    let stopping = async {
        stop.cancelled().await;
        for service in &services {
            health.set_service_status(service, ServingStatus::NotServing).await;
        }
        // Ends the streams of those that watch, after they have heard the last word; they would hold the server up.
        for service in services {
            health.clear_service_status(service).await;
        }
    };
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        ended = router.serve_with_incoming_shutdown(incoming, stopping) => {
            if let Err(error) = ended {
                tracing::error!(%error, "the gRPC server ended");
            }
        }
        () = late => tracing::warn!(?drain, "calls of other processes were still under way at the stop"),
    }
}

/// All services, and their names; the first, empty one is the process as a whole.
fn routes(served: &Served, health: &HealthReporter) -> anyhow::Result<(Routes, Vec<&'static str>)> {
    let mut services = Services {
        routes: Routes::builder(),
        names: vec![""],
    };
    for module in &served.modules {
        let Some(contract) = contracts::find(module) else {
            bail!("{module} is no module with a contract")
        };
        (contract.serve)(&served.contracts, &mut services);
    }
    let feeds = EventFeedServer::new(ServedEventFeed(Arc::new(FeedsByModule(served.feeds.clone()))));
    services.add(
        feeds
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES),
    );
    let mut routes = services.routes;
    routes.add_service(HealthServer::new(HealthService::from_health_reporter(health.clone())));
    let described = reflection::descriptors(&served.modules)?;
    let reflection = || tonic_reflection::server::Builder::configure().register_file_descriptor_set(described.clone());
    routes.add_service(reflection().build_v1().context("reflection")?);
    // What grpcurl spoke until 2023, and other tools still do.
    routes.add_service(reflection().build_v1alpha().context("reflection")?);
    Ok((routes.routes(), services.names))
}

/// Services, as they come together.
pub struct Services {
    routes: RoutesBuilder,
    names: Vec<&'static str>,
}

impl Services {
    pub fn add<S>(&mut self, service: S)
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes.add_service(service);
    }
}

/// Hands a question about a module's events to that module's feed.
struct FeedsByModule(HashMap<String, Arc<dyn EventFeed>>);

impl FeedsByModule {
    fn of(&self, module: &str) -> Result<&dyn EventFeed, Fault> {
        self.0
            .get(module)
            .map(|feed| &**feed)
            .ok_or_else(|| Fault::not_found("module"))
    }
}

#[async_trait]
impl EventFeed for FeedsByModule {
    async fn list_subjects(&self, call: &Call, request: ListSubjects) -> Result<Subjects, Fault> {
        self.of(&request.module)?.list_subjects(call, request).await
    }

    async fn list_events(&self, call: &Call, request: ListEvents) -> Result<Events, Fault> {
        self.of(&request.module)?.list_events(call, request).await
    }
}
