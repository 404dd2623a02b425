//! One module's machinery: assembled by the module, started by the process it runs in.

use std::{collections::HashMap, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use banyan_core::{Bus, Fault, Timestamp};
use banyan_event_feed_contract::EventFeed;
use futures::{FutureExt, future::BoxFuture};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    Db, Ops, Reactions, Sagas, Tx,
    feed::Feed,
    gauges, lease, overdue,
    prune::{self, Expire},
    reactions::Deliveries,
    relay::Relay,
    subscribers::{self, Subscription},
};

/// Inserts a module's own demo data, once; calls no other module.
pub type Seed = Arc<dyn Fn() -> BoxFuture<'static, Result<(), Fault>> + Send + Sync>;

/// The feeds from which missed events are fetched, by the name of the producer.
pub type Feeds = HashMap<String, Arc<dyn EventFeed>>;

/// Work that runs until its token is cancelled.
pub(crate) type Work = Arc<dyn Fn(CancellationToken) -> BoxFuture<'static, ()> + Send + Sync>;

/// Everything of one module that runs in the background.
#[derive(Clone)]
pub struct Machinery {
    db: Db,
    deliveries: Option<Deliveries>,
    sagas: Option<Sagas>,
    subscribers: Vec<Subscription>,
    workers: Vec<(&'static str, Work)>,
    expiries: Vec<Expire>,
    further: Vec<Db>,
}

impl Machinery {
    pub fn new(db: Db) -> Self {
        Machinery {
            db,
            deliveries: None,
            sagas: None,
            subscribers: Vec::new(),
            workers: Vec::new(),
            expiries: Vec::new(),
            further: Vec::new(),
        }
    }

    /// A further database of the module, which is closed with its own.
    pub fn further(mut self, db: Db) -> Self {
        self.further.push(db);
        self
    }

    pub fn reactions(mut self, reactions: Reactions) -> Self {
        self.deliveries = Some(Deliveries::new(reactions));
        self
    }

    pub fn sagas(mut self, sagas: Sagas) -> Self {
        self.sagas = Some(sagas);
        self
    }

    /// The subscribers to this module's events, as module and aggregate. Its outbox keeps the events until they have handled them, also if they never ran.
    pub fn subscribers(mut self, subscribers: Vec<(String, String)>) -> Self {
        self.subscribers = subscribers;
        self
    }

    /// Adds work that runs until its token is cancelled. If it panics or returns early, it is restarted after a second.
    pub fn worker<F, Fut>(mut self, name: &'static str, work: F) -> Self
    where
        F: Fn(CancellationToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.workers.push((name, Arc::new(move |stop| Box::pin(work(stop)))));
        self
    }

    /// Ends rows of the module: `expire` deletes a portion of those that ended before it says, counted from the time it is given, by index and within a
    /// second, and returns whether there may be more. One instance at a time calls it, again and again. The time follows the clock no faster than time can
    /// have passed, so that a clock that jumps ahead deletes nothing early.
    pub fn expire<F, Fut>(mut self, expire: F) -> Self
    where
        F: Fn(Tx, Timestamp) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<bool, Fault>> + Send + 'static,
    {
        self.expiries
            .push(Arc::new(move |tx, horizon| Box::pin(expire(tx, horizon))));
        self
    }

    pub fn db(&self) -> &Db {
        &self.db
    }

    /// All databases of the module.
    pub fn databases(&self) -> impl Iterator<Item = &Db> {
        std::iter::once(&self.db).chain(&self.further)
    }

    /// What operators can see and do.
    pub fn ops(&self) -> Ops {
        let sagas = self.sagas.clone().unwrap_or_else(|| Sagas::new(self.db.clone()));
        Ops::new(self.db.clone(), sagas)
    }

    /// The feed for subscribers that missed events of this module.
    pub fn feed(&self) -> Arc<dyn EventFeed> {
        Arc::new(Feed::new(self.db.clone()))
    }

    /// What the module subscribes to, as `<source module>.<aggregate>`, sorted.
    pub fn topics(&self) -> Vec<String> {
        self.deliveries.as_ref().map(Deliveries::topics).unwrap_or_default()
    }

    /// Subscribes the module to its topics. Call it for every module before any of them runs, so that no event is missed.
    ///
    /// # Errors
    /// As [`Bus::subscribe`].
    pub async fn connect(&self, bus: &Arc<dyn Bus>) -> Result<(), Fault> {
        match &self.deliveries {
            Some(deliveries) => bus.subscribe(Arc::new(deliveries.clone())).await,
            None => Ok(()),
        }
    }

    /// Runs everything until `stop`: relay, retries and comparison with the producers' feeds, sagas, workers, pruning, gauges. After `stop` the relay
    /// ends last, so that it still publishes what the others committed; then the leases are released. The task ends when all have ended; aborting
    /// it ends them at once, which loses nothing either.
    pub fn run(self, bus: Arc<dyn Bus>, feeds: Feeds, stop: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(async move {
            if self.db.backend() == sea_orm::DbBackend::Sqlite
                && let Err(fault) = lease::clear(&self.db).await
            {
                tracing::warn!(module = self.db.module(), %fault, "old leases could not be cleared; they will expire");
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

    /// All work except the relay's.
    fn works(self, feeds: Feeds) -> Vec<(&'static str, Work)> {
        let mut works = self.workers;
        works.push(("subscribers", subscribers::work(self.db.clone(), self.subscribers)));
        works.push(("overdue", overdue::work(self.db.clone())));
        works.push(("prune", prune::work(self.db.clone(), self.expiries)));
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

/// Runs `work` until `stop`, restarting it when it ends early.
async fn keep_running(module: String, name: &'static str, work: Work, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if AssertUnwindSafe(work(stop.clone())).catch_unwind().await.is_err() {
            tracing::error!(module, worker = name, "a worker panicked; it is restarted");
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = stop.cancelled() => {}
        }
    }
}
