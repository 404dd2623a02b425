//! The text that is printed at the start: what runs, where its data is, and which URLs to open.

use std::net::SocketAddr;

use secrecy::ExposeSecret;

use crate::{docs_ui, document, product::Layout, server::Listening, settings::Settings};

pub fn banner(
    info: &document::Info,
    demo: &str,
    layout: &Layout,
    settings: &Settings,
    listening: &Listening,
    rpc: Option<SocketAddr>,
) -> String {
    let url = format!("{}://{}", listening.scheme, listening.api);
    let admin = format!("{}://{}", listening.admin_scheme, listening.admin);
    let (local, remote) = (layout.local(), layout.remote());
    let mut names = local.clone();
    if layout.is_edge && !remote.is_empty() {
        names.push("gateway");
    }
    let mut lines = vec![format!("{} {} is ready: {}", info.name, info.version, names.join(", "))];
    if !local.is_empty() {
        lines.push(format!("  data     {}", data(settings)));
    }
    lines.push(format!("  API      {url}/api/v1"));
    if let Some(rpc) = rpc {
        lines.push(format!("  gRPC     {rpc}"));
    }
    if !remote.is_empty() {
        lines.push(format!("  remote   {}", remote.join(", ")));
    }
    if settings.admin.listen.is_some() || settings.admin_on_api() {
        if docs_ui::IS_INCLUDED {
            lines.push(format!("  docs     {admin}/docs"));
        }
        lines.push(format!("  OpenAPI  {admin}/openapi.json"));
        lines.push(format!("  health   {admin}/health/ready   metrics {admin}/metrics"));
    } else {
        lines.push(format!(
            "  health   {url}/health/ready; metrics, documentation and details are on admin.listen, which is not set"
        ));
    }
    if settings.is_demo() {
        let passwords = if layout.tokens_from.is_some() {
            " and known passwords"
        } else {
            ""
        };
        lines.push(format!("  profile  demo: on loopback only, with demo data{passwords}"));
        lines.push(format!("           {demo}"));
    }
    lines.join("\n")
}

fn data(settings: &Settings) -> String {
    match &settings.database.url {
        Some(url) => format!(
            "PostgreSQL, a schema per module: {}",
            banyan_core::without_password(url.expose_secret())
        ),
        None => format!("SQLite, a file per module: {}/", settings.data_dir.display()),
    }
}
