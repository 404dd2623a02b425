//! The modules in this binary: started, each with its own database and the contracts it asks for, wherever those are answered.
//!
//! Which modules are compiled in is decided here, by features, and nowhere else. A binary without any has `none.rs` in this file's place.

pub mod data;

#[cfg(feature = "catalog")]
mod catalog;
#[cfg(feature = "inventory")]
mod inventory;
#[cfg(feature = "notifications")]
mod notifications;
#[cfg(feature = "orders")]
mod orders;
#[cfg(feature = "payments")]
mod payments;
#[cfg(feature = "shipping")]
mod shipping;
#[cfg(feature = "users")]
mod users;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use async_trait::async_trait;
use banyan_core::{Bus, Fault, FaultKind};
pub use banyan_durable::Counts;
use banyan_durable::{Db, Feeds, Machinery, Schema, Seed};
use banyan_event_feed_contract::{EventFeed, LocalEventFeed};
use banyan_http::Routes;
use futures::future::{BoxFuture, join_all};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Settings,
    health::{Check, State},
    migrated::{Migrated, Tables},
    rpc::Contracts,
    wiring::Ground,
};
use data::DataLock;

/// A database that is busy is tried again so long with the demo data,
const SEED_PATIENCE: Duration = Duration::from_secs(30);
/// and so often.
const SEED_PAUSE: Duration = Duration::from_millis(500);

/// A module that was started here.
struct Placed {
    name: &'static str,
    routes: Routes,
    machinery: Machinery,
    seed: Seed,
    /// `/.well-known/...`, outside the API.
    well_known: Option<Routes>,
}

type Start = for<'a> fn(&'a Ground, &'a mut Contracts) -> BoxFuture<'a, anyhow::Result<Placed>>;

/// The modules compiled in, in the order in which they start: each after those it asks. Starting one puts its contract in the place of the
/// remote one.
const STARTS: &[(&str, Start)] = &[
    #[cfg(feature = "users")]
    ("users", |ground, contracts| Box::pin(users::start(ground, contracts))),
    #[cfg(feature = "catalog")]
    ("catalog", |ground, contracts| {
        Box::pin(catalog::start(ground, contracts))
    }),
    #[cfg(feature = "inventory")]
    ("inventory", |ground, contracts| {
        Box::pin(inventory::start(ground, contracts))
    }),
    #[cfg(feature = "payments")]
    ("payments", |ground, contracts| {
        Box::pin(payments::start(ground, contracts))
    }),
    #[cfg(feature = "shipping")]
    ("shipping", |ground, contracts| {
        Box::pin(shipping::start(ground, contracts))
    }),
    #[cfg(feature = "orders")]
    ("orders", |ground, contracts| Box::pin(orders::start(ground, contracts))),
    #[cfg(feature = "notifications")]
    ("notifications", |ground, contracts| {
        Box::pin(notifications::start(ground, contracts))
    }),
];

const SCHEMAS: &[&Schema] = &[
    #[cfg(feature = "users")]
    &::users::SCHEMA,
    #[cfg(feature = "catalog")]
    &::catalog::SCHEMA,
    #[cfg(feature = "inventory")]
    &::inventory::SCHEMA,
    #[cfg(feature = "payments")]
    &::payments::SCHEMA,
    #[cfg(feature = "shipping")]
    &::shipping::SCHEMA,
    #[cfg(feature = "orders")]
    &::orders::SCHEMA,
    #[cfg(feature = "notifications")]
    &::notifications::SCHEMA,
];

/// The tables of a module of this binary.
fn schema_of(module: &str) -> anyhow::Result<&'static Schema> {
    let found = SCHEMAS.iter().find(|schema| schema.module == module);
    found
        .copied()
        .ok_or_else(|| anyhow::anyhow!("this binary knows no module named {module}"))
}

/// The names of the modules in this binary.
pub fn modules() -> Vec<&'static str> {
    STARTS.iter().map(|(name, _)| *name).collect()
}

/// Where a module of this binary keeps its data, for people.
///
/// # Errors
/// A database URL that is none.
pub fn data_of(settings: &Settings, module: &str) -> anyhow::Result<String> {
    Ok(match data::place(settings, module)? {
        banyan_durable::Storage::Sqlite { path } => path.display().to_string(),
        banyan_durable::Storage::Postgres { url, schema } => {
            format!("schema {schema} at {}", banyan_core::without_password(&url))
        }
    })
}

