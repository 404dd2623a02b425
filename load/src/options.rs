//! The command line, and its limits.

use std::{net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context, bail, ensure};
use clap::{Parser, Subcommand};
use url::{Host, Url};

use crate::stages::Stage;

const DEFAULT_STAGES: &str = "orders-1,orders-8,orders-32,product-32,list-32";

/// Measures a shop on this machine: orders, reads, CPU, memory, statements, and what the database and the web server can do at best.
#[derive(Debug, Parser)]
#[command(name = "load", max_term_width = 120)]
pub struct Options {
    /// The shop's binary. `cargo build --release -p banyan` builds the default one.
    #[arg(long, value_name = "PATH", default_value = "target/release/banyan")]
    pub binary: PathBuf,
    /// A second binary, run in turn with the first; the ratios of the medians are printed (first / second).
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    pub versus: Option<PathBuf>,
    /// The number of times each binary is run, at most 20.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub rounds: u32,
    /// Uses PostgreSQL instead of SQLite: the URL of a superuser on this machine. Each run has a database of its own, which is dropped afterwards.
    #[arg(long, value_name = "URL", conflicts_with = "url")]
    pub postgres: Option<String>,
    /// Attaches to a running shop with demo data instead of starting one: `http://127.0.0.1:8080`. Its products and customers stay.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The process id of the shop at --url, for its CPU and memory.
    #[arg(long, value_name = "PID", requires = "url")]
    pub pid: Option<u32>,
    /// What is measured: `orders-N`, `product-N` or `list-N` with N customers at the same time (at most 256), separated by commas.
    #[arg(long, value_name = "LIST", default_value = DEFAULT_STAGES, value_delimiter = ',')]
    pub stages: Vec<Stage>,
    /// The length of a stage in seconds, at most 300.
    #[arg(long, value_name = "S", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub seconds: u64,
    /// A stage of orders ends after this many orders, at most 100,000, also if there is time left.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub orders: u32,
    /// Then stores copies of these orders by SQL until there are N, at most 2,000,000, and measures the stages once more. A million need 20 GB of disk and
    /// some minutes.
    #[arg(long, value_name = "N", conflicts_with = "url", value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    pub stored: Option<u32>,
    /// The length of a yardstick in seconds, at most 60; 0 leaves the yardsticks out.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=60))]
    pub yardstick_seconds: u64,
    /// An environment variable for the shop, `NAME=VALUE`; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// An environment variable for the second binary alone; may be repeated. With the same path in --versus it compares two settings.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable, requires = "versus")]
    pub versus_env: Vec<(String, String)>,
    /// Also writes the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the driver starts itself as a process of its own.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serves the files `product` and `list` of a directory from memory.
    #[command(hide = true)]
    BareEndpoint { directory: PathBuf },
}

impl Options {
    /// What the parser does not check.
    ///
    /// # Errors
    /// An address that is not on this machine, or a binary that is not there.
    pub fn check(&self) -> anyhow::Result<()> {
        if let Some(url) = &self.postgres {
            local(url, "--postgres", "postgres")?;
        }
        if let Some(url) = &self.url {
            return local(url, "--url", "http").map(drop);
        }
        for (option, path) in [("--binary", Some(&self.binary)), ("--versus", self.versus.as_ref())] {
            let Some(path) = path else { continue };
            ensure!(
                path.is_file(),
                "{option} {} does not exist; `cargo build --release -p banyan` builds target/release/banyan",
                path.display()
            );
        }
        Ok(())
    }

    pub fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// The URL, if it is of that scheme and on this machine.
pub fn local(url: &str, option: &str, scheme: &str) -> anyhow::Result<Url> {
    let parsed = Url::parse(url).with_context(|| format!("{option} {url} is not a URL"))?;
    let schemes = [scheme, if scheme == "postgres" { "postgresql" } else { scheme }];
    if !schemes.contains(&parsed.scheme()) {
        bail!("{option} {url} must begin with {scheme}://");
    }
    // For other schemes than http the parser leaves addresses as they are.
    let is_loopback = match parsed.host() {
        Some(Host::Domain(name)) => {
            name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    ensure!(
        is_loopback,
        "{option} {url} is not on this machine: load is only put on localhost, 127.0.0.1 or [::1]"
    );
    Ok(parsed)
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is not a stage: write orders-N, product-N or list-N with N from 1 to 256");
        let (kind, customers) = text.trim().split_once('-').ok_or_else(expected)?;
        let customers = customers.parse().ok().filter(|count| (1..=256).contains(count));
        Stage::new(kind, customers.ok_or_else(expected)?).ok_or_else(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_put_under_load() {
        for url in ["http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080"] {
            assert!(local(url, "--url", "http").is_ok(), "{url}");
        }
        assert!(local("postgres://postgres@127.0.0.1:5432/postgres", "--postgres", "postgres").is_ok());
        let refused = [
            ("http://shop.example", "http"),
            ("http://192.0.2.1:8080", "http"),
            ("https://127.0.0.1", "http"),
            ("http://127.0.0.1.example", "http"),
            ("postgres://postgres@db.example/postgres", "postgres"),
            ("postgres://postgres@192.0.2.1/postgres", "postgres"),
        ];
        for (url, scheme) in refused {
            assert!(local(url, "--url", scheme).is_err(), "{url}");
        }
    }

    #[test]
    fn a_stage_names_its_kind_and_its_customers() {
        assert_eq!("orders-8".parse::<Stage>().expect("a stage").name(), "orders-8");
        for wrong in ["orders", "orders-0", "orders-257", "carts-8"] {
            assert!(wrong.parse::<Stage>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_defaults_are_valid() {
        let options = Options::try_parse_from(["load"]).expect("the defaults");
        assert_eq!(options.stages.len(), 5);
    }
}
