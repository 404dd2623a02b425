//! Where each module's data is, who may open it, and how it is brought up to date.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, TryLockError},
    os::unix::fs::DirBuilderExt,
};

use anyhow::{Context, bail};
use banyan_durable::{Db, Storage, migrate};
use hmac::{Hmac, Mac};
use reqwest::Url;
use secrecy::ExposeSecret;
use sha2::Sha256;

use crate::{config::Settings, wiring::Ground};

/// Where the built-in payment provider keeps its own books, apart from every module.
pub const SANDBOX_PROVIDER: &str = "sandbox_provider";

/// How a PostgreSQL is started, for sentences about one that is not there.
const START_POSTGRESQL: &str =
    "for example with `pg_ctlcluster 15 main start` or `docker run -p 5432:5432 -e POSTGRES_PASSWORD=... postgres`";

/// PostgreSQL cuts longer names off, and two modules could then have one login.
const ROLE_BYTES: usize = 63;

/// Whose data there is: every module of this binary, and the sandbox provider beside payments.
pub fn owners() -> Vec<&'static str> {
    let mut owners = super::modules();
    if owners.contains(&"payments") {
        owners.push(SANDBOX_PROVIDER);
    }
    owners
}

/// Keeps other processes away from the SQLite files while it lives.
#[derive(Debug)]
pub struct DataLock(#[allow(dead_code, reason = "the lock is held by being open")] Option<File>);

/// Makes the data directory and locks it, if any of `modules` keeps its data there. On PostgreSQL several processes may share the data.
///
/// # Errors
/// Another process uses the directory; it cannot be made or written.
pub fn lock(settings: &Settings, modules: &[&str]) -> anyhow::Result<DataLock> {
    if modules.iter().all(|module| url_of(settings, module).is_some()) {
        return Ok(DataLock(None));
    }
    let directory = &settings.data_dir;
    // The files hold password hashes and the key that signs tokens: they are their owner's alone.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("making the data directory {} (data_dir)", directory.display()))?;
    let path = directory.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(DataLock(Some(file))),
        Err(TryLockError::WouldBlock) => bail!(
            "another banyan uses the data directory {}; stop it first, or give this one its own (BANYAN__DATA_DIR). SQLite files have one process at a time; several share PostgreSQL",
            directory.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

/// Where `module` (or the sandbox provider) keeps its data.
///
/// # Errors
/// A database URL that is none.
pub fn place(settings: &Settings, module: &str) -> anyhow::Result<Storage> {
    let Some(url) = url_of(settings, module) else {
        let file = settings.data_dir.join(format!("{}.db", module.replace('_', "-")));
        return Ok(Storage::Sqlite { path: file });
    };
    let url = if has_login(settings, module) {
        Login::of(url, module)?.url
    } else {
        url.to_owned()
    };
    Ok(Storage::Postgres {
        url,
        schema: module.to_owned(),
    })
}

/// Opens a module's database, which has been migrated.
///
/// # Errors
/// It cannot be reached; a setting is wrong.
pub async fn open(ground: &Ground, module: &str) -> anyhow::Result<Db> {
    let place = place(&ground.settings, module)?;
    let settings = ground.settings.section("durable")?;
    let opened = Db::open(module, &place, settings, ground.clock.clone(), ground.ids.clone()).await;
    opened.map_err(|fault| anyhow::anyhow!("{}", fault.detail))
}

fn url_of<'a>(settings: &'a Settings, module: &str) -> Option<&'a str> {
    own_url(settings, module).or_else(|| settings.database.url.as_ref().map(|url| url.expose_secret()))
}

/// The database that is the module's alone. The sandbox provider's books go where payments goes.
fn own_url<'a>(settings: &'a Settings, module: &str) -> Option<&'a str> {
    let module = if module == SANDBOX_PROVIDER { "payments" } else { module };
    settings
        .modules
        .get(module)
        .and_then(|at| at.database_url.as_ref())
        .map(|url| url.expose_secret())
}

/// Whether a module has a login of its own, made by us.
fn has_login(settings: &Settings, module: &str) -> bool {
    own_url(settings, module).is_none() && settings.database.login_per_module
}

