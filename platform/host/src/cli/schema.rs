//! `banyan migrate` and `banyan seed`: the commands that change tables and demo data. Both take the data directory's lock.

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Output, print, print_json};
use crate::{App, MigrateOptions, Product, Tables, local, settings::Settings};

#[derive(Args)]
pub struct Migrate {
    #[command(subcommand)]
    what: Option<What>,
    /// Creates each module's schema and login in PostgreSQL first; the login of database.url must have the rights for it.
    #[arg(long)]
    provision: bool,
    /// Makes the database of this module anew, which this installation had and which is gone: its data is lost. Without it, that is refused.
    #[arg(long = "new-module", value_name = "MODULE")]
    new_modules: Vec<String>,
    /// Takes over the database of this module from another installation, for example one that began in a process of its own.
    #[arg(long, value_name = "MODULE")]
    adopt: Vec<String>,
    /// Uses the database of this module although it was restored from an older backup than those of the others: what it lost is lost.
    #[arg(long = "accept-older", value_name = "MODULE")]
    accept_older: Vec<String>,
}

#[derive(Subcommand)]
enum What {
    /// Shows applied and pending migrations, and applies none.
    Status,
    /// Applies pending migrations (the default).
    Up,
}

impl Migrate {
    pub async fn run<C>(self, product: &'static Product<C>, settings: &Settings, output: Output) -> anyhow::Result<()> {
        let up = !matches!(self.what, Some(What::Status));
        for (given, option) in [
            (self.provision, "--provision"),
            (!self.new_modules.is_empty(), "--new-module"),
            (!self.adopt.is_empty(), "--adopt"),
            (!self.accept_older.is_empty(), "--accept-older"),
        ] {
            if given && !up {
                bail!("`migrate status` changes nothing; remove {option}, or use `migrate {option}`");
            }
        }
        let options = MigrateOptions {
            provision: self.provision,
            up,
            new_modules: self.new_modules,
            adopt: self.adopt,
            accept_older: self.accept_older,
        };
        let migrated = local::migrate(product, settings, &options).await?;
        for module in migrated.provisioned {
            eprintln!("{module}: schema and login exist");
        }
        let all = migrated.tables;
        if output == Output::Json {
            let rows = all.iter().map(
                |tables| json!({"module": tables.module, "applied": tables.applied, "pending": tables.pending, "unknown": tables.unknown}),
            );
            return print_json(&rows.collect::<Vec<_>>());
        }
        for Tables {
            module,
            applied,
            pending,
            unknown,
        } in all
        {
            let pending = if pending.is_empty() {
                "up to date".to_owned()
            } else {
                format!("pending: {}", pending.join(", "))
            };
            let newer = if unknown.is_empty() {
                String::new()
            } else {
                format!(", by a newer banyan: {}", unknown.join(", "))
            };
            print(&format!("{module:<14} {} applied, {pending}{newer}", applied.len()))?;
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct Seed {
    /// Deletes all data first. Only in the demo profile.
    #[arg(long)]
    reset: bool,
}

impl Seed {
    pub async fn run<C>(self, product: &'static Product<C>, settings: Settings) -> anyhow::Result<()>
    where
        C: Clone + Send + Sync + 'static,
    {
        if !settings.is_demo() {
            bail!("demo data may have known passwords, so it is allowed in the demo profile only");
        }
        App::seed(product, settings, self.reset).await?;
        print(&format!("the demo data is added: {}", product.demo.users))
    }
}
