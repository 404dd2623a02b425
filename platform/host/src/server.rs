//! The HTTP server: every local module's routes in one shell; requests for remote modules are forwarded.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_web::{App, dev::Server, middleware::from_fn, web::Data};
use anyhow::{Context, bail};
use banyan_core::Ids;
use banyan_gateway::Proxy;
use banyan_http::{
    AllowedHosts, AnyoneOperates, DocumentedPaths, OverTls, Routes, ShellSettings, Stopping, TrustedPeers,
    TrustedProxies, Verifier, rate_limit::RateLimit,
};
use banyan_remote::mtls::Identity;
use bytes::Bytes;
use rustls::ServerConfig;
use serde_json::Value;
use utoipa::openapi::OpenApi;
use utoipa_actix_web::AppExt;

use crate::{
    connections::{self, Admission, Options},
    cors, docs_ui,
    health::{self, Health},
    settings::{Http, Settings},
    tls,
};

/// Orchestrators and Prometheus need a few.
const ADMIN_CONNECTIONS: usize = 100;
/// File descriptors for everything else: databases, files, calls to other processes.
const OTHER_DESCRIPTORS: u64 = 512;

/// What is served.
pub struct Served {
    /// Relative to `/api/v1`.
    pub api: Vec<Routes>,
    pub well_known: Vec<Routes>,
    pub document: OpenApi,
    pub verifier: Arc<Verifier>,
    pub health: Arc<Health>,
    pub ids: Arc<dyn Ids>,
    /// Forwards requests to remote modules.
    pub proxy: Arc<Proxy>,
    pub is_edge: bool,
    /// Whether callers without a token are operators.
    pub anyone_operates: bool,
}

/// The running servers and their addresses.
pub struct Listening {
    pub servers: Vec<Server>,
    pub api: SocketAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Health, metrics and documentation; the API's address unless they have their own.
    pub admin: SocketAddr,
    pub admin_scheme: &'static str,
}

/// Binds the addresses and starts serving.
///
/// # Errors
/// An address that is in use or not of this machine; unusable certificates.
pub fn start(settings: &Settings, transport: Transport, served: Served) -> anyhow::Result<Listening> {
    let document = Document::of(&served)?;
    let (listener, api) = bind(settings.http.listen, "http.listen")?;
    let mut listening = Listening {
        servers: Vec::new(),
        api,
        scheme: transport.scheme(),
        admin: api,
        admin_scheme: transport.scheme(),
    };
    if let Some(listen) = settings.admin.listen {
        let (listener, address) = bind(listen, "admin.listen")?;
        // In plaintext: orchestrators and Prometheus call an IP address, which is not in the certificate.
        (listening.admin, listening.admin_scheme) = (address, "http");
        listening
            .servers
            .push(serve_admin(listener, settings, &served, document.clone())?);
    }
    raise_descriptor_limit(settings.http.connections);
    listening
        .servers
        .insert(0, serve_api(listener, transport, settings, served, document)?);
    Ok(listening)
}

/// That the addresses can be listened on, before any data is made for a process that could not serve it.
///
/// # Errors
/// As [`start`].
pub fn check_addresses(settings: &Settings) -> anyhow::Result<()> {
    let listens = [
        (Some(settings.http.listen), "http.listen"),
        (settings.admin.listen, "admin.listen"),
        (settings.rpc.listen, "rpc.listen"),
    ];
    for (listen, key) in listens {
        if let Some(listen) = listen {
            bind(listen, key)?;
        }
    }
    Ok(())
}

/// The document of every operation this process serves or forwards.
#[derive(Clone)]
struct Document {
    /// Shared by all responses.
    text: Bytes,
    paths: DocumentedPaths,
}

impl Document {
    fn of(served: &Served) -> anyhow::Result<Document> {
        let text = served.proxy.document(&served.document)?;
        let parsed: Value = serde_json::from_str(&text).context("the OpenAPI document is not JSON")?;
        Ok(Document {
            text: text.into(),
            paths: DocumentedPaths::of(&parsed),
        })
    }
}

