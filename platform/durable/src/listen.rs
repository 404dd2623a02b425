//! Receives on PostgreSQL what other processes committed (`LISTEN`/`NOTIFY`).

use std::time::Duration;

use sea_orm::sqlx::postgres::PgListener;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::Change;

/// The notification channel of a schema.
pub(crate) fn channel(schema: &str) -> String {
    format!("banyan_{schema}")
}

/// Listens until `closed`, reconnecting if necessary. Nothing depends on it: what was missed meanwhile is found by polling.
pub(crate) fn start(url: String, channel: String, changes: broadcast::Sender<Change>, closed: CancellationToken) {
    tokio::spawn(async move {
        loop {
            let session = async {
                let mut listener = PgListener::connect(&url).await?;
                listener.listen(&channel).await?;
                loop {
                    let notification = listener.recv().await?;
                    let _ = changes.send(Change {
                        topic: notification.payload().into(),
                    });
                }
            };
            let ended: Result<(), sea_orm::sqlx::Error> = tokio::select! {
                ended = session => ended,
                () = closed.cancelled() => return,
            };
            if let Err(error) = ended {
                tracing::debug!(%channel, %error, "the connection that listens for changes was lost; reconnecting");
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = closed.cancelled() => return,
            }
        }
    });
}
