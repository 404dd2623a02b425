//! `banyan serve`: runs until SIGTERM or Ctrl-C.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::{App, Product, settings::Settings};

pub async fn serve<C>(product: &'static Product<C>, settings: Settings) -> anyhow::Result<()>
where
    C: Clone + Send + Sync + 'static,
{
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let app = App::build(product, settings).await?;
    super::print(app.banner())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
    };
    app.run_until(stop).await
}
