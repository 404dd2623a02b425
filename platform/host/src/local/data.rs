//! Where each module's data is, who may open it, and how it is brought up to date.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, bail};
use banyan_durable::{
    Db, Schema, Storage, first_host, installation, migrate, refuse_transaction_pooling, with_hosts_of,
};
use hmac::{Hmac, Mac};
use secrecy::ExposeSecret;
use sha2::Sha256;
use url::Url;

use super::{
    lock::DataLock,
    members::{Members, Place},
};
use crate::{settings::Settings, sources::Sources};

/// How to start PostgreSQL, for error messages about an unreachable one.
const START_POSTGRESQL: &str =
    "for example with `pg_ctlcluster 15 main start` or `docker run -p 5432:5432 -e POSTGRES_PASSWORD=... postgres`";

/// The maximum length of a role name. PostgreSQL truncates longer names, and two modules could then share a login.
const ROLE_BYTES: usize = 63;

/// A module's schema, and the names of its further storage.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    pub schema: &'static Schema,
    pub also: &'static [&'static str],
}

/// Named storage of a module: its own, or further storage beside it.
#[derive(Clone, Copy, Debug)]
struct Owner {
    module: &'static str,
    name: &'static str,
}

/// The data of all modules in this binary.
pub struct Data<'a> {
    settings: &'a Settings,
    stored: Vec<Stored>,
}

/// Where storage of `module` is: its own storage if `name` is the module's name, otherwise further storage.
///
/// # Errors
/// A database URL that is not a URL.
pub fn storage(settings: &Settings, module: &str, name: &str) -> anyhow::Result<Storage> {
    let Some(url) = url_of(settings, module) else {
        let file = settings.data_dir.join(format!("{}.db", name.replace('_', "-")));
        return Ok(Storage::Sqlite { path: file });
    };
    let url = if has_login(settings, module) {
        Login::of(url, name)?.url
    } else {
        url.to_owned()
    };
    Ok(Storage::Postgres {
        url,
        schema: name.to_owned(),
    })
}

/// Opens a module's database, which has been migrated.
///
/// # Errors
/// The database is unreachable; a setting is wrong.
pub async fn open(settings: &Settings, module: &str, sources: &Sources) -> anyhow::Result<Db> {
    let storage = storage(settings, module, module)?;
    let opened = Db::open(
        module,
        &storage,
        settings.durable.clone(),
        sources.clock.clone(),
        sources.ids.clone(),
    )
    .await;
    opened.map_err(|fault| anyhow::anyhow!("{}", fault.detail))
}

fn url_of<'a>(settings: &'a Settings, module: &str) -> Option<&'a str> {
    own_url(settings, module).or_else(|| settings.database.url.as_ref().map(|url| url.expose_secret()))
}

/// The URL of a module's own database.
fn own_url<'a>(settings: &'a Settings, module: &str) -> Option<&'a str> {
    let configured = settings.modules.get(module)?;
    configured.database_url.as_ref().map(|url| url.expose_secret())
}

/// Whether a module has its own login, created by `provision`.
fn has_login(settings: &Settings, module: &str) -> bool {
    own_url(settings, module).is_none() && settings.database.login_per_module
}

/// The setting with the URL of a module's database.
fn setting_of(settings: &Settings, module: &str) -> String {
    if own_url(settings, module).is_some() {
        format!("modules.{module}.database_url")
    } else {
        "database.url".to_owned()
    }
}

/// A module's own login.
struct Login {
    role: String,
    password: String,
    url: String,
}

impl Login {
    /// The role carries the database's name, because roles belong to the whole server. Its password is derived from that of `url`, so that
    /// every process with the settings can compute it, and it is stored nowhere.
    fn of(url: &str, module: &str) -> anyhow::Result<Self> {
        let original = url;
        let mut url = Url::parse(&first_host(original)).context("database.url is not a URL")?;
        let database = url.path().trim_start_matches('/').to_owned();
        let role = format!("{database}_{module}");
        if role.len() > ROLE_BYTES {
            bail!(
                "the login {role} would be longer than the {ROLE_BYTES} bytes PostgreSQL allows; give the database of database.url a name of at most {} bytes",
                ROLE_BYTES - module.len() - 1
            );
        }
        let mut mac = Hmac::<Sha256>::new_from_slice(url.password().unwrap_or_default().as_bytes())
            .context("HMAC accepts keys of any length")?;
        mac.update(role.as_bytes());
        let password = hex::encode(mac.finalize().into_bytes());
        if url.set_username(&role).is_err() || url.set_password(Some(&password)).is_err() {
            bail!("database.url must name a host");
        }
        Ok(Login {
            role,
            password,
            url: with_hosts_of(url.as_str(), original),
        })
    }
}

