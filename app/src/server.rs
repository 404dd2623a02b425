//! The HTTP server: every module's routes in one shell.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use actix_web::{App, HttpServer, dev::Server, web::Data};
use anyhow::Context;
use shared_kernel::Ids;
use utoipa::openapi::OpenApi;
use utoipa_actix_web::AppExt;
use web::{Routes, ShellSettings, Stopping, Verifier, rate_limit::RateLimit};

use crate::{
    config::Settings,
    docs_ui,
    health::{self, Checks},
};

/// What the server serves.
pub struct Served {
    /// Relative to `/api/v1`.
    pub api: Vec<Routes>,
    pub well_known: Routes,
    pub document: OpenApi,
    pub verifier: Arc<Verifier>,
    pub checks: Arc<Checks>,
    pub ids: Arc<dyn Ids>,
}

/// Binds the addresses and starts answering. The answer is the server, and where the API listens.
///
/// # Errors
/// An address that is taken or not ours.
pub fn start(settings: &Settings, served: Served) -> anyhow::Result<(Server, SocketAddr)> {
    let (per_second, burst) = settings.rate_limit();
    let rate_limit = RateLimit::new(per_second, burst);
    let shell = ShellSettings { ids: served.ids, ..ShellSettings::default() };
    let receive_timeout = Duration::from_millis(settings.http.receive_timeout_ms);
    let Served { api, well_known, document, verifier, checks, .. } = served;
    let stopping = Stopping(checks.stopping.clone());
    let document = Arc::new(document);
    let mut server = HttpServer::new(move || {
        let modules = utoipa_actix_web::scope("/api/v1").configure(|config| api.iter().for_each(|routes| routes.configure(config)));
        let health = health::routes(checks.clone());
        let (app, _) = App::new()
            .into_utoipa_app()
            .service(modules)
            .configure(|config| well_known.configure(config))
            .configure(|config| health(config))
            .split_for_parts();
        app.configure(|config| docs_ui::configure(config, &document))
            .app_data(Data::from(verifier.clone()))
            .app_data(stopping.clone())
            .default_service(web::unmatched(&document))
            .wrap(rate_limit.clone())
            .wrap(web::shell(shell.clone()))
    })
    .disable_signals()
    .client_request_timeout(receive_timeout)
    .shutdown_timeout(settings.http.shutdown_timeout_ms.div_ceil(1_000));
    if settings.http.workers > 0 {
        server = server.workers(settings.http.workers);
    }
    let listen = settings.http.listen;
    let server = server.bind(listen).with_context(|| {
        format!("cannot listen on {listen} (http.listen); is another banyan running? BANYAN__HTTP__LISTEN=127.0.0.1:0 takes any free port")
    })?;
    let address = server.addrs().first().copied().context("the server listens nowhere")?;
    Ok((server.run(), address))
}
