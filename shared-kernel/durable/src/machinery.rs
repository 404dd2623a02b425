//! One module's machinery, put together by the module and started by whoever places it.

use std::{collections::HashMap, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use event_feed_contract::EventFeed;
use futures::{FutureExt, future::BoxFuture};
use shared_kernel::Fault;
use tokio_util::sync::CancellationToken;

use crate::{Db, Ops, Reactions, Sagas};

/// Puts a module's own demo data in, once; needs no other module.
pub type Seed = Arc<dyn Fn() -> BoxFuture<'static, Result<(), Fault>> + Send + Sync>;

/// Where to ask each module for events that were missed.
pub type Feeds = HashMap<String, Arc<dyn EventFeed>>;

type Work = Arc<dyn Fn(CancellationToken) -> BoxFuture<'static, ()> + Send + Sync>;

/// Everything of one module that runs beside its requests.
#[derive(Clone)]
pub struct Machinery {
    db: Db,
    reactions: Option<Reactions>,
    sagas: Option<Sagas>,
    workers: Vec<(&'static str, Work)>,
}

impl Machinery {
    pub fn new(db: Db) -> Self {
        Machinery { db, reactions: None, sagas: None, workers: Vec::new() }
    }

    pub fn reactions(mut self, reactions: Reactions) -> Self {
        self.reactions = Some(reactions);
        self
    }

    pub fn sagas(mut self, sagas: Sagas) -> Self {
        self.sagas = Some(sagas);
        self
    }

    /// Adds work that goes on until its token ends. Should it panic or return early, it is started again after a second.
    pub fn worker<F, Fut>(mut self, name: &'static str, work: F) -> Self
    where
        F: Fn(CancellationToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.workers.push((name, Arc::new(move |stop| Box::pin(work(stop)))));
        self
    }

    pub fn db(&self) -> &Db {
        &self.db
    }

    pub fn ops(&self) -> Ops {
        Ops::new(self.db.clone())
    }
}

/// Runs `work` until `stop`, starting it again when it ends by itself.
pub(crate) async fn keep_running(module: String, name: &'static str, work: Work, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if AssertUnwindSafe(work(stop.clone())).catch_unwind().await.is_err() {
            tracing::error!(module, worker = name, "a worker panicked; it starts again");
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = stop.cancelled() => {}
        }
    }
}
