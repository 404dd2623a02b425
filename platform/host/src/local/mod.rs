//! The modules in this process: started, each with its own database and the contracts it calls, local or remote.
//!
//! In a binary without any module, `none.rs` replaces this file.

pub mod data;
mod lock;
mod marking;
mod members;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use async_trait::async_trait;
use banyan_core::{Bus, Check, CheckResult, Clock, Fault, FaultKind, Ids};
pub use banyan_durable::Counts;
use banyan_durable::{Db, Feeds, FileCheck, Machinery, Schema, Seed, Storage};
use banyan_event_feed_contract::{EventFeed, LocalEventFeed};
use banyan_http::Routes;
use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    MigrateOptions, Module, Product,
    migrated::{Migrated, Tables},
    settings::{Auth, Section, Settings},
    sources::Sources,
};
use data::Data;
use lock::DataLock;
use marking::Marking;

/// The time after which seeding a busy database is given up.
const SEED_TIMEOUT: Duration = Duration::from_secs(30);
/// The delay before seeding is retried.
const SEED_DELAY: Duration = Duration::from_millis(500);

/// How a module is started in this process.
pub struct LocalModule<C: 'static> {
    pub schema: &'static Schema,
    /// The names of further storage, in the same directory or database as the module's own.
    pub also_stores: &'static [&'static str],
    /// Its commands on the command line.
    pub commands: &'static [ModuleCommand],
    /// Reads the module's own settings, and returns how it is started with them.
    pub configure: fn(Section) -> anyhow::Result<Start<C>>,
}

/// A command that works on the data of a module: `banyan <module> <command>`. On SQLite the server must be stopped meanwhile.
pub struct ModuleCommand {
    pub name: &'static str,
    /// What it does, in a sentence: for the command line.
    pub summary: &'static str,
    /// Carries it out, with the module's own settings, and returns what is printed.
    pub run: fn(Section, ModuleContext) -> BoxFuture<'static, anyhow::Result<String>>,
}

/// Starts a module with its [`ModuleContext`] and the contracts of all modules, local ones if they were started before it.
pub struct Start<C: 'static>(StartFn<C>);

type StartFn<C> = Box<dyn FnOnce(ModuleContext, C) -> BoxFuture<'static, anyhow::Result<StartedModule<C>>> + Send>;

impl<C> Start<C> {
    pub fn new<F, Fut>(start: F) -> Self
    where
        F: FnOnce(ModuleContext, C) -> Fut + Send + 'static,
        Fut: Future<Output = anyhow::Result<StartedModule<C>>> + Send + 'static,
    {
        Start(Box::new(move |context, contracts| Box::pin(start(context, contracts))))
    }
}

/// What every module is started with.
pub struct ModuleContext {
    pub db: Db,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub auth: Auth,
    /// Whether the profile is `demo`.
    pub is_demo: bool,
    /// Its further storage, in the order of [`LocalModule::also_stores`].
    pub also_stores: Vec<Storage>,
}

/// A module that was started in this process.
pub struct StartedModule<C: 'static> {
    pub routes: Routes,
    pub machinery: Machinery,
    pub seed: Seed,
    /// `/.well-known/...`, outside the API.
    pub well_known: Option<Routes>,
    /// Replaces the remote contract of the module with the local one.
    pub offer: Box<dyn FnOnce(&mut C) + Send>,
}

/// A started module, its contract offered.
struct Running {
    name: &'static str,
    routes: Routes,
    machinery: Machinery,
    seed: Seed,
    well_known: Option<Routes>,
}

/// The modules of this binary, their settings read.
pub struct Configured<C: 'static>(Vec<(&'static Module<C>, &'static LocalModule<C>, Start<C>)>);

