//! `banyan modules`, `banyan openapi`, `banyan config`: modules, document and settings, without a running process.

use clap::{Args, Subcommand};

use super::{Output, print, print_json};
use crate::{mermaid, placements, product::Layout, settings::Settings};

#[derive(Args)]
pub struct Modules {
    /// Prints a mermaid diagram.
    #[arg(long)]
    mermaid: bool,
}

impl Modules {
    pub fn run(self, layout: &Layout, settings: &Settings, output: Output) -> anyhow::Result<()> {
        let placements = placements(layout, settings)?;
        if self.mermaid {
            return print(&mermaid(&placements));
        }
        if output == Output::Json {
            return print_json(&placements);
        }
        for module in placements {
            let calls = if module.asks.is_empty() {
                "-".to_owned()
            } else {
                module.asks.join(", ")
            };
            let subscriptions = if module.hears.is_empty() {
                "-".to_owned()
            } else {
                module.hears.join(", ")
            };
            let location = module
                .data
                .or(module.address)
                .unwrap_or_else(|| "no address".to_owned());
            print(&format!(
                "{:<14} {:<7} {location}\n               calls {calls}; subscribes to {subscriptions}",
                module.name, module.placement
            ))?;
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct Config {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// The effective settings, without secrets (the default).
    Show,
    /// Every setting with its default and its meaning: a banyan.toml to start from.
    Defaults,
}

impl Config {
    pub fn is_defaults(&self) -> bool {
        matches!(self.what, Some(What::Defaults))
    }
}

pub fn show(settings: &Settings, output: Output) -> anyhow::Result<()> {
    let shown = settings.show()?;
    if output == Output::Json {
        return print_json(&toml::from_str::<toml::Table>(&shown)?);
    }
    print(&shown)
}