/// How the API is served.
#[derive(Debug)]
pub enum Transport {
    /// On loopback, or behind something that terminates TLS.
    Plain,
    /// To all clients, with the product's own certificate.
    Public(ServerConfig),
    /// To the other processes of the product, which authenticate with their certificates.
    Internal(ServerConfig),
}

impl Transport {
    /// # Errors
    /// Settings that contradict each other, or an API that would be served in plaintext beyond loopback.
    pub fn of(http: &Http, identity: Option<&Identity>, is_edge: bool) -> anyhow::Result<Transport> {
        match (tls::public(http)?, identity) {
            (Some(_), Some(_)) if !is_edge => bail!(
                "http.tls_certificate_file is for the edge, but this binary has no gateway, and with [mtls] its API serves other processes \
                 alone, with mtls.certificate_file; remove http.tls_certificate_file and http.tls_key_file"
            ),
            (Some(tls), _) => Ok(Transport::Public(tls)),
            (None, Some(identity)) if !is_edge => {
                Ok(Transport::Internal(ServerConfig::clone(&identity.server_config())))
            }
            (None, _) if !http.listen.ip().is_loopback() && !http.behind_tls => bail!(
                "http.listen is {} without TLS: [mtls] is for calls between processes, and this is the edge; set http.tls_certificate_file and \
                 http.tls_key_file, or http.behind_tls = true if something in front terminates TLS",
                http.listen
            ),
            (None, _) => Ok(Transport::Plain),
        }
    }

    fn tls(self) -> Option<Arc<ServerConfig>> {
        match self {
            Transport::Plain => None,
            Transport::Public(tls) | Transport::Internal(tls) => Some(Arc::new(tls)),
        }
    }

    fn scheme(&self) -> &'static str {
        match self {
            Transport::Plain => "http",
            Transport::Public(_) | Transport::Internal(_) => "https",
        }
    }
}

fn serve_admin(
    listener: TcpListener,
    settings: &Settings,
    served: &Served,
    document: Document,
) -> anyhow::Result<Server> {
    let (state, shell) = (
        served.health.clone(),
        ShellSettings {
            ids: served.ids.clone(),
            ..ShellSettings::default()
        },
    );
    let options = Options {
        admission: Admission::new(ADMIN_CONNECTIONS, None, TrustedProxies::default()),
        proxy_protocol: false,
        tls: None,
        keep_alive: Duration::from_secs(settings.http.keep_alive_s),
        half_closed: true,
        stopping: served.health.stopping.clone(),
        workers: 1,
        shutdown_timeout: Duration::from_secs(1),
    };
    let app = move || {
        let health = health::routes(state.clone());
        let (app, _) = App::new()
            .into_utoipa_app()
            .configure(|config| health(config))
            .split_for_parts();
        app.configure(|config| docs_ui::configure(config, &document.text))
            .default_service(banyan_http::unmatched_in(document.paths.clone()))
            .wrap(banyan_http::shell(shell.clone()))
    };
    connections::serve(listener, options, app).context("admin.listen")
}

