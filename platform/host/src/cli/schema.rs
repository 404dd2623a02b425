//! `banyan migrate` and `banyan seed`: what changes tables and demo data. Both take the data directory's lock.

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Output, print, print_json};
use crate::{App, Product, Tables, local, settings::Settings};

#[derive(Args)]
pub struct Migrate {
    #[command(subcommand)]
    what: Option<What>,
    /// Makes each module's schema and login in PostgreSQL first; the login of database.url must be allowed to.
    #[arg(long)]
    provision: bool,
}

#[derive(Subcommand)]
enum What {
    /// Shows what is applied and what is pending, and applies nothing.
    Status,
    /// Applies what is pending (the default).
    Up,
}

impl Migrate {
    pub async fn run<C>(self, product: &'static Product<C>, settings: &Settings, output: Output) -> anyhow::Result<()> {
        let up = !matches!(self.what, Some(What::Status));
        if self.provision && !up {
            bail!("`migrate status` makes nothing; leave --provision out, or use `migrate --provision`");
        }
        let migrated = local::migrate(product, settings, self.provision, up).await?;
        for module in migrated.provisioned {
            eprintln!("{module}: schema and login are there");
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
    /// Throws all data of the shop away first. Only in the demo profile.
    #[arg(long)]
    reset: bool,
}

impl Seed {
    pub async fn run<C>(self, product: &'static Product<C>, settings: Settings) -> anyhow::Result<()>
    where
        C: Clone + Send + Sync + 'static,
    {
        if !settings.is_demo() {
            bail!("demo data has known passwords; it goes into the demo profile only");
        }
        App::seed(product, settings, self.reset).await?;
        print(&format!("the demo data is in: {}", product.demo.users))
    }
}
