//! The command line of a product: `banyan serve`, `banyan migrate`, ...

mod health;
mod info;
mod leftovers;
mod ops;
mod schema;
mod serve;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use tracing_appender::non_blocking::WorkerGuard;

use crate::{Product, local, settings::Settings};

/// Without a command it serves. Settings come from banyan.toml and from BANYAN__* variables; `config defaults` shows them all.
#[derive(Parser)]
#[command(after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    global: Global,
}

const EXIT_CODES: &str = "Exit codes: 0 success; 1 failure, with the reason on standard error; 2 invalid command line; 3 the server is not ready or does not respond.";

#[derive(Args)]
struct Global {
    /// The settings file. Default: banyan.toml in the working directory, if it exists.
    #[arg(long, global = true, env = "BANYAN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The format of the output of commands that print a result.
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
    /// Serves the API (the default). Stops on SIGTERM or Ctrl-C, after finishing what it accepted.
    Serve,
    /// Applies pending migrations to the tables.
    Migrate(schema::Migrate),
    /// Adds the demo data.
    Seed(schema::Seed),
    /// Shows which modules are in this binary and how they are connected.
    Modules(info::Modules),
    /// Prints the OpenAPI document of what is in this binary.
    Openapi,
    /// Shows settings.
    Config(info::Config),
    /// Checks whether a running server is ready.
    Health(health::Health),
    /// Dead letters of a running server: events a module could not handle.
    Dlq(ops::Dlq),
    /// Subscribers of a running server's modules: how far each has come with their events.
    Subscribers(ops::Subscribers),
    /// Sagas of a running server: processes across modules, and why they wait.
    Saga(ops::Saga),
}

/// A command that a product adds. Its name is not one of the platform's commands; it reads no settings, and ignores the global options.
pub struct Extension {
    /// Its name, its arguments and its help.
    pub command: fn() -> clap::Command,
    /// Carries it out, and returns what is printed.
    pub run: fn(&clap::ArgMatches) -> anyhow::Result<String>,
}

/// Why a command failed.
enum Failure {
    Failed(anyhow::Error),
    NotReady(String),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Failed(error)
    }
}

/// Runs the command line of a product: the platform's commands, and its own. The TLS provider is installed first, because two are in the dependency graph.
pub fn run<C>(product: &'static Product<C>, extensions: &[Extension]) -> ExitCode
where
    C: Clone + Send + Sync + 'static,
{
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is already installed");
    }
    let name = product.command;
    let command = Cli::command()
        .name(name)
        .bin_name(name)
        .version(product.version)
        .about(product.summary)
        .long_about(format!(
            "{}\n\nWithout a command it serves. Settings come from banyan.toml and from BANYAN__* variables; `{name} config defaults` shows them all.",
            product.summary
        ))
        .subcommands(extensions.iter().map(|extension| (extension.command)()))
        .subcommands(module_commands(product));
    let matches = command.get_matches();
    if let Some((own, arguments)) = matches.subcommand()
        && let Some(extension) = extensions
            .iter()
            .find(|extension| (extension.command)().get_name() == own)
    {
        return finish(
            name,
            (extension.run)(arguments)
                .and_then(|text| print(&text))
                .map_err(Failure::from),
        );
    }
    let mut logs = None;
    let ended = match ModuleCommand::of(product, &matches) {
        Some(command) => runtime()
            .and_then(|runtime| runtime.block_on(command.execute(product, &mut logs)))
            .map_err(Failure::from),
        None => {
            let cli = match Cli::from_arg_matches(&matches) {
                Ok(cli) => cli,
                Err(error) => error.exit(),
            };
            runtime()
                .map_err(Failure::from)
                .and_then(|runtime| runtime.block_on(execute(product, cli, &mut logs)))
        }
    };
    // After the runtime, whose tasks log until they end.
    drop(logs);
    finish(name, ended)
}