/// How every module's tables stand, after making schemas and logins, and after bringing the tables up to date, if that is wanted.
///
/// # Errors
/// The data is in use; a database that cannot be reached or altered.
pub async fn migrate(settings: &Settings, provision: bool, up: bool) -> anyhow::Result<Migrated> {
    let _lock = data::lock(settings, &data::owners())?;
    let provisioned = if provision {
        data::provision(settings, &data::owners()).await?
    } else {
        Vec::new()
    };
    if up {
        data::migrate(settings, &modules()).await?;
    }
    let mut tables = Vec::new();
    for module in modules() {
        let banyan_durable::migrate::Status {
            applied,
            pending,
            unknown,
        } = data::migration_status(settings, module).await?;
        tables.push(Tables {
            module,
            applied,
            pending,
            unknown,
        });
    }
    Ok(Migrated { provisioned, tables })
}

/// All modules of this binary, started and not yet running, and the lock on their data.
pub struct Local {
    placed: Vec<Placed>,
    _lock: DataLock,
}

impl Local {
    /// Locks and migrates the data, starts every module of this binary, and puts its contract into `contracts`. In the profile `demo`
    /// the schemas are made if they are missing, and the demo data is put in.
    ///
    /// # Errors
    /// A database that cannot be opened; a setting of a module that is wrong.
    pub async fn start(ground: &Ground, contracts: &mut Contracts) -> anyhow::Result<Local> {
        let settings = &ground.settings;
        let lock = data::lock(settings, &data::owners())?;
        if settings.is_demo() {
            data::provision(settings, &data::owners()).await?;
        }
        data::migrate(settings, &modules()).await?;
        let mut placed = Vec::new();
        for (name, start) in STARTS {
            let module = start(ground, contracts).await;
            placed.push(module.map_err(|error| error.context(format!("starting {name}")))?);
        }
        let local = Local { placed, _lock: lock };
        if settings.is_demo() {
            local.seed().await?;
        }
        Ok(local)
    }

    async fn seed(&self) -> anyhow::Result<()> {
        for module in &self.placed {
            let begun = Instant::now();
            // Many processes that start at once keep each other waiting; what is in already is not put in again.
            while let Err(fault) = (module.seed)().await {
                if fault.kind != FaultKind::Unavailable || begun.elapsed() > SEED_PATIENCE {
                    bail!("putting the demo data of {} in: {fault}", module.name);
                }
                tokio::time::sleep(SEED_PAUSE).await;
            }
        }
        Ok(())
    }

    /// Every module's routes, relative to `/api/v1`.
    pub fn routes(&self) -> Vec<(&'static str, Routes)> {
        self.placed
            .iter()
            .map(|module| (module.name, module.routes.clone()))
            .collect()
    }

    /// The routes outside the API.
    pub fn well_known(&self) -> Vec<(&'static str, Routes)> {
        self.placed
            .iter()
            .filter_map(|module| Some((module.name, module.well_known.clone()?)))
            .collect()
    }

    /// The operations API of these modules, relative to `/api/v1`.
    pub fn operations(&self) -> Routes {
        banyan_http::ops::routes(self.placed.iter().map(|module| module.machinery.ops()).collect())
    }

    /// What waits in a module's machinery.
    ///
    /// # Errors
    /// The module is not here; its database is away.
    pub async fn counts(&self, module: &str) -> Result<Counts, Fault> {
        let placed = self
            .placed
            .iter()
            .find(|placed| placed.name == module)
            .ok_or_else(|| Fault::not_found("module"))?;
        placed.machinery.ops().counts().await
    }

    /// Where these modules' events can be asked for.
    pub fn feeds(&self) -> HashMap<String, Arc<dyn EventFeed>> {
        let feed = |module: &Placed| Arc::new(LocalEventFeed(module.machinery.feed())) as Arc<dyn EventFeed>;
        self.placed
            .iter()
            .map(|module| (module.name.to_owned(), feed(module)))
            .collect()
    }

    pub fn checks(&self) -> Vec<Arc<dyn Check>> {
        self.databases()
            .map(|db| Arc::new(DatabaseCheck(db.clone())) as Arc<dyn Check>)
            .collect()
    }

    /// Makes every module hear what it listens to.
    ///
    /// # Errors
    /// Whatever the bus could not do.
    pub async fn connect(&self, bus: &Arc<dyn Bus>) -> anyhow::Result<()> {
        for module in &self.placed {
            module
                .machinery
                .connect(bus)
                .await
                .map_err(|fault| anyhow::anyhow!("connecting {} to the bus: {fault}", module.name))?;
        }
        Ok(())
    }