/// The setting that says where a module's PostgreSQL is.
fn setting_of(settings: &Settings, module: &str) -> String {
    let owner = if module == SANDBOX_PROVIDER { "payments" } else { module };
    if own_url(settings, module).is_some() {
        format!("modules.{owner}.database_url")
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
    /// every process with the settings knows it, and nobody has to keep it.
    fn of(url: &str, module: &str) -> anyhow::Result<Self> {
        let mut url = Url::parse(url).context("database.url is not a URL")?;
        let database = url.path().trim_start_matches('/').to_owned();
        let role = format!("{database}_{module}");
        if role.len() > ROLE_BYTES {
            bail!(
                "the login {role} would be longer than the {ROLE_BYTES} bytes PostgreSQL allows; give the database of database.url a name of at most {} bytes",
                ROLE_BYTES - module.len() - 1
            );
        }
        let mut mac = Hmac::<Sha256>::new_from_slice(url.password().unwrap_or_default().as_bytes())
            .context("a key of any length will do")?;
        mac.update(role.as_bytes());
        let password: String = mac
            .finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        if url.set_username(&role).is_err() || url.set_password(Some(&password)).is_err() {
            bail!("database.url must name a host");
        }
        Ok(Login {
            role,
            password,
            url: url.to_string(),
        })
    }
}

/// Makes the modules' schemas, and their logins where they share `database.url`. Safe to repeat, and from several processes at once.
///
/// # Errors
/// The login of `database.url` may not create roles or schemas; the server cannot be reached, with the way to start it.
pub async fn provision(settings: &Settings, owners: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut made = Vec::new();
    for (url, owners) in by_database(settings, owners) {
        let admin = connect(settings, owners[0], url).await?;
        for owner in owners {
            let login = if has_login(settings, owner) {
                Some(Login::of(url, owner)?)
            } else {
                None
            };
            let login = login
                .as_ref()
                .map(|login| (login.role.as_str(), login.password.as_str()));
            admin.make_schema(owner, login).await.with_context(|| {
                let setting = setting_of(settings, owner);
                format!("making schema and login of {owner}; the login of {setting} must be allowed to create roles and schemas")
            })?;
            made.push(owner.to_owned());
        }
        admin.close().await?;
    }
    Ok(made)
}

/// Throws all data away: the files in the data directory, or the schemas.
///
/// # Errors
/// Another process uses the data; it cannot be removed.
pub async fn reset(settings: &Settings, owners: &[&str]) -> anyhow::Result<()> {
    let _lock = lock(settings, owners)?;
    for owner in owners {
        if let Storage::Sqlite { path } = place(settings, owner)? {
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
    for (url, owners) in by_database(settings, owners) {
        let admin = connect(settings, owners[0], url).await?;
        for owner in owners {
            admin
                .drop_schema(owner)
                .await
                .with_context(|| format!("dropping the schema {owner}"))?;
        }
        admin.close().await?;
    }
    Ok(())
}

/// Those that keep their data in PostgreSQL, by the URLs of their databases.
fn by_database<'a>(settings: &'a Settings, owners: &[&'a str]) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut databases: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for owner in owners {
        if let Some(url) = url_of(settings, owner) {
            databases.entry(url).or_default().push(*owner);
        }
    }
    databases
}

/// Migrates each module's schema, one after the other.
///
/// # Errors
/// A schema from a newer banyan; a database that cannot be reached.
pub async fn migrate(settings: &Settings, modules: &[&str]) -> anyhow::Result<()> {
    for module in modules {
        let connection = migration_connection(settings, module).await?;
        let status = migrate::up(&connection, super::schema_of(module)?).await?;
        tracing::debug!(module, applied = status.applied.len(), "schema is up to date");
        connection.close().await?;
    }
    Ok(())
}

/// What is applied and pending in one module's schema.
///
/// # Errors
/// A database that cannot be reached.
pub async fn migration_status(settings: &Settings, module: &str) -> anyhow::Result<migrate::Status> {
    let connection = migration_connection(settings, module).await?;
    let status = migrate::status(&connection, super::schema_of(module)?).await?;
    connection.close().await?;
    Ok(status)
}

async fn migration_connection(
    settings: &Settings,
    module: &str,
) -> anyhow::Result<banyan_durable::MigrationConnection> {
    let place = place(settings, module)?;
    let connection = banyan_durable::migration_connection(&place, module)
        .await
        .map_err(|fault| anyhow::anyhow!("{}", fault.detail));
    connection.with_context(|| match &place {
        Storage::Sqlite { .. } => "is data_dir writable, and is the disk full?".to_owned(),
        Storage::Postgres { .. } => {
            let setting =
                if own_url(settings, module).is_some() { format!("modules.{module}.database_url") } else { "database.url".to_owned() };
            format!(
                "is PostgreSQL running there ({setting})? If not, start it, {START_POSTGRESQL}. If it is, has `banyan migrate --provision` \
                 made the login and schema of {module}?"
            )
        }
    })
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
    fn each_module_has_a_login_and_password_of_its_own() {
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
