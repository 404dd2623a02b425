//! Where a shop's data is for the length of a run: a directory, or a database of its own in a PostgreSQL server.

use std::collections::BTreeMap;

use anyhow::Context;
use parking_lot::Mutex;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, raw_sql};
use uuid::Uuid;

use crate::{options::local, process};

/// A PostgreSQL server on this machine, and the databases the driver has created in it.
pub struct Postgres {
    url: String,
    created: Mutex<Vec<String>>,
}

impl Postgres {
    /// # Errors
    /// No server there; the message says how to start one.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let postgres = Postgres {
            url: url.to_owned(),
            created: Mutex::default(),
        };
        postgres.open(url).await?.close().await?;
        Ok(postgres)
    }

    /// Creates an empty database and returns its name.
    pub async fn create_database(&self) -> anyhow::Result<String> {
        // Logins are named after the database and the module, and a name has at most 63 bytes.
        let unique = &Uuid::new_v4().simple().to_string()[..12];
        let name = format!("banyan_load_{}_{unique}", std::process::id());
        let mut admin = self.open(&self.url).await?;
        self.created.lock().push(name.clone());
        raw_sql(AssertSqlSafe(format!("create database {name}")))
            .execute(&mut admin)
            .await?;
        Ok(name)
    }

    /// The URL of a database of this server, with the same login.
    pub fn url_of(&self, database: &str) -> anyhow::Result<String> {
        let mut url = local(&self.url, "--postgres", "postgres")?;
        url.set_path(database);
        Ok(url.into())
    }

    pub async fn connect_to(&self, database: &str) -> anyhow::Result<PgConnection> {
        self.open(&self.url_of(database)?).await
    }

    /// The CPU time of each server process that serves a connection to this database, by its process id, in milliseconds.
    pub async fn cpu_ms(&self, database: &str) -> BTreeMap<u32, f64> {
        let Ok(pids) = self.backends(database).await else {
            return BTreeMap::new();
        };
        pids.into_iter()
            .filter_map(|pid| Some((pid, process::cpu_ms(pid)?)))
            .collect()
    }

    async fn backends(&self, database: &str) -> anyhow::Result<Vec<u32>> {
        let mut admin = self.open(&self.url).await?;
        let query = "select pid from pg_stat_activity where datname = $1";
        let rows = sqlx::query(query).bind(database).fetch_all(&mut admin).await?;
        rows.iter()
            .map(|row| Ok(u32::try_from(row.try_get::<i32, _>(0)?)?))
            .collect()
    }

    /// Drops every database the driver has created, with the logins of the shops in them, which belong to the server.
    pub async fn drop_databases(&self) -> anyhow::Result<()> {
        let created = std::mem::take(&mut *self.created.lock());
        if created.is_empty() {
            return Ok(());
        }
        let mut admin = self.open(&self.url).await?;
        for name in created {
            let statements = [
                format!("drop database if exists {name} with (force)"),
                format!(
                    "do $$ declare login text; begin
                        for login in select rolname from pg_roles where starts_with(rolname, '{name}_') loop
                            execute format('drop role %I', login);
                        end loop;
                    end $$"
                ),
            ];
            for statement in statements {
                let done = raw_sql(AssertSqlSafe(statement)).execute(&mut admin).await;
                done.with_context(|| format!("the database {name} cannot be removed"))?;
            }
        }
        Ok(())
    }

    async fn open(&self, url: &str) -> anyhow::Result<PgConnection> {
        PgConnection::connect(url).await.with_context(|| {
            format!(
                "no PostgreSQL accepts the login at {}; `bash scripts/lib/postgres.sh boot DIRECTORY PORT` starts one for \
                 postgres://postgres@127.0.0.1:PORT/postgres",
                self.url
            )
        })
    }
}

/// The CPU time between two readings of the same database, in milliseconds.
pub fn cpu_between(before: &BTreeMap<u32, f64>, after: &BTreeMap<u32, f64>) -> f64 {
    after
        .iter()
        .map(|(pid, ms)| ms - before.get(pid).copied().unwrap_or_default())
        .sum()
}