impl<'a> Data<'a> {
    pub fn new(settings: &'a Settings, stored: Vec<Stored>) -> Self {
        Data { settings, stored }
    }

    fn owners(&self) -> Vec<Owner> {
        let owners = self.stored.iter().flat_map(|stored| {
            let module = stored.schema.module;
            let names = std::iter::once(module).chain(stored.also.iter().copied());
            names.map(move |name| Owner { module, name })
        });
        owners.collect()
    }

    /// Creates the data directory and locks it, if any module keeps its data there. On PostgreSQL several processes may share the data.
    ///
    /// # Errors
    /// Another process uses the directory; it cannot be created or written; a file in it is damaged.
    pub async fn lock(&self) -> anyhow::Result<DataLock> {
        self.lock_and_check(true).await
    }

    async fn lock_and_check(&self, check: bool) -> anyhow::Result<DataLock> {
        let mut files = Vec::new();
        for Owner { module, name } in self.owners() {
            if let Storage::Sqlite { path } = storage(self.settings, module, name)? {
                files.push((module, path));
            }
        }
        if files.is_empty() {
            return Ok(DataLock::none());
        }
        let files = if check { files } else { Vec::new() };
        DataLock::take(&self.settings.data_dir, &files).await
    }

    /// Where the databases of all modules are, and which installation they belong to.
    ///
    /// # Errors
    /// An unreachable database; a damaged file.
    pub async fn members(&self) -> anyhow::Result<Members> {
        let mut places = Vec::new();
        let mut reached = BTreeSet::new();
        for Owner { module, name } in self.owners() {
            let storage = storage(self.settings, module, name)?;
            if reached.insert(url_of(self.settings, module)) {
                let refused = refuse_transaction_pooling(&storage, name).await;
                refused
                    .map_err(|fault| anyhow::anyhow!("{}", fault.detail))
                    .with_context(|| self.how_to_reach(module, &storage))?;
            }
            let found = installation::look(&storage, name).await;
            let found = found
                .map_err(|fault| anyhow::anyhow!("{}", fault.detail))
                .with_context(|| self.how_to_reach(module, &storage))?;
            places.push(Place { name, storage, found });
        }
        Ok(Members::new(places))
    }

    /// Creates the modules' schemas, and their logins where they share `database.url`. Safe to repeat, and from several processes at once.
    ///
    /// # Errors
    /// The login of `database.url` may not create roles or schemas; the server is unreachable, with how to start it.
    pub async fn provision(&self) -> anyhow::Result<Vec<String>> {
        let (settings, owners) = (self.settings, self.owners());
        let mut created = Vec::new();
        for (url, owners) in by_database(settings, &owners) {
            let admin = connect(settings, owners[0].module, url).await?;
            for Owner { module, name } in owners {
                let login = if has_login(settings, module) {
                    Some(Login::of(url, name)?)
                } else {
                    None
                };
                let login = login
                    .as_ref()
                    .map(|login| (login.role.as_str(), login.password.as_str()));
                admin.make_schema(name, login).await.with_context(|| {
                    let setting = setting_of(settings, module);
                    format!("creating schema and login of {name}; the login of {setting} must be allowed to create roles and schemas")
                })?;
                created.push(name.to_owned());
            }
            admin.close().await?;
        }
        Ok(created)
    }

