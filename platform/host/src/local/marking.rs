//! The marks of this process's databases: advanced at the start, at an orderly end, and about once a minute while something is written.

use std::{sync::Arc, time::Duration};

use banyan_durable::{
    Change, Db,
    marks::{self, Marks},
};
use futures::future::join_all;
use tokio::{
    sync::{Mutex, broadcast},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Backups of the databases that are taken within this time are of the same time.
const INTERVAL: Duration = Duration::from_secs(60);
/// The timeout at the end of the process.
const END_LIMIT: Duration = Duration::from_secs(2);

/// The databases, and the marks that they are known to have committed.
#[derive(Clone)]
pub struct Marking {
    databases: Arc<[Db]>,
    committed: Arc<Mutex<Marks>>,
}

impl Marking {
    /// `committed`: the own marks that the databases had when they were opened.
    pub fn new(databases: Vec<Db>, committed: Marks) -> Self {
        Marking {
            databases: databases.into(),
            committed: Arc::new(Mutex::new(committed)),
        }
    }

    /// Advances every database's mark. Each remembers those that the others had before: what is committed at this moment may still be lost in a crash, and
    /// what is remembered must not be.
    pub async fn advance(&self) {
        let mut committed = self.committed.lock().await;
        let advanced = self.databases.iter().map(|db| async {
            let advanced = marks::advance(db, &committed).await;
            advanced
                .inspect_err(
                    |fault| tracing::info!(module = db.module(), %fault, "the mark of this database was not advanced"),
                )
                .ok()
                .map(|mark| (db.module().to_owned(), mark))
        });
        let advanced: Vec<(String, i64)> = join_all(advanced).await.into_iter().flatten().collect();
        committed.extend(advanced);
    }

    /// When nothing is written any more, and the databases are still open.
    pub async fn end(&self) {
        if timeout(END_LIMIT, self.advance()).await.is_err() {
            tracing::info!("the marks of the databases were not advanced at the end");
        }
    }

    /// Until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut changes: Vec<broadcast::Receiver<Change>> = self.databases.iter().map(Db::changes).collect();
        loop {
            tokio::select! {
                () = sleep(INTERVAL) => {}
                () = stop.cancelled() => return,
            }
            // All are asked, so that none keeps what is old.
            let written = changes
                .iter_mut()
                .filter_map(|changes| has_changed(changes).then_some(()));
            if written.count() > 0 {
                self.advance().await;
            }
        }
    }
}

/// Whether something was committed since the last call.
fn has_changed(changes: &mut broadcast::Receiver<Change>) -> bool {
    let mut changed = false;
    loop {
        match changes.try_recv() {
            Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_)) => changed = true,
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => return changed,
        }
    }
}
