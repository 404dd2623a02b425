//! The HTTP server: every module's routes in one shell.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_web::{App, HttpServer, dev::Server, web::Data};
use anyhow::Context;
use shared_kernel::Ids;
use utoipa::openapi::OpenApi;
use utoipa_actix_web::AppExt;
use web::{Routes, ShellSettings, Stopping, TrustedProxies, Verifier, rate_limit::RateLimit};

use crate::{
    config::Settings,
    docs_ui,
    health::{self, Checks},
};

/// What is served.
pub struct Served {
    /// Relative to `/api/v1`.
    pub api: Vec<Routes>,
    pub well_known: Routes,
    pub document: OpenApi,
    pub verifier: Arc<Verifier>,
    pub checks: Arc<Checks>,
    pub ids: Arc<dyn Ids>,
}

/// Servers that answer, and where.
pub struct Listening {
    pub servers: Vec<Server>,
    pub api: SocketAddr,
    /// Health, metrics and documentation; the API's address unless they have their own.
    pub admin: SocketAddr,
}

/// Binds the addresses and starts answering.
///
/// # Errors
/// An address that is taken or not ours.
pub fn start(settings: &Settings, served: Served) -> anyhow::Result<Listening> {
    let (per_second, burst) = settings.rate_limit();
    let rate_limit = RateLimit::new(per_second, burst);
    let proxies = TrustedProxies(settings.http.trusted_proxies.clone().into());
    let shell = ShellSettings { ids: served.ids, ..ShellSettings::default() };
    let Served { api, well_known, document, verifier, checks, .. } = served;
    let stopping = Stopping(checks.stopping.clone());
    let document = Arc::new(document);
    let own_admin = settings.admin.listen;

    let (listener, api_address) = bind(settings.http.listen, "http.listen")?;
    let mut listening = Listening { servers: Vec::new(), api: api_address, admin: api_address };
    if let Some(listen) = own_admin {
        let (listener, address) = bind(listen, "admin.listen")?;
        let (checks, document, shell) = (checks.clone(), document.clone(), shell.clone());
        let server = HttpServer::new(move || {
            let health = health::routes(checks.clone());
            let (app, _) = App::new().into_utoipa_app().configure(|config| health(config)).split_for_parts();
            app.configure(|config| docs_ui::configure(config, &document))
                .default_service(web::unmatched(&document))
                .wrap(web::shell(shell.clone()))
        });
        let server = server.workers(1).disable_signals().shutdown_timeout(1).listen(listener).context("admin.listen")?;
        listening.servers.push(server.run());
        listening.admin = address;
    }
    let mut server = HttpServer::new(move || {
        let modules = utoipa_actix_web::scope("/api/v1").configure(|config| api.iter().for_each(|routes| routes.configure(config)));
        let mut app = App::new().into_utoipa_app().service(modules).configure(|config| well_known.configure(config));
        if own_admin.is_none() {
            let health = health::routes(checks.clone());
            app = app.configure(|config| health(config));
        }
        let (mut app, _) = app.split_for_parts();
        if own_admin.is_none() {
            app = app.configure(|config| docs_ui::configure(config, &document));
        }
        app.app_data(Data::from(verifier.clone()))
            .app_data(stopping.clone())
            .app_data(proxies.clone())
            .default_service(web::unmatched(&document))
            .wrap(rate_limit.clone())
            .wrap(web::shell(shell.clone()))
    })
    .disable_signals()
    .client_request_timeout(Duration::from_millis(settings.http.receive_timeout_ms))
    .shutdown_timeout(settings.http.shutdown_timeout_ms.div_ceil(1_000));
    if settings.http.workers > 0 {
        server = server.workers(settings.http.workers);
    }
    listening.servers.insert(0, server.listen(listener).context("http.listen")?.run());
    Ok(listening)
}

/// A socket that listens, and where: a setting may leave the port to the system.
fn bind(listen: SocketAddr, setting: &str) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(listen).with_context(|| {
        format!("cannot listen on {listen} ({setting}); is another banyan running? BANYAN__HTTP__LISTEN=127.0.0.1:0 takes any free port")
    })?;
    let address = listener.local_addr().context("the server listens nowhere")?;
    Ok((listener, address))
}
