//! Which modules are here, and what each is given. Read this file first.
//!
//! Each module is started with its own database and the contracts it asks for; the order below is that of who asks whom.

use std::sync::Arc;

use anyhow::Context;
use durable::{Db, Machinery, Seed};
use serde::Serialize;
use shared_kernel::{Clock, Ids};
use web::Routes;

use crate::{
    config::{MODULES, Settings},
    data,
    gateway::Asked,
};

/// What all modules are given alike.
#[derive(Clone)]
pub struct Ground {
    pub settings: Settings,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
}

/// A module that runs in this process.
pub struct Placed {
    pub name: &'static str,
    pub routes: Routes,
    pub machinery: Machinery,
    pub seed: Seed,
}

/// All modules, started and not yet running.
pub struct Wired {
    pub placed: Vec<Placed>,
    /// `/.well-known/...`, outside the API.
    pub well_known: Routes,
    /// For checking tokens and for pages.
    pub asked: Asked,
}

/// The modules in this binary, in the order in which they start.
pub fn modules() -> Vec<&'static str> {
    let known = migrations::modules();
    MODULES.into_iter().filter(|module| known.contains(module)).collect()
}

/// Starts every module.
///
/// # Errors
/// A database that cannot be opened; a setting of a module that is wrong.
pub async fn wire(ground: &Ground) -> anyhow::Result<Wired> {
    let Ground { settings, clock, ids } = ground;
    let users = users::start(users::Needs {
        db: open(ground, "users").await?,
        clock: clock.clone(),
        secrets: Arc::new(shared_kernel::RandomSecrets),
        ids: ids.clone(),
        demo: settings.is_demo(),
        settings: users_settings(settings)?,
    })
    .await
    .context("starting users")?;
    let catalog = catalog::start(catalog::Needs { db: open(ground, "catalog").await?, clock: clock.clone(), ids: ids.clone() })
        .await
        .context("starting catalog")?;
    let inventory = inventory::start(inventory::Needs { db: open(ground, "inventory").await?, clock: clock.clone(), ids: ids.clone() })
        .await
        .context("starting inventory")?;
    let payments = payments::start(payments::Needs {
        db: open(ground, "payments").await?,
        clock: clock.clone(),
        ids: ids.clone(),
        provider: payments::ProviderPlace::Sandbox { books: data::place(settings, data::SANDBOX_PROVIDER)? },
        settings: settings.section("payments")?,
    })
    .await
    .context("starting payments")?;
    let shipping = shipping::start(shipping::Needs { db: open(ground, "shipping").await?, clock: clock.clone(), ids: ids.clone() })
        .await
        .context("starting shipping")?;
    let orders = orders::start(orders::Needs {
        db: open(ground, "orders").await?,
        clock: clock.clone(),
        ids: ids.clone(),
        catalog: catalog.contract.clone(),
        inventory: inventory.contract.clone(),
        payments: payments.contract.clone(),
        shipping: shipping.contract.clone(),
        settings: settings.section("orders")?,
    })
    .await
    .context("starting orders")?;
    let notifications = notifications::start(notifications::Needs {
        db: open(ground, "notifications").await?,
        clock: clock.clone(),
        ids: ids.clone(),
        users: users.contract.clone(),
        settings: settings.section("notifications")?,
    })
    .await
    .context("starting notifications")?;

    let asked = Asked {
        orders: orders.contract,
        users: users.contract,
        catalog: catalog.contract,
        payments: payments.contract,
        shipping: shipping.contract,
    };
    let placed = vec![
        Placed { name: "users", routes: users.routes, machinery: users.machinery, seed: users.seed },
        Placed { name: "catalog", routes: catalog.routes, machinery: catalog.machinery, seed: catalog.seed },
        Placed { name: "inventory", routes: inventory.routes, machinery: inventory.machinery, seed: inventory.seed },
        Placed { name: "payments", routes: payments.routes, machinery: payments.machinery, seed: payments.seed },
        Placed { name: "shipping", routes: shipping.routes, machinery: shipping.machinery, seed: shipping.seed },
        Placed { name: "orders", routes: orders.routes, machinery: orders.machinery, seed: orders.seed },
        Placed { name: "notifications", routes: notifications.routes, machinery: notifications.machinery, seed: notifications.seed },
    ];
    Ok(Wired { placed, well_known: users.well_known, asked })
}

/// The users module's settings: its own section, and what the whole shop says about tokens.
fn users_settings(settings: &Settings) -> anyhow::Result<users::Settings> {
    let mut own: users::Settings = settings.section("users")?;
    own.issuer.clone_from(&settings.auth.issuer);
    own.audience.clone_from(&settings.auth.audience);
    own.signing_key_file.clone_from(&settings.auth.signing_key_file);
    Ok(own)
}

