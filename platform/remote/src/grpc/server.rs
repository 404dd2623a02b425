//! Serves other processes: the contracts of the modules in this process, their event feeds, health, and reflection.

use std::{collections::HashMap, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use async_trait::async_trait;
use banyan_core::{Actor, Call, Checks, Fault};
use banyan_event_feed_contract::{
    ConfirmHandled, Confirmed, EventFeed, Events, ListEvents, ListSubjects, ServedEventFeed, Subjects,
};
use prost_types::FileDescriptorSet;
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

use super::{
    Callers, MESSAGE_BYTES, Settings, TokenVerifier,
    access::{Access, Guarded},
    reflection,
};
use crate::mtls::Identity;

/// What is served.
pub struct Served {
    /// The modules of this process.
    pub modules: Vec<ServedModule>,
    /// Their event feeds, by module.
    pub feeds: HashMap<String, Arc<dyn EventFeed>>,
    /// `None` in a product without users.
    pub tokens: Option<Arc<dyn TokenVerifier>>,
}

/// One module's contract, as it is served.
pub struct ServedModule {
    pub name: &'static str,
    /// Its `.proto` files, compiled.
    pub descriptors: &'static [u8],
    pub callers: Callers,
    /// Adds its service.
    pub serve: Box<dyn FnOnce(&mut Services) + Send>,
}

/// A running server.
pub struct Serving {
    pub address: SocketAddr,
    /// Ends when the accepted calls have been responded to.
    pub task: JoinHandle<()>,
    health: HealthReporter,
    services: Vec<ServedService>,
}

impl Serving {
    /// From now on reports a service as not serving while the checks of its module fail, until `stop`.
    pub fn follow(&self, checks: Checks, stop: CancellationToken) {
        tokio::spawn(super::health::follow(
            self.health.clone(),
            self.services.clone(),
            checks,
            stop,
        ));
    }
}

/// Listens on `rpc.listen` and serves until `stop`, then finishes the accepted calls, for at most `drain`; `None` if it is not set.
///
/// # Errors
/// An address that is in use, not of this machine, or not on loopback without `[mtls]`; an invalid setting.
pub async fn serve(
    settings: &Settings,
    served: Served,
    identity: Option<&Identity>,
    drain: Duration,
    stop: CancellationToken,
) -> anyhow::Result<Option<Serving>> {
    settings.check()?;
    let Some(listen) = settings.listen else { return Ok(None) };
    if identity.is_none() && !listen.ip().is_loopback() {
        bail!(
            "rpc.listen is {listen} without [mtls]: any process that reaches it could act for any user; set mtls.ca_file, mtls.certificate_file \
             and mtls.key_file (scripts/dev-certs makes some), or listen on loopback"
        );
    }
    let incoming = TcpIncoming::bind(listen)
        .with_context(|| format!("cannot listen on {listen} (rpc.listen); port 0 takes any free one"))?;
    let address = incoming.local_addr().context("rpc.listen")?;
    let health = HealthReporter::new();
    let modules: Vec<&str> = served.modules.iter().map(|module| module.name).collect();
    tracing::info!(%address, modules = modules.join(", "), tls = identity.is_some(), "serving other processes over gRPC");
    if identity.is_none() {
        tracing::warn!("without [mtls] every process of this machine can call as any module");
    }
    let (routes, services) = routes(served, &health, identity.is_some())?;
    for service in &services {
        health.set_service_status(service.name, ServingStatus::Serving).await;
    }
    let router = server(settings, identity)?.add_routes(routes);
    let task = tokio::spawn(run(
        router,
        incoming.with_nodelay(Some(true)),
        health.clone(),
        services.clone(),
        drain,
        stop,
    ));
    Ok(Some(Serving {
        address,
        task,
        health,
        services,
    }))
}

fn server(settings: &Settings, identity: Option<&Identity>) -> anyhow::Result<Server> {
    let keep_alive = settings.limits.keep_alive;
    let server = Server::builder()
        .max_concurrent_streams(settings.limits.calls_per_connection)
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
        .timeout(settings.limits.connect_timeout);
    server.tls_config(tls).context("[mtls]")
}

/// Serves until `stop`, then reports that it no longer serves, finishes the accepted calls, and aborts them after `drain`.
async fn run(
    router: Router,
    incoming: TcpIncoming,
    mut health: HealthReporter,
    services: Vec<ServedService>,
    drain: Duration,
    stop: CancellationToken,
) {
    let stopping = async {
        stop.cancelled().await;
        for service in &services {
            health.set_service_status(service.name, ServingStatus::NotServing).await;
        }
        // Ends the streams of health watchers, after they have received the last status; they would block the stop.
        for service in services {
            health.clear_service_status(service.name).await;
        }
    };
    let drain_expired = async {
        stop.cancelled().await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        ended = router.serve_with_incoming_shutdown(incoming, stopping) => {
            if let Err(error) = ended {
                tracing::error!(%error, "the gRPC server ended");
            }
        }
        () = drain_expired => tracing::warn!(?drain, "calls of other processes were still in flight at the stop"),
    }
}

/// A service, and the module it belongs to; `None` for those of the whole process.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServedService {
    pub name: &'static str,
    pub module: Option<&'static str>,
}

