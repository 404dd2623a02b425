//! What can be typed after `banyan`.

mod health;
mod info;
mod ops;
mod schema;
mod serve;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use banyan::config::Settings;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// A commerce backend in one binary: users, catalog, inventory, orders, payments, shipping, notifications.
///
/// Without a command it serves the shop. Settings come from banyan.toml and from BANYAN__* variables; `banyan config defaults` shows them all.
#[derive(Parser)]
#[command(name = "banyan", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    global: Global,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 it failed, with the reason on standard error; 2 the command line is wrong; 3 the shop is not ready or does not answer.";

#[derive(Args)]
struct Global {
    /// The settings file; banyan.toml in the working directory if there is one.
    #[arg(long, global = true, env = "BANYAN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// What commands that answer something print.
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the shop (the default). Stops on SIGTERM or Ctrl-C, after finishing what it accepted.
    Serve,
    /// Brings the tables up to date.
    Migrate(schema::Migrate),
    /// Puts the demo data in.
    Seed(schema::Seed),
    /// Shows which modules are in this binary and how they are connected.
    Modules(info::Modules),
    /// Prints the OpenAPI document of what is in this binary.
    Openapi,
    /// Shows settings.
    Config(info::Config),
    /// Asks a running shop whether it is ready.
    Health(health::Health),
    /// Dead letters of a running shop: events a module could not handle.
    Dlq(ops::Dlq),
    /// Sagas of a running shop: orders on their way, and what holds them.
    Saga(ops::Saga),
}

/// Why a command ended otherwise than well.
enum Failure {
    Failed(anyhow::Error),
    NotReady(String),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Failed(error)
    }
}

pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let ended = runtime()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(execute(cli)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => {
            eprintln!("banyan: {error:#}");
            ExitCode::from(1)
        }
        Err(Failure::NotReady(why)) => {
            eprintln!("banyan: {why}");
            ExitCode::from(3)
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
}

async fn execute(cli: Cli) -> Result<(), Failure> {
    let output = cli.global.output;
    // These need no settings, and must work when a setting is wrong.
    match &cli.command {
        Some(Command::Openapi) => return Ok(info::openapi().await?),
        Some(Command::Config(config)) if config.is_defaults() => return Ok(info::defaults()?),
        _ => {}
    }
    let settings = Settings::load(cli.global.config.as_deref())?;
    banyan::start_logs(&settings)?;
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => Ok(serve::serve(settings).await?),
        Command::Migrate(migrate) => Ok(migrate.run(&settings, output).await?),
        Command::Seed(seed) => Ok(seed.run(settings).await?),
        Command::Modules(modules) => Ok(modules.run(&settings, output)?),
        Command::Config(_) => Ok(info::show(&settings, output)?),
        Command::Health(health) => health.run(&settings, output).await,
        Command::Dlq(dlq) => dlq.run(&settings, output).await,
        Command::Saga(saga) => saga.run(&settings, output).await,
        Command::Openapi => Ok(info::openapi().await?),
    }
}

/// Prints to standard output; a reader that went away (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::{ErrorKind, Write, stdout};
    match writeln!(stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("writing to standard output"),
        _ => Ok(()),
    }
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// The address of a shop on this machine, as the settings say it listens.
///
/// # Errors
/// It is served over TLS, under a name that only its certificate knows.
fn local_url(settings: &Settings) -> anyhow::Result<String> {
    if settings.http.tls_certificate_file.is_some() || settings.is_set("mtls.certificate_file") {
        bail!("the API is served over TLS; name it as its certificate does: --url https://HOST (BANYAN_URL)");
    }
    Ok(format!("http://{}", settings.http.listen))
}