async fn open(ground: &Ground, module: &str) -> anyhow::Result<Db> {
    let place = data::place(&ground.settings, module)?;
    let opened = Db::open(module, &place, ground.settings.durable.clone(), ground.clock.clone(), ground.ids.clone()).await;
    opened.map_err(|fault| anyhow::anyhow!("{}", fault.detail))
}

/// How one module is placed and connected, for people.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Placement {
    pub name: String,
    /// `local`: in this binary.
    pub placement: String,
    /// Where its data is.
    pub data: String,
    /// The modules it asks through their contracts.
    pub asks: Vec<String>,
    /// The aggregates of other modules whose events it hears.
    pub hears: Vec<String>,
}

/// Who asks whom, and who hears what. A test compares what is heard with the modules' reactions.
const CONNECTIONS: &[(&str, &[&str], &[&str])] = &[
    ("users", &[], &[]),
    ("catalog", &[], &["orders.order"]),
    ("inventory", &[], &[]),
    ("payments", &[], &[]),
    ("shipping", &[], &[]),
    ("orders", &["catalog", "inventory", "payments", "shipping"], &["payments.payment", "shipping.shipment"]),
    ("notifications", &["users"], &["orders.order", "payments.payment", "users.user"]),
];

/// Who listens to what: each module of this binary with its topics, `<source>.<aggregate>`.
pub fn topics() -> Vec<(&'static str, &'static [&'static str])> {
    CONNECTIONS.iter().map(|(name, _, hears)| (*name, *hears)).collect()
}

/// How the modules are placed by these settings.
///
/// # Errors
/// A database URL that is none.
pub fn placements(settings: &Settings) -> anyhow::Result<Vec<Placement>> {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    modules()
        .into_iter()
        .map(|module| {
            let (_, asks, hears) = CONNECTIONS.iter().find(|(name, ..)| *name == module).copied().unwrap_or((module, &[], &[]));
            let data = match data::place(settings, module)? {
                durable::Place::Sqlite { path } => path.display().to_string(),
                durable::Place::Postgres { url, schema } => format!("schema {schema} at {}", durable::without_password(&url)),
            };
            Ok(Placement { name: module.to_owned(), placement: "local".to_owned(), data, asks: owned(asks), hears: owned(hears) })
        })
        .collect()
}

/// The same as a mermaid diagram: solid lines are questions, dotted ones events.
pub fn mermaid(placements: &[Placement]) -> String {
    let mut lines = vec!["flowchart LR".to_owned()];
    for module in placements {
        lines.push(format!("    {}[\"{} ({})\"]", module.name, module.name, module.placement));
    }
    for module in placements {
        lines.extend(module.asks.iter().map(|asked| format!("    {} --> {asked}", module.name)));
        let sources = module.hears.iter().filter_map(|topic| topic.split_once('.'));
        lines.extend(sources.map(|(source, aggregate)| format!("    {source} -. {aggregate} .-> {}", module.name)));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use shared_kernel::{RandomIds, SystemClock};

    use super::*;

    #[tokio::test]
    async fn what_is_said_to_be_heard_is_what_the_modules_react_to() {
        let directory = std::env::temp_dir().join(format!("banyan-wiring-{}", std::process::id()));
        let variable = ("BANYAN__DATA_DIR".to_owned(), directory.display().to_string());
        let settings = Settings::from_sources(None, [variable]).unwrap();
        let lock = data::lock(&settings, &modules()).unwrap();
        data::migrate(&settings, &modules()).await.unwrap();
        let ground = Ground { settings, clock: Arc::new(SystemClock), ids: Arc::new(RandomIds) };
        let wired = wire(&ground).await.unwrap();
        for module in &wired.placed {
            let (_, _, hears) = CONNECTIONS.iter().find(|(name, ..)| *name == module.name).unwrap();
            assert_eq!(module.machinery.topics(), *hears, "{}", module.name);
        }
        drop(lock);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn every_default_of_a_module_stands_in_the_file() {
        fn compare<T: serde::de::DeserializeOwned + Serialize + Default>(settings: &Settings, section: &str) {
            let in_file = serde_json::to_value(settings.section::<T>(section).unwrap()).unwrap();
            assert_eq!(in_file, serde_json::to_value(T::default()).unwrap(), "{section}");
        }
        let settings = Settings::from_sources(None, []).unwrap();
        compare::<users::Settings>(&settings, "users");
        compare::<orders::Settings>(&settings, "orders");
        compare::<payments::Settings>(&settings, "payments");
        compare::<notifications::Settings>(&settings, "notifications");
    }
}