/// Reads the settings of all modules in this binary.
///
/// # Errors
/// An invalid setting of a module; names the key.
pub fn configure<C>(product: &'static Product<C>, settings: &Settings) -> anyhow::Result<Configured<C>> {
    let mut configured = Vec::new();
    for module in product.modules {
        if let Some(local) = &module.local {
            let start = (local.configure)(settings.section_of(module.name))?;
            configured.push((module, local, start));
        }
    }
    Ok(Configured(configured))
}

/// The schemas of the modules in this binary, and the further storage beside them.
fn stored<C>(product: &'static Product<C>) -> Vec<data::Stored> {
    let local = product.modules.iter().filter_map(|module| module.local.as_ref());
    local
        .map(|local| data::Stored {
            schema: local.schema,
            also: local.also_stores,
        })
        .collect()
}

/// The location of the data of a local module, as text for operators.
///
/// # Errors
/// A database URL that is not a URL.
pub fn data_of(settings: &Settings, module: &str) -> anyhow::Result<String> {
    Ok(match data::storage(settings, module, module)? {
        Storage::Sqlite { path } => path.display().to_string(),
        Storage::Postgres { url, schema } => format!("schema {schema} at {}", banyan_core::without_password(&url)),
    })
}

/// The state of every module's tables, after what the options ask for.
///
/// # Errors
/// The data is in use, damaged, incomplete, or of another installation; a database is unreachable or cannot be changed.
pub async fn migrate<C>(
    product: &'static Product<C>,
    settings: &Settings,
    options: &MigrateOptions,
) -> anyhow::Result<Migrated> {
    let data = Data::new(settings, stored(product));
    let mut lock = data.lock().await?;
    let migrated = migrate_locked(&data, options).await;
    lock.ended();
    migrated
}

async fn migrate_locked(data: &Data<'_>, options: &MigrateOptions) -> anyhow::Result<Migrated> {
    let provisioned = if options.provision {
        data.provision().await?
    } else {
        Vec::new()
    };
    if options.up {
        let mut members = data.members().await?;
        members.begin_anew(&options.new_modules).await?;
        members.adopt(&options.adopt).await?;
        members.accept_older(&options.accept_older).await?;
        data.migrate(members).await?;
    }
    let mut tables = Vec::new();
    for (module, status) in data.migration_status().await? {
        tables.push(Tables {
            module,
            applied: status.applied,
            pending: status.pending,
            unknown: status.unknown,
        });
    }
    Ok(Migrated { provisioned, tables })
}

/// The commands of the modules in this binary: the module, the command's name, and what it does.
pub fn commands<C>(product: &'static Product<C>) -> Vec<(&'static str, &'static str, &'static str)> {
    let local = product
        .modules
        .iter()
        .filter_map(|module| Some((module.name, module.local.as_ref()?)));
    let commands = local.flat_map(|(module, local)| local.commands.iter().map(move |command| (module, command)));
    commands
        .map(|(module, command)| (module, command.name, command.summary))
        .collect()
}

/// Runs a command of a module; returns what is printed.
///
/// # Errors
/// The data is in use, or its tables are not those of this version; whatever the command refuses.
pub async fn run_command<C>(
    product: &'static Product<C>,
    settings: &Settings,
    module: &str,
    command: &str,
) -> anyhow::Result<String> {
    let known = product.modules.iter().find(|known| known.name == module);
    let local = known.and_then(|known| known.local.as_ref());
    let found = local.and_then(|local| local.commands.iter().find(|known| known.name == command));
    let Some(found) = found else {
        bail!("{module} has no command {command} in this binary");
    };
    let data = Data::new(settings, stored(product));
    let mut lock = data.lock().await?;
    let done = run_on_data(&data, settings, module, found).await;
    lock.ended();
    done
}

