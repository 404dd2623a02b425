//! Migrations: each module migrates alone, in its own file or schema, the machinery's tables first.
//!
//! A migration that has shipped is never edited; a change is a new migration. Table and column changes are additive within a release, so
//! that an old and a new binary can run side by side.

mod admin;
mod migration;

pub use admin::Admin;
pub use migration::Migration;
pub(crate) use migration::text;

use anyhow::{Context, bail};
use sea_orm::{ConnectionTrait, DbBackend, Statement};

use crate::{Connection, query};

/// The tables that every module has for what must survive a crash.
pub(crate) const MACHINERY: &[Migration] = &[
    Migration {
        name: "m0001_durable",
        up: include_str!("../../migrations/m0001_durable.sql"),
    },
    Migration {
        name: "m0002_durable_indexes",
        up: include_str!("../../migrations/m0002_indexes.sql"),
    },
    Migration {
        name: "m0003_durable_subscribers",
        up: include_str!("../../migrations/m0003_subscribers.sql"),
    },
    Migration {
        name: "m0004_durable_growth",
        up: include_str!("../../migrations/m0004_growth.sql"),
    },
    Migration {
        name: "m0005_durable_saga",
        up: include_str!("../../migrations/m0005_saga.sql"),
    },
    Migration {
        name: "m0006_durable_fold",
        up: include_str!("../../migrations/m0006_fold.sql"),
    },
    Migration {
        name: "m0007_durable_installation",
        up: include_str!("../../migrations/m0007_installation.sql"),
    },
    Migration {
        name: "m0008_durable_restored",
        up: include_str!("../../migrations/m0008_restored.sql"),
    },
];

/// The table that records the applied migrations. Name and columns are those of sea-orm-migration, by which earlier versions made it.
const RECORD: &str =
    "create table if not exists seaql_migrations (version varchar not null primary key, applied_at bigint not null)";

/// The tables of one module, beside those that every module has.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// The module they belong to: the name of the schema on PostgreSQL, of the file on SQLite.
    pub module: &'static str,
    /// In the order in which they are applied. A name is recorded for ever.
    pub migrations: &'static [Migration],
}

/// Where one module's schema stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub applied: Vec<String>,
    pub pending: Vec<String>,
    /// Applied by a newer binary: this one does not know them.
    pub unknown: Vec<String>,
}

impl Status {
    /// Of a schema that does not exist yet.
    pub fn of_new(schema: &Schema) -> Self {
        let names = Set::of(schema)
            .migrations
            .into_iter()
            .map(|migration| migration.name.to_owned());
        Status {
            applied: Vec::new(),
            pending: names.collect(),
            unknown: Vec::new(),
        }
    }

    fn is_pending(&self, migration: &Migration) -> bool {
        self.pending.iter().any(|name| name == migration.name)
    }
}

/// A module that has no tables of its own.
impl From<&'static str> for Schema {
    fn from(module: &'static str) -> Self {
        Schema {
            module,
            migrations: &[],
        }
    }
}

/// Migrates one module's schema. Safe to call from several processes at once: one migrates, the others wait for it.
///
/// # Errors
/// A schema that was migrated by a newer binary is refused: this binary would misread it.
pub async fn up(connection: &Connection, schema: &Schema) -> anyhow::Result<Status> {
    let set = Set::of(schema);
    lock(connection, schema.module, "pg_advisory_lock").await?;
    let done = set.bring_up(connection).await;
    lock(connection, schema.module, "pg_advisory_unlock").await?;
    done
}

/// The applied and the pending migrations. It creates at most the table that records them.
pub async fn status(connection: &Connection, schema: &Schema) -> anyhow::Result<Status> {
    Set::of(schema).status(connection).await
}

/// One module's migrations, those of the machinery first.
struct Set {
    module: &'static str,
    migrations: Vec<Migration>,
}

impl Set {
    fn of(schema: &Schema) -> Self {
        Set {
            module: schema.module,
            migrations: [MACHINERY, schema.migrations].concat(),
        }
    }

    async fn bring_up(&self, connection: &Connection) -> anyhow::Result<Status> {
        let status = self.status(connection).await?;
        let module = self.module;
        if !status.unknown.is_empty() {
            let unknown = status.unknown.join(", ");
            bail!(
                "the tables of {module} were migrated by a newer banyan ({unknown} is unknown here); start that version, or restore the backup taken before it"
            );
        }
        if status.pending.is_empty() {
            return Ok(status);
        }
        for migration in self.migrations.iter().filter(|migration| status.is_pending(migration)) {
            let apply = migration.apply(connection).await;
            apply.with_context(|| format!("migrating {module}: {}", migration.name))?;
        }
        self.status(connection).await
    }

    async fn status(&self, connection: &Connection) -> anyhow::Result<Status> {
        connection.execute_unprepared(RECORD).await?;
        let recorded: Vec<String> =
            query::scalars(connection, "select version from seaql_migrations order by version", []).await?;
        let known: Vec<&str> = self.migrations.iter().map(|migration| migration.name).collect();
        let (applied, unknown): (Vec<String>, Vec<String>) =
            recorded.into_iter().partition(|name| known.contains(&name.as_str()));
        let pending = known
            .into_iter()
            .filter(|name| !applied.iter().any(|done| done == name))
            .map(str::to_owned)
            .collect();
        Ok(Status {
            applied,
            pending,
            unknown,
        })
    }
}

/// Takes or releases the advisory lock of one module's schema. On SQLite the file lock that every process takes before it opens its data
/// directory does the same.
async fn lock(connection: &Connection, module: &str, function: &str) -> anyhow::Result<()> {
    if connection.get_database_backend() == DbBackend::Postgres {
        let sql = format!("select {function}(hashtext(current_schema() || $1))");
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, [module.into()]);
        connection
            .query_one_raw(statement)
            .await
            .with_context(|| format!("locking the schema of {module}"))?;
    }
    Ok(())
}