    /// Runs every module's machinery until `stop`; a handle ends when all of its module's work is done.
    pub fn run(&self, bus: &Arc<dyn Bus>, feeds: &Feeds, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
        self.placed
            .iter()
            .map(|module| module.machinery.clone().run(bus.clone(), feeds.clone(), stop.clone()))
            .collect()
    }

    /// Closes the databases, when nothing runs any more.
    pub async fn close(&self) {
        join_all(self.databases().cloned().map(|db| async move { db.close().await })).await;
    }

    /// Only puts the demo data in, after throwing away what was there if `reset` says so.
    ///
    /// # Errors
    /// As [`start`](Local::start).
    pub async fn seed_only(ground: &Ground, contracts: &mut Contracts, reset: bool) -> anyhow::Result<()> {
        if reset {
            data::reset(&ground.settings, &data::owners()).await?;
        }
        let local = Local::start(ground, contracts).await?;
        local.close().await;
        Ok(())
    }

    fn databases(&self) -> impl Iterator<Item = &Db> {
        self.placed.iter().map(|module| module.machinery.db())
    }
}

/// Whether a module's database answers.
struct DatabaseCheck(Db);

#[async_trait]
impl Check for DatabaseCheck {
    fn name(&self) -> String {
        format!("database:{}", self.0.module())
    }

    fn module(&self) -> Option<&str> {
        Some(self.0.module())
    }

    async fn state(&self) -> State {
        match self.0.ping().await {
            Ok(()) => State::ok(),
            Err(fault) => State::needed(fault.detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use banyan_core::{Call, inside_transaction};

    use super::*;
    use crate::{config::MODULES, discovery, rpc::Remotes, wiring};

    #[test]
    fn the_modules_of_this_binary_start_each_after_those_it_asks() {
        let known: Vec<&str> = SCHEMAS.iter().map(|schema| schema.module).collect();
        assert_eq!(
            modules(),
            MODULES
                .into_iter()
                .filter(|module| known.contains(module))
                .collect::<Vec<_>>()
        );
    }

    /// The modules of this binary in a directory of their own, with the contracts of all.
    struct Started {
        local: Local,
        contracts: Contracts,
        directory: PathBuf,
    }

    impl Started {
        async fn new(test: &str) -> Started {
            let directory = std::env::temp_dir().join(format!("banyan-local-{test}-{}", std::process::id()));
            let variable = ("BANYAN__DATA_DIR".to_owned(), directory.display().to_string());
            let settings = Settings::from_sources(None, [variable]).unwrap();
            let stop = CancellationToken::new();
            let remotes = Remotes::start(
                &settings,
                discovery::start(&settings, &stop).unwrap(),
                Vec::new(),
                &stop,
            )
            .unwrap();
            let mut contracts = remotes.contracts();
            let local = Local::start(&Ground::new(settings), &mut contracts).await.unwrap();
            Started {
                local,
                contracts,
                directory,
            }
        }

        async fn end(self) {
            self.local.close().await;
            std::fs::remove_dir_all(&self.directory).unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_said_to_be_heard_is_what_the_modules_react_to() {
        let started = Started::new("heard").await;
        for module in &started.local.placed {
            assert_eq!(
                module.machinery.topics(),
                wiring::topics_of(module.name),
                "{}",
                module.name
            );
        }
        started.end().await;
    }

    #[tokio::test]
    async fn nobody_is_asked_inside_a_transaction() {
        let started = Started::new("asked").await;
        let Contracts {
            users,
            catalog,
            inventory,
            payments,
            shipping,
            orders,
            notifications,
        } = &started.contracts;
        let call = Call::default();
        let mut asked = inside_transaction(async {
            vec![
                users.find_user(&call, Default::default()).await.err(),
                catalog.list_products(&call, Default::default()).await.err(),
                inventory.find_stock(&call, Default::default()).await.err(),
                payments.find_payment(&call, Default::default()).await.err(),
                shipping.find_shipment(&call, Default::default()).await.err(),
                orders.find_order(&call, Default::default()).await.err(),
                notifications.list_notifications(&call, Default::default()).await.err(),
            ]
        })
        .await;
        for feed in started.local.feeds().values() {
            asked.push(
                inside_transaction(feed.list_subjects(&call, Default::default()))
                    .await
                    .err(),
            );
        }
        for fault in asked {
            assert_eq!(fault.map(|fault| fault.code).as_deref(), Some("inside_transaction"));
        }
        started.end().await;
    }
}
