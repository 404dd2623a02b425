//! One module's machinery, put together by the module and started by whoever places it.

use std::{collections::HashMap, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use banyan_core::{Bus, Fault};
use banyan_event_feed_contract::EventFeed;
use futures::{FutureExt, future::BoxFuture};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{Db, Ops, Reactions, Sagas, feed::Feed, gauges, lease, prune, reactions::Deliveries, relay::Relay};

/// Puts a module's own demo data in, once; needs no other module.
pub type Seed = Arc<dyn Fn() -> BoxFuture<'static, Result<(), Fault>> + Send + Sync>;

/// Where to ask each module for events that were missed, by the module's name.
pub type Feeds = HashMap<String, Arc<dyn EventFeed>>;

/// Goes on until its token ends.
pub(crate) type Work = Arc<dyn Fn(CancellationToken) -> BoxFuture<'static, ()> + Send + Sync>;

/// Everything of one module that runs beside its requests.
#[derive(Clone)]
pub struct Machinery {
    db: Db,
    deliveries: Option<Deliveries>,
    sagas: Option<Sagas>,
    workers: Vec<(&'static str, Work)>,
}

impl Machinery {
    pub fn new(db: Db) -> Self {
        Machinery {
            db,
            deliveries: None,
            sagas: None,
            workers: Vec::new(),
        }
    }

    pub fn reactions(mut self, reactions: Reactions) -> Self {
        self.deliveries = Some(Deliveries::new(reactions));
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

    /// What operators see and may do.
    pub fn ops(&self) -> Ops {
        let sagas = self.sagas.clone().unwrap_or_else(|| Sagas::new(self.db.clone()));
        Ops::new(self.db.clone(), sagas)
    }

    /// What this module answers to listeners that missed events.
    pub fn feed(&self) -> Arc<dyn EventFeed> {
        Arc::new(Feed::new(self.db.clone()))
    }

    /// What the module listens to, as `<source module>.<aggregate>`, sorted.
    pub fn topics(&self) -> Vec<String> {
        self.deliveries.as_ref().map(Deliveries::topics).unwrap_or_default()
    }

    /// Makes the module hear what it listens to. To be done for every module before any of them runs, so that no event goes unheard.
    ///
    /// # Errors
    /// Whatever the bus could not do.
    pub async fn connect(&self, bus: &Arc<dyn Bus>) -> Result<(), Fault> {
        match &self.deliveries {
            Some(deliveries) => bus.subscribe(Arc::new(deliveries.clone())).await,
            None => Ok(()),
        }
    }

    /// Runs everything until `stop`: relay, retries and comparison with the producers' feeds, sagas, workers, pruning, gauges. After `stop` the
    /// others end first, so that the relay can still hand over what they committed last; then the leases are given back. The handle ends when
    /// all is done; aborting it ends all at once, which loses nothing either.
    pub fn run(self, bus: Arc<dyn Bus>, feeds: Feeds, stop: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(async move {
            if self.db.backend() == sea_orm::DbBackend::Sqlite
                && let Err(fault) = lease::clear(&self.db).await
            {
                tracing::warn!(module = self.db.module(), %fault, "old leases could not be cleared; they run out by themselves");
            }
            let db = self.db.clone();
            let relay_stop = CancellationToken::new();
            let mut relay = JoinSet::new();
            let work = Relay::new(db.clone(), bus).work();
            relay.spawn(keep_running(db.module().to_owned(), "relay", work, relay_stop.clone()));
            let mut others = JoinSet::new();
            for (name, work) in self.works(feeds) {
                others.spawn(keep_running(db.module().to_owned(), name, work, stop.clone()));
            }
            stop.cancelled().await;
            while others.join_next().await.is_some() {}
            relay_stop.cancel();
            while relay.join_next().await.is_some() {}
        })
    }

    /// All work but the relay's.
    fn works(self, feeds: Feeds) -> Vec<(&'static str, Work)> {
        let mut works = self.workers;
        works.push(("prune", prune::work(self.db.clone())));
        works.push(("gauges", gauges::work(self.db.clone())));
        if let Some(deliveries) = self.deliveries {
            works.push(("reactions", deliveries.work(feeds)));
        }
        if let Some(sagas) = self.sagas {
            works.push((
                "sagas",
                Arc::new(move |stop| {
                    let sagas = sagas.clone();
                    Box::pin(async move { sagas.run(stop).await })
                }),
            ));
        }
        works
    }
}

/// Runs `work` until `stop`, starting it again when it ends by itself.
async fn keep_running(module: String, name: &'static str, work: Work, stop: CancellationToken) {
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