/// `banyan <module>`, with the commands of that module.
fn module_commands<C>(product: &'static Product<C>) -> Vec<clap::Command> {
    let mut modules: Vec<clap::Command> = Vec::new();
    for (module, name, summary) in local::commands(product) {
        let command = clap::Command::new(name).about(summary);
        match modules.iter_mut().find(|known| known.get_name() == module) {
            Some(known) => *known = known.clone().subcommand(command),
            None => {
                let of_module = clap::Command::new(module).about(format!("Works on the data of {module}."));
                modules.push(of_module.subcommand_required(true).subcommand(command));
            }
        }
    }
    modules
}

/// A command of a module, as it was given.
struct ModuleCommand {
    module: String,
    name: String,
    config: Option<PathBuf>,
}

impl ModuleCommand {
    fn of<C>(product: &'static Product<C>, matches: &clap::ArgMatches) -> Option<Self> {
        let (module, arguments) = matches.subcommand()?;
        let (name, _) = arguments.subcommand()?;
        let is_known = local::commands(product)
            .iter()
            .any(|(of, command, _)| (*of, *command) == (module, name));
        is_known.then(|| ModuleCommand {
            module: module.to_owned(),
            name: name.to_owned(),
            config: matches.get_one::<PathBuf>("config").cloned(),
        })
    }

    async fn execute<C>(self, product: &'static Product<C>, logs: &mut Option<WorkerGuard>) -> anyhow::Result<()> {
        let settings = Settings::load(&product.defaults(), self.config.as_deref())?;
        *logs = Some(crate::logs::start(&settings.log)?);
        print(&local::run_command(product, &settings, &self.module, &self.name).await?)
    }
}

fn finish(name: &str, ended: Result<(), Failure>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => {
            eprintln!("{name}: {error:#}");
            ExitCode::from(1)
        }
        Err(Failure::NotReady(why)) => {
            eprintln!("{name}: {why}");
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

async fn execute<C>(product: &'static Product<C>, cli: Cli, logs: &mut Option<WorkerGuard>) -> Result<(), Failure>
where
    C: Clone + Send + Sync + 'static,
{
    let output = cli.global.output;
    let defaults = product.defaults();
    // These need no settings, and must work when a setting is wrong.
    match &cli.command {
        Some(Command::Openapi) => return Ok(print_json(&crate::openapi(product).await?)?),
        Some(Command::Config(config)) if config.is_defaults() => return Ok(print(&defaults.text)?),
        _ => {}
    }
    let settings = Settings::load(&defaults, cli.global.config.as_deref())?;
    *logs = Some(crate::logs::start(&settings.log)?);
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => Ok(serve::serve(product, settings).await?),
        Command::Migrate(migrate) => Ok(migrate.run(product, &settings, output).await?),
        Command::Seed(seed) => Ok(seed.run(product, settings).await?),
        Command::Modules(modules) => Ok(modules.run(&product.layout(), &settings, output)?),
        Command::Config(_) => Ok(info::show(&settings, output)?),
        Command::Health(health) => health.run(&settings, output).await,
        Command::Dlq(dlq) => dlq.run(&defaults.modules, product.demo, &settings, output).await,
        Command::Subscribers(subscribers) => {
            subscribers
                .run(&defaults.modules, product.demo, &settings, output)
                .await
        }
        Command::Saga(saga) => {
            saga.run(product.command, product.saga_module, product.demo, &settings, output)
                .await
        }
        Command::Openapi => Ok(()),
    }
}

/// Prints to standard output; a closed pipe (`| head`) is not an error.
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

/// The URL of a server on this machine, as configured in `http.listen`.
///
/// # Errors
/// It is served over TLS, under the name in its certificate, which is not in the settings.
fn local_url(settings: &Settings) -> anyhow::Result<String> {
    if settings.http.tls_certificate_file.is_some() || settings.mtls.certificate_file.is_some() {
        bail!("the API is served over TLS; give the host name in its certificate: --url https://HOST (BANYAN_URL)");
    }
    Ok(format!("http://{}", settings.http.listen))
}
