//! What only a privileged login may do in PostgreSQL: create and drop the modules' schemas and logins.

use anyhow::bail;

use crate::{
    connection::{postgres, servers::Servers},
    fault,
};

/// The time to wait for another process that provisions the same database, in milliseconds.
const LOCK_LIMIT_MS: u32 = 30_000;

/// A connection of a login that may create roles and schemas. What it does is one transaction.
pub struct Admin(postgres::Connection);

impl Admin {
    /// Also takes the lock under which one process at a time provisions this database; it is released by [`close`](Admin::close). A lock of the
    /// transaction, because behind a pooler a session may be another client's.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the login; another process provisions for longer than 30 s.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let connection = postgres::Connection::open(Servers::parse(url)?).await?;
        let lock = format!(
            "begin; set local lock_timeout to {LOCK_LIMIT_MS}; select pg_advisory_xact_lock(hashtext('banyan provision'))"
        );
        match connection.execute_script(&lock).await {
            Err(error) if fault::is_lock_timeout(&error) => bail!(
                "another process has been creating schemas in this database for {} s; wait for it to end, or look for it in pg_stat_activity",
                LOCK_LIMIT_MS / 1_000
            ),
            done => done?,
        };
        Ok(Admin(connection))
    }

    /// Creates a module's schema, owned by the module's own login (role and password) if it has one. Safe to repeat.
    ///
    /// # Errors
    /// The login may not create roles or schemas.
    pub async fn make_schema(&self, schema: &str, login: Option<(&str, &str)>) -> anyhow::Result<()> {
        let Some((role, password)) = login else {
            // `create schema if not exists` requires the right to create even if the schema exists.
            let (literal, schema) = (text(schema), name(schema));
            let make = format!(
                "do $provision$ begin
                    if not exists (select from pg_namespace where nspname = {literal}) then create schema {schema}; end if;
                end $provision$"
            );
            self.0.execute_script(&make).await?;
            return Ok(());
        };
        // Names and passwords cannot be parameters of such statements, so they are quoted here.
        let (schema, literal, role, password) = (name(schema), text(role), name(role), text(password));
        self.0
            .execute_script(&format!(
                "do $provision$ begin
                    if not exists (select from pg_roles where rolname = {literal}) then
                        create role {role} login password {password};
                    else
                        alter role {role} with login password {password};
                    end if;
                end $provision$;
                grant {role} to current_user;
                create schema if not exists {schema} authorization {role};
                revoke all on schema {schema} from public;"
            ))
            .await?;
        Ok(())
    }

    /// # Errors
    /// The login does not own the schema.
    pub async fn drop_schema(&self, schema: &str) -> anyhow::Result<()> {
        self.0
            .execute_script(&format!("drop schema if exists {} cascade", name(schema)))
            .await?;
        Ok(())
    }

    /// Commits.
    ///
    /// # Errors
    /// The connection was lost.
    pub async fn close(self) -> anyhow::Result<()> {
        self.0.execute_script("commit").await?;
        self.0.close().await;
        Ok(())
    }
}

fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