fn serve_api(
    listener: TcpListener,
    transport: Transport,
    settings: &Settings,
    served: Served,
    document: Document,
) -> anyhow::Result<Server> {
    let (per_second, burst) = settings.rate_limit();
    let rate_limit = RateLimit::new(per_second, burst);
    let proxies = TrustedProxies(settings.http.trusted_proxies.clone().into());
    let admin_on_api = settings.admin_on_api();
    let Served {
        api,
        well_known,
        verifier,
        health: state,
        ids,
        proxy,
        is_edge,
        anyone_operates,
        ..
    } = served;
    let stopping = Stopping(state.stopping.clone());
    let is_proxy = !proxy.is_idle();
    let peers_are_ours = matches!(transport, Transport::Internal(_));
    let shell = ShellSettings {
        ids,
        // The other processes have authenticated, and call this one at addresses that only they know.
        hosts: if peers_are_ours {
            AllowedHosts::default()
        } else {
            settings.allowed_hosts()
        },
        // Not in `demo`: the browser would refuse every other server on this machine that has no TLS.
        tls_only: !settings.is_demo() && (matches!(transport, Transport::Public(_)) || settings.http.behind_tls),
        ..ShellSettings::default()
    };
    // Gateways probe this address, not the admin address; other clients cannot reach it.
    let probed_by_gateway = !is_edge && (peers_are_ours || settings.http.listen.ip().is_loopback());
    // Browsers call the edge; behind it the gateway has answered for all.
    let origins = if is_edge {
        settings.http.cors_origins.clone()
    } else {
        Vec::new()
    };
    let is_tls = matches!(transport, Transport::Public(_) | Transport::Internal(_));
    let http = &settings.http;
    let options = Options {
        admission: Admission::new(
            http.connections,
            (!probed_by_gateway).then_some(http.connections_per_address),
            proxies.clone(),
        ),
        proxy_protocol: http.proxy_protocol,
        tls: transport.tls(),
        keep_alive: Duration::from_secs(http.keep_alive_s),
        // A client that disconnects cancels its forwarded request.
        half_closed: !is_proxy,
        stopping: state.stopping.clone(),
        workers: http.workers,
        shutdown_timeout: Duration::from_millis(http.shutdown_timeout_ms),
    };
    let app = move || {
        let modules = utoipa_actix_web::scope("/api/v1")
            .configure(|config| api.iter().for_each(|routes| routes.configure(config)));
        let mut app = App::new()
            .into_utoipa_app()
            .service(modules)
            .configure(|config| well_known.iter().for_each(|routes| routes.configure(config)));
        if admin_on_api {
            let health = health::routes(state.clone());
            app = app.configure(|config| health(config));
        } else {
            let status = health::status(state.clone(), probed_by_gateway);
            app = app.configure(|config| status(config));
        }
        let (mut app, _) = app.split_for_parts();
        if admin_on_api {
            app = app.configure(|config| docs_ui::configure(config, &document.text));
        }
        if peers_are_ours {
            app = app.app_data(TrustedPeers);
        }
        if is_tls {
            app = app.app_data(OverTls);
        }
        if anyone_operates {
            app = app.app_data(AnyoneOperates);
        }
        let proxy = proxy.clone();
        app.app_data(Data::from(verifier.clone()))
            .app_data(stopping.clone())
            .app_data(proxies.clone())
            .default_service(banyan_http::unmatched_in(document.paths.clone()))
            .wrap(from_fn(move |request, next| {
                banyan_gateway::dispatch(proxy.clone(), request, next)
            }))
            .wrap(rate_limit.clone())
            .wrap(banyan_http::shell(shell.clone()))
            .wrap(cors::layer(&origins))
    };
    connections::serve(listener, options, app).context("http.listen")
}

/// The soft limit is often 1,024, and the hard one is what the operator allows.
fn raise_descriptor_limit(connections: usize) {
    let wanted = connections as u64 + OTHER_DESCRIPTORS;
    match rlimit::increase_nofile_limit(wanted) {
        Ok(limit) if limit < wanted => tracing::warn!(
            limit,
            wanted,
            "this process may open fewer files than http.connections needs; raise its limit (ulimit -n, LimitNOFILE) or lower http.connections"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
    }
}

/// A listening socket and its address: the port may be chosen by the system.
fn bind(listen: SocketAddr, setting: &str) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(listen).with_context(|| {
        let variable = setting.to_uppercase().replace('.', "__");
        format!("cannot listen on {listen} ({setting}); is another banyan running? BANYAN__{variable}=127.0.0.1:0 takes any free port")
    })?;
    let address = listener
        .local_addr()
        .context("the address of the listener is unknown")?;
    Ok((listener, address))
}