async fn run_on_data(
    data: &Data<'_>,
    settings: &Settings,
    module: &str,
    command: &ModuleCommand,
) -> anyhow::Result<String> {
    let status = data.migration_status().await?;
    let of_module = status.iter().find(|(name, _)| *name == module);
    if of_module.is_none_or(|(_, status)| !status.pending.is_empty()) {
        bail!("the tables of {module} are not those of this version: run `migrate` with the same settings first");
    }
    let sources = Sources::system();
    let db = data::open(settings, module, &sources).await?;
    let context = ModuleContext {
        db: db.clone(),
        clock: sources.clock.clone(),
        ids: sources.ids.clone(),
        auth: settings.auth.clone(),
        is_demo: settings.is_demo(),
        also_stores: Vec::new(),
    };
    let done = (command.run)(settings.section_of(module), context).await;
    db.close().await;
    done
}

/// All modules of this process, started and not yet running, and the lock on their data.
pub struct LocalModules {
    running: Vec<Running>,
    lock: Mutex<DataLock>,
    marking: Marking,
}

impl LocalModules {
    /// Locks and migrates the data, starts every module of this binary, and puts its contract into `contracts`. In the profile `demo`
    /// missing schemas are created, and the demo data is added.
    ///
    /// # Errors
    /// A database that cannot be opened; a module that does not start.
    pub async fn start<C: Clone>(
        product: &'static Product<C>,
        settings: &Settings,
        configured: Configured<C>,
        sources: &Sources,
        contracts: &mut C,
    ) -> anyhow::Result<LocalModules> {
        let data = Data::new(settings, stored(product));
        let lock = data.lock().await?;
        if settings.is_demo() {
            data.provision().await?;
        }
        let mut members = data.migrate(data.members().await?).await?;
        let mut running = Vec::new();
        for (module, local, start) in configured.0 {
            let name = module.name;
            let further = local
                .also_stores
                .iter()
                .map(|further| data::storage(settings, name, further));
            let context = ModuleContext {
                db: data::open(settings, name, sources).await?,
                clock: sources.clock.clone(),
                ids: sources.ids.clone(),
                auth: settings.auth.clone(),
                is_demo: settings.is_demo(),
                also_stores: further.collect::<anyhow::Result<_>>()?,
            };
            let started = start.0(context, contracts.clone()).await;
            let started = started.map_err(|error| error.context(format!("starting {name}")))?;
            let topics = started.machinery.topics();
            if topics != module.subscribes {
                bail!(
                    "the table of modules says that {name} subscribes to {:?}, but its reactions subscribe to {topics:?}",
                    module.subscribes
                );
            }
            (started.offer)(contracts);
            let machinery = started.machinery.subscribers(subscribers_of(product, name));
            running.push(Running {
                name,
                routes: started.routes,
                machinery,
                seed: started.seed,
                well_known: started.well_known,
            });
        }
        // Further storage has its tables only now.
        members.join().await?;
        let lock = Mutex::new(lock);
        let databases = running.iter().flat_map(|module| module.machinery.databases());
        let marking = Marking::new(databases.cloned().collect(), members.own_marks());
        marking.advance().await;
        let local = LocalModules { running, lock, marking };
        if settings.is_demo() {
            local.seed().await?;
        }
        Ok(local)
    }

    /// Deletes the data of all modules of this binary.
    ///
    /// # Errors
    /// Another process uses the data; it cannot be removed.
    pub async fn reset<C>(product: &'static Product<C>, settings: &Settings) -> anyhow::Result<()> {
        Data::new(settings, stored(product)).reset().await
    }

    async fn seed(&self) -> anyhow::Result<()> {
        for module in &self.running {
            let started = Instant::now();
            // Processes that start at the same time block each other; data that exists already is not added again.
            while let Err(fault) = (module.seed)().await {
                if fault.kind != FaultKind::Unavailable || started.elapsed() > SEED_TIMEOUT {
                    bail!("adding the demo data of {}: {fault}", module.name);
                }
                tokio::time::sleep(SEED_DELAY).await;
            }
        }
        Ok(())
    }

    /// Every module's routes, relative to `/api/v1`.
    pub fn routes(&self) -> Vec<(&'static str, Routes)> {
        self.running
            .iter()
            .map(|module| (module.name, module.routes.clone()))
            .collect()
    }

