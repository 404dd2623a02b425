//! `banyan migrate` and `banyan seed`: what changes tables and demo data. Both take the data directory's lock.

use banyan::{App, config::Settings};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Output, print, print_json};

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
    /// Shows what is applied and what is pending, and changes nothing.
    Status,
    /// Applies what is pending (the default).
    Up,
}

impl Migrate {
    pub async fn run(self, settings: &Settings, output: Output) -> anyhow::Result<()> {
        let _lock = banyan::data::lock(settings, &banyan::modules())?;
        if self.provision {
            for module in banyan::data::provision(settings, &banyan::data::owners()).await? {
                eprintln!("{module}: schema and login are there");
            }
        }
        if !matches!(self.what, Some(What::Status)) {
            banyan::data::migrate(settings, &banyan::modules()).await?;
        }
        let mut all = Vec::new();
        for module in banyan::modules() {
            all.push((module, banyan::data::migration_status(settings, module).await?));
        }
        if output == Output::Json {
            let rows = all.iter().map(|(module, status)| json!({"module": module, "applied": status.applied, "pending": status.pending, "unknown": status.unknown}));
            return print_json(&rows.collect::<Vec<_>>());
        }
        for (module, status) in all {
            let pending =
                if status.pending.is_empty() { "up to date".to_owned() } else { format!("pending: {}", status.pending.join(", ")) };
            let newer =
                if status.unknown.is_empty() { String::new() } else { format!(", by a newer banyan: {}", status.unknown.join(", ")) };
            print(&format!("{module:<14} {} applied, {pending}{newer}", status.applied.len()))?;
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
    pub async fn run(self, settings: Settings) -> anyhow::Result<()> {
        if !settings.is_demo() {
            anyhow::bail!("demo data has known passwords; it goes into the demo profile only");
        }
        if self.reset {
            banyan::data::reset(&settings, &banyan::data::owners()).await?;
        }
        App::seed(settings).await?;
        print(
            "the demo data is in: log in as demo@banyan.example, staff@banyan.example or ops@banyan.example with the password banyan-demo",
        )
    }
}