    /// Deletes all data: the files in the data directory, or the schemas.
    ///
    /// # Errors
    /// Another process uses the data; it cannot be removed.
    pub async fn reset(&self) -> anyhow::Result<()> {
        let (settings, owners) = (self.settings, self.owners());
        let mut lock = self.lock_and_check(false).await?;
        for Owner { module, name } in &owners {
            if let Storage::Sqlite { path } = storage(settings, module, name)? {
                for suffix in ["", "-wal", "-shm"] {
                    let file = format!("{}{suffix}", path.display());
                    match fs::remove_file(&file) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            return Err(error).with_context(|| format!("removing {file}"));
                        }
                        _ => {}
                    }
                }
            }
        }
        for (url, owners) in by_database(settings, &owners) {
            let admin = connect(settings, owners[0].module, url).await?;
            for Owner { name, .. } in owners {
                admin
                    .drop_schema(name)
                    .await
                    .with_context(|| format!("dropping the schema {name}"))?;
            }
            admin.close().await?;
        }
        lock.ended();
        Ok(())
    }

    /// Migrates each module's schema, one after the other, and marks it as a member of the installation. Whatever is not as it should be is refused before
    /// anything is created.
    ///
    /// # Errors
    /// A database that was lost, or belongs to another installation; a schema from a newer version; an unreachable database.
    pub async fn migrate(&self, mut members: Members) -> anyhow::Result<Members> {
        members.check()?;
        members.check_age().await?;
        for stored in &self.stored {
            let module = stored.schema.module;
            let connection = self.migration_connection(module).await?;
            let status = migrate::up(&connection, stored.schema).await?;
            tracing::debug!(module, applied = status.applied.len(), "the schema is up to date");
            connection.close().await;
        }
        members.join().await?;
        Ok(members)
    }

    /// The applied and pending migrations of each module's schema. Creates no database.
    ///
    /// # Errors
    /// An unreachable database.
    pub async fn migration_status(&self) -> anyhow::Result<Vec<(&'static str, migrate::Status)>> {
        let members = self.members().await?;
        let mut all = Vec::new();
        for stored in &self.stored {
            let module = stored.schema.module;
            if !members.exists(module) {
                all.push((module, migrate::Status::of_new(stored.schema)));
                continue;
            }
            let connection = self.migration_connection(module).await?;
            all.push((module, migrate::status(&connection, stored.schema).await?));
            connection.close().await;
        }
        Ok(all)
    }

    async fn migration_connection(&self, module: &str) -> anyhow::Result<banyan_durable::Connection> {
        let storage = storage(self.settings, module, module)?;
        let connection = banyan_durable::Connection::open(&storage, module)
            .await
            .map_err(|fault| anyhow::anyhow!("{}", fault.detail));
        connection.with_context(|| self.how_to_reach(module, &storage))
    }

    /// What to look at if a module's database cannot be opened.
    fn how_to_reach(&self, module: &str, storage: &Storage) -> String {
        match storage {
            Storage::Sqlite { path } => format!(
                "{} cannot be opened: is it writable, and intact? If it is damaged, restore it from a backup",
                path.display()
            ),
            Storage::Postgres { .. } => format!(
                "is PostgreSQL running there ({})? If not, start it, {START_POSTGRESQL}. If it is, has `banyan migrate --provision` \
                 created the login and schema of {module}?",
                setting_of(self.settings, module)
            ),
        }
    }
}

/// The storage in PostgreSQL, grouped by the URL of its database.
fn by_database<'a>(settings: &'a Settings, owners: &[Owner]) -> BTreeMap<&'a str, Vec<Owner>> {
    let mut databases: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for owner in owners {
        if let Some(url) = url_of(settings, owner.module) {
            databases.entry(url).or_default().push(*owner);
        }
    }
    databases
}

async fn connect(settings: &Settings, owner: &str, url: &str) -> anyhow::Result<migrate::Admin> {
    migrate::Admin::connect(url).await.with_context(|| {
        let (shown, setting) = (banyan_core::without_password(url), setting_of(settings, owner));
        format!("cannot reach PostgreSQL at {shown} ({setting}); start it, {START_POSTGRESQL}, or remove the setting to use SQLite")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_module_has_its_own_login_and_password() {
        let orders = Login::of("postgres://admin:secret@localhost:5432/shop", "orders").unwrap();
        let payments = Login::of("postgres://admin:secret@localhost:5432/shop", "payments").unwrap();
        assert_eq!(orders.role, "shop_orders");
        assert!(orders.url.starts_with("postgres://shop_orders:") && orders.url.ends_with("@localhost:5432/shop"));
        assert_ne!(orders.password, payments.password);
        let long = Login::of(
            &format!("postgres://admin:secret@localhost/{}", "s".repeat(60)),
            "orders",
        )
        .err()
        .unwrap()
        .to_string();
        assert!(long.contains("63 bytes") && long.contains("at most 56 bytes"), "{long}");
        assert_ne!(
            orders.password,
            Login::of("postgres://admin:other@localhost:5432/shop", "orders")
                .unwrap()
                .password
        );
    }
}
