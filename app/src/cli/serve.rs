//! `banyan serve`: runs the shop until it is told to stop.

use anyhow::Context;
use banyan::{App, config::Settings};
use tokio::signal::unix::{SignalKind, signal};

pub async fn serve(settings: Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let app = App::build(settings).await?;
    super::print(&app.banner())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
    };
    app.run_until(stop).await
}
