//! What only a privileged login may do in PostgreSQL: create and drop the modules' schemas and logins.

use std::time::Duration;

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection};

/// A connection of a login that may create roles and schemas.
pub struct Admin(DatabaseConnection);

impl Admin {
    /// Also takes the lock under which one process at a time provisions this database; it is released by [`close`](Admin::close).
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the login.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let mut options = ConnectOptions::new(url);
        options
            .max_connections(1)
            .sqlx_logging(false)
            .acquire_timeout(Duration::from_secs(5));
        let connection = Database::connect(options).await?;
        connection
            .execute_unprepared("select pg_advisory_lock(hashtext('banyan provision'))")
            .await?;
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
            self.0.execute_unprepared(&make).await?;
            return Ok(());
        };
        // Names and passwords cannot be parameters of such statements, so they are quoted here.
        let (schema, literal, role, password) = (name(schema), text(role), name(role), text(password));
        self.0
            .execute_unprepared(&format!(
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
            .execute_unprepared(&format!("drop schema if exists {} cascade", name(schema)))
            .await?;
        Ok(())
    }

    /// # Errors
    /// The connection was lost.
    pub async fn close(self) -> anyhow::Result<()> {
        Ok(self.0.close().await?)
    }
}

fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
