//! Servers that respond and refuse, under load: PostgreSQL that became read-only, a login or a right that is gone, a broker that takes no more events.
//!
//! A refusal is an outage, not a bug: nothing is parked or dead, and everything goes on by itself once the server does its work again.

use std::time::Duration;

use banyan::MODULES;
use rand::{
    Rng,
    seq::{IndexedRandom, SliceRandom},
};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};

use super::{Case, Story, faults};
use crate::{
    harness::{Broker, Plan, Postgres, Shop, Stage},
    load::{Load, SETTINGS},
};

pub fn all() -> Vec<Case> {
    vec![("servers_that_refuse_lose_duplicate_and_park_nothing", || {
        Box::pin(refuse())
    })]
}

const IN_FLIGHT: usize = 20;

/// What a server refuses.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    /// The whole server is read-only, as a standby is.
    ReadOnly,
    /// The logins of one module are read-only.
    ReadOnlyLogin,
    /// A module may not log in, and its connections are closed: a login that was rotated.
    NoLogin,
    /// A module may not touch its tables any more; its connections stay.
    NoTables,
    /// A module may not use its schema any more, so its tables do not even exist for it.
    NoSchema,
    /// A module gets no connection: the server has no more of them.
    NoConnections,
    /// The disk of a module's tables is full. A real one needs a file system of its own, so a trigger refuses what a full disk does, with its code.
    DiskFull,
    /// The broker's disk is full: it takes no more events.
    BrokerFull,
}

const REFUSALS: [Refusal; 8] = [
    Refusal::ReadOnly,
    Refusal::ReadOnlyLogin,
    Refusal::NoLogin,
    Refusal::NoTables,
    Refusal::NoSchema,
    Refusal::NoConnections,
    Refusal::DiskFull,
    Refusal::BrokerFull,
];

/// As PostgreSQL reports a full disk.
const FULL: &str = "create or replace function public.disk_full() returns trigger language plpgsql as $$ begin
    raise exception 'could not extend file: No space left on device' using errcode = 'disk_full'; end $$";

/// The servers of the shop, as their administrator.
struct Servers {
    broker: Broker,
    admin: DatabaseConnection,
    /// The shop's database.
    database: String,
}

impl Servers {
    async fn sql(&self, statement: &str) {
        self.admin
            .execute_unprepared(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    async fn begin(&self, refusal: Refusal, module: &str) {
        let login = format!("{}_{module}", self.database);
        match refusal {
            Refusal::ReadOnly => self.set_server("set default_transaction_read_only = on").await,
            Refusal::ReadOnlyLogin => {
                self.sql(&format!("alter role {login} set default_transaction_read_only = on"))
                    .await;
                self.close_connections(&login).await;
            }
            Refusal::NoLogin => {
                self.sql(&format!("alter role {login} nologin")).await;
                self.close_connections(&login).await;
            }
            Refusal::NoTables => {
                self.sql(&format!("revoke all on all tables in schema {module} from {login}"))
                    .await;
            }
            Refusal::NoSchema => self.sql(&format!("revoke usage on schema {module} from {login}")).await,
            Refusal::NoConnections => {
                self.sql(&format!("alter role {login} connection limit 0")).await;
                self.close_connections(&login).await;
            }
            Refusal::DiskFull => {
                self.sql(FULL).await;
                let trigger = "create trigger disk_full before insert or update on";
                self.each_table(
                    module,
                    trigger,
                    "for each statement execute function public.disk_full()",
                )
                .await;
            }
            Refusal::BrokerFull => {
                self.broker.control("set_disk_free_limit 900000GB");
            }
        }
    }

    async fn end(&self, refusal: Refusal, module: &str) {
        let login = format!("{}_{module}", self.database);
        match refusal {
            Refusal::ReadOnly => self.set_server("reset default_transaction_read_only").await,
            Refusal::ReadOnlyLogin => {
                self.sql(&format!("alter role {login} reset default_transaction_read_only"))
                    .await;
            }
            Refusal::NoLogin => self.sql(&format!("alter role {login} login")).await,
            Refusal::NoTables => {
                self.sql(&format!("grant all on all tables in schema {module} to {login}"))
                    .await;
            }
            Refusal::NoSchema => self.sql(&format!("grant usage on schema {module} to {login}")).await,
            Refusal::NoConnections => self.sql(&format!("alter role {login} connection limit -1")).await,
            Refusal::DiskFull => self.each_table(module, "drop trigger disk_full on", "").await,
            Refusal::BrokerFull => {
                self.broker.control("set_disk_free_limit 50MB");
            }
        }
    }

    /// Changes a setting of the server for all connections, also those that are open.
    async fn set_server(&self, change: &str) {
        self.sql("set default_transaction_read_only = off").await;
        self.sql(&format!("alter system {change}")).await;
        self.sql("select pg_reload_conf()").await;
    }

    /// One statement for each table of a module. Together they would lock all tables, and could deadlock with the load.
    async fn each_table(&self, module: &str, before: &str, after: &str) {
        let tables = format!("select tablename::text as name from pg_tables where schemaname = '{module}'");
        let tables = Statement::from_string(DbBackend::Postgres, tables);
        let rows = self.admin.query_all_raw(tables).await.expect("the tables are listed");
        for row in rows {
            let table: String = row.try_get("", "name").expect("a name");
            self.sql(&format!("{before} {module}.{table} {after}")).await;
        }
    }

    async fn close_connections(&self, login: &str) {
        self.sql(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = '{login}'"
        ))
        .await;
    }
}

async fn refuse() {
    let (postgres, broker) = (Postgres::start(), Broker::start());
    let mut shop: Shop = Plan::on(Stage::Split)
        .with(SETTINGS)
        .postgres(&postgres.url())
        .broker(&broker.url())
        .start()
        .await;
    let url = shop.database_url().expect("PostgreSQL");
    let servers = Servers {
        broker,
        // One connection, so that what is set for it holds.
        admin: Database::connect(sea_orm::ConnectOptions::new(&url).max_connections(1).to_owned())
            .await
            .expect("the server responds"),
        database: url.rsplit_once('/').expect("a database").1.to_owned(),
    };
    let mut story = Story::default();
    let load = Load::start(&shop.client(), IN_FLIGHT).await;
    for _ in 0..faults() {
        let mut refusals = REFUSALS;
        refusals.shuffle(&mut rand::rng());
        for refusal in refusals {
            let module = *MODULES.choose(&mut rand::rng()).expect("modules");
            let lasts = Duration::from_millis(rand::rng().random_range(2_500..5_000));
            story.add(format!("{refusal:?} for {module}, {lasts:?}"));
            servers.begin(refusal, module).await;
            tokio::time::sleep(lasts).await;
            servers.end(refusal, module).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    load.end(&shop).await;
    // Nobody restarted anything.
    shop.until_ready().await;
    servers.admin.close().await.expect("the connection closes");
    shop.remove().await;
}