/// All services; the first, whose name is empty, is the process as a whole.
fn routes(served: Served, health: &HealthReporter, over_mtls: bool) -> anyhow::Result<(Routes, Vec<ServedService>)> {
    let described: Vec<_> = served
        .modules
        .iter()
        .map(|module| (module.name, module.descriptors))
        .collect();
    let described = reflection::descriptors(&described)?;
    let subscribers = served.modules.iter();
    let subscribers: HashMap<_, _> = subscribers
        .map(|module| (module.name, module.callers.subscribers.clone()))
        .collect();
    let mut services = Services {
        added: Vec::new(),
        served: vec![ServedService { name: "", module: None }],
        access: Access::new(served.tokens, over_mtls),
        described: described.clone(),
        module: None,
        callers: Callers::default(),
    };
    for module in served.modules {
        services.module = Some(module.name);
        services.callers = Callers {
            subscribers: Vec::new(),
            ..module.callers
        };
        (module.serve)(&mut services);
    }
    services.module = None;
    services.callers = Callers {
        subscribers: subscribers.values().flatten().copied().collect(),
        ..Callers::default()
    };
    let feeds = FeedsByModule {
        feeds: served.feeds,
        subscribers,
    };
    services.add(ServedEventFeed(Arc::new(feeds)).server(MESSAGE_BYTES));
    let access = Arc::new(services.access);
    let mut routes = Routes::builder();
    for add in services.added {
        add(&mut routes, access.clone());
    }
    routes.add_service(HealthServer::new(HealthService::from_health_reporter(health.clone())));
    let reflection = || tonic_reflection::server::Builder::configure().register_file_descriptor_set(described.clone());
    routes.add_service(reflection().build_v1().context("reflection")?);
    // What grpcurl spoke until 2023, and other tools still do.
    routes.add_service(reflection().build_v1alpha().context("reflection")?);
    Ok((routes.routes(), services.served))
}

/// The services of a server, as they are added.
pub struct Services {
    added: Vec<AddService>,
    served: Vec<ServedService>,
    access: Access,
    described: FileDescriptorSet,
    module: Option<&'static str>,
    callers: Callers,
}

/// Adds a service once all rules are known.
type AddService = Box<dyn FnOnce(&mut RoutesBuilder, Arc<Access>)>;

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
        self.served.push(ServedService {
            name: S::NAME,
            module: self.module,
        });
        self.access.allow(S::NAME, self.callers.clone(), &self.described);
        self.added.push(Box::new(|routes, access| {
            routes.add_service(Guarded { inner: service, access });
        }));
    }
}

/// Passes a call about a module's events to that module's feed, if the caller subscribes to them.
struct FeedsByModule {
    feeds: HashMap<String, Arc<dyn EventFeed>>,
    subscribers: HashMap<&'static str, Vec<&'static str>>,
}

impl FeedsByModule {
    /// `subscriber` is empty in calls of earlier versions.
    fn of(&self, call: &Call, module: &str, subscriber: &str) -> Result<&dyn EventFeed, Fault> {
        let feed = self.feeds.get(module).ok_or_else(|| Fault::not_found("module"))?;
        let subscribers = self.subscribers.get(module);
        let is_subscriber = |name: &str| subscribers.is_some_and(|known| known.contains(&name));
        match &call.actor {
            Actor::Module { name } if is_subscriber(name) && (subscriber.is_empty() || subscriber == name) => {
                Ok(&**feed)
            }
            other => Err(Fault::forbidden(format!(
                "{} does not subscribe to the events of {module} as {subscriber:?}.",
                other.label()
            ))),
        }
    }
}

#[async_trait]
impl EventFeed for FeedsByModule {
    async fn list_subjects(&self, call: &Call, request: ListSubjects) -> Result<Subjects, Fault> {
        let feed = self.of(call, &request.module, &request.subscriber)?;
        feed.list_subjects(call, request).await
    }

    async fn list_events(&self, call: &Call, request: ListEvents) -> Result<Events, Fault> {
        let feed = self.of(call, &request.module, &request.subscriber)?;
        feed.list_events(call, request).await
    }

    async fn confirm_handled(&self, call: &Call, request: ConfirmHandled) -> Result<Confirmed, Fault> {
        let feed = self.of(call, &request.module, &request.subscriber)?;
        feed.confirm_handled(call, request).await
    }
}