    /// The routes outside the API.
    pub fn well_known(&self) -> Vec<(&'static str, Routes)> {
        self.running
            .iter()
            .filter_map(|module| Some((module.name, module.well_known.clone()?)))
            .collect()
    }

    /// The operations API of these modules, relative to `/api/v1`.
    pub fn operations(&self) -> Routes {
        banyan_http::ops::routes(self.running.iter().map(|module| module.machinery.ops()).collect())
    }

    /// The numbers of events, reactions and sagas waiting in a module.
    ///
    /// # Errors
    /// The module is not in this process; its database is unavailable.
    pub async fn counts(&self, module: &str) -> Result<Counts, Fault> {
        let running = self
            .running
            .iter()
            .find(|running| running.name == module)
            .ok_or_else(|| Fault::not_found("module"))?;
        running.machinery.ops().counts().await
    }

    /// The event feeds of these modules.
    pub fn feeds(&self) -> HashMap<String, Arc<dyn EventFeed>> {
        let feed = |module: &Running| Arc::new(LocalEventFeed(module.machinery.feed())) as Arc<dyn EventFeed>;
        self.running
            .iter()
            .map(|module| (module.name.to_owned(), feed(module)))
            .collect()
    }

    pub fn checks(&self) -> Vec<Arc<dyn Check>> {
        let lock = self.lock.lock();
        self.databases()
            .map(|db| {
                let (db, files) = (db.clone(), lock.checks(db.module()));
                Arc::new(DatabaseCheck { db, files }) as Arc<dyn Check>
            })
            .collect()
    }

    /// Subscribes every module to the events of its reactions.
    ///
    /// # Errors
    /// A failure of the bus.
    pub async fn connect(&self, bus: &Arc<dyn Bus>) -> anyhow::Result<()> {
        for module in &self.running {
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
        let machineries = self
            .running
            .iter()
            .map(|module| module.machinery.clone().run(bus.clone(), feeds.clone(), stop.clone()));
        let marks = tokio::spawn(self.marking.clone().run(stop.clone()));
        machineries.chain([marks]).collect()
    }

    /// Closes the databases, once nothing runs any more.
    pub async fn close(&self) {
        self.marking.end().await;
        join_all(self.databases().cloned().map(|db| async move { db.close().await })).await;
        if self.databases().all(|db| db.damage().is_none()) {
            self.lock.lock().ended();
        }
    }

    fn databases(&self) -> impl Iterator<Item = &Db> {
        self.running.iter().flat_map(|module| module.machinery.databases())
    }
}

/// The modules that subscribe to a module's events, here or in another process, with the aggregate.
fn subscribers_of<C>(product: &Product<C>, producer: &str) -> Vec<(String, String)> {
    let subscriptions = product
        .modules
        .iter()
        .flat_map(|module| module.subscribes.iter().map(|topic| (module.name, *topic)));
    subscriptions
        .filter_map(|(subscriber, topic)| {
            let (of, aggregate) = topic.split_once('.')?;
            (of == producer).then(|| (subscriber.to_owned(), aggregate.to_owned()))
        })
        .collect()
}

/// Whether a module's database is available, and its files are not known to be damaged.
struct DatabaseCheck {
    db: Db,
    files: Vec<FileCheck>,
}

#[async_trait]
impl Check for DatabaseCheck {
    fn name(&self) -> String {
        format!("database:{}", self.db.module())
    }

    fn module(&self) -> Option<&str> {
        Some(self.db.module())
    }

    async fn run(&self) -> CheckResult {
        if let Some(Err(damage)) = self.files.iter().filter_map(FileCheck::found).find(Result::is_err) {
            return CheckResult::failed(damage);
        }
        match self.db.ping().await {
            Ok(()) => CheckResult::ok(),
            Err(fault) => CheckResult::failed(fault.detail),
        }
    }
}
