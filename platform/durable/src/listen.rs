//! Receives on PostgreSQL what other processes committed (`LISTEN`/`NOTIFY`).

use std::time::{Duration, Instant};

use sqlx::{
    Connection as _, Executor,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::{
    sync::broadcast,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{Change, connection::servers::Servers, echoes::Echoes};

/// A connection that was silent for this time is pinged: something on the way may have dropped it.
const PING_AFTER: Duration = Duration::from_secs(30);
/// The timeout of connecting and of a ping.
const LIMIT: Duration = Duration::from_secs(5);

/// The notification channel of a schema.
pub(crate) fn channel(schema: &str) -> String {
    format!("banyan_{schema}")
}

/// Listens until `closed`, reconnecting if necessary. Nothing depends on it: what was missed meanwhile is found by polling.
pub(crate) fn start(
    url: String,
    channel: String,
    echoes: Echoes,
    changes: broadcast::Sender<Change>,
    closed: CancellationToken,
) {
    tokio::spawn(async move {
        loop {
            let ended = tokio::select! {
                ended = receive(&url, &channel, &echoes, &changes) => ended,
                () = closed.cancelled() => return,
            };
            if let Err(error) = ended {
                tracing::debug!(%channel, %error, "the connection that listens for changes was lost; reconnecting");
            }
            tokio::select! {
                () = sleep(Duration::from_secs(1)) => {}
                () = closed.cancelled() => return,
            }
        }
    });
}

/// Receives until the connection is lost.
async fn receive(
    url: &str,
    channel: &str,
    echoes: &Echoes,
    changes: &broadcast::Sender<Change>,
) -> Result<(), sqlx::Error> {
    let connecting = async {
        let servers = Servers::parse(url)?;
        let (found, options) = servers.find().await?;
        let _ = found.close().await;
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_lazy_with(options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(channel).await?;
        Ok::<_, sqlx::Error>(listener)
    };
    let mut listener = timeout(LIMIT, connecting)
        .await
        .map_err(|_| sqlx::Error::PoolTimedOut)??;
    echoes.clear();
    loop {
        match timeout(PING_AFTER, listener.try_recv()).await {
            Ok(notification) => {
                let Some(notification) = notification? else {
                    // The connection was lost; it is replaced by the next call.
                    echoes.clear();
                    continue;
                };
                let topic = notification.payload();
                if !echoes.take(topic, Instant::now()) {
                    let _ = changes.send(Change { topic: topic.into() });
                }
            }
            Err(_) => {
                let ping = timeout(LIMIT, listener.execute("select 1")).await;
                ping.map_err(|_| sqlx::Error::PoolTimedOut)??;
            }
        }
    }
}
