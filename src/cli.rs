//! The command line: one binary, many hats.
//!
//! Exit codes: 0 all is well, 1 something failed while running, 2 the command line or the
//! configuration cannot be used.

mod catalog;
mod check;
mod credits;
mod keys;
mod ledger;
mod operator;
mod projects;
mod rows;
mod usage;

use std::{
    error::Error,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

use crate::{
    config::{Config, ConfigError},
    serve,
    sim::{self, FaultRate, SimSettings},
    telemetry,
};

/// One OpenAI-compatible address in front of every maker of pictures.
///
/// Without a command it serves. Without a configuration file it listens on 127.0.0.1:4000 and
/// switches on every provider whose usual key variable is set (OPENAI_API_KEY, FAL_KEY,
/// REPLICATE_API_TOKEN, ...); where none is set a simulator stands in for all of them.
#[derive(Debug, Parser)]
#[command(name = "mediagate", version, after_help = EXAMPLES)]
struct Cli {
    /// The configuration file [default: $MEDIAGATE_CONFIG, else ./mediagate.toml if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    serve: ServeArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  mediagate                                     serve on 127.0.0.1:4000
  mediagate serve --config mediagate.toml       serve as a file says
  mediagate check --config mediagate.toml       is the file good?
  mediagate catalog --provider fal              what fal sells, and for how much
  mediagate simulate --listen 127.0.0.1:4100    every provider at once, on one port
  mediagate keys create --name ci --budget-usd 5 --period month
                                                a key for the API, with a budget
  mediagate usage --from 2026-09-01 --group-by day,model --csv
                                                what was used, and for how much
  mediagate credits add --org acme --usd 100    credits for a prepaid organisation
  mediagate ledger verify                       do the balances equal their transfers?

Exit codes: 0 all is well, 1 failed while running, 2 bad command line or configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API (the default)
    Serve(ServeArgs),
    /// Play every provider at once on one port, with their true protocols and no bill
    #[command(after_help = FAULTS)]
    Simulate(SimulateArgs),
    /// Read the configuration and the catalogue and say what is wrong with them
    Check,
    /// List the models on sale: who sells them, in which sizes and formats, for how much
    Catalog(CatalogArgs),
    /// Make, list and revoke keys of the API
    #[command(subcommand, after_help = TENANTS)]
    Keys(keys::KeysCommand),
    /// Make and list projects
    #[command(subcommand, after_help = TENANTS)]
    Projects(projects::ProjectsCommand),
    /// Show what was used, by day, key, project, model, provider, label or unit
    #[command(after_help = TENANTS)]
    Usage(usage::UsageArgs),
    /// Show and add the credits of an organisation
    #[command(subcommand, after_help = TENANTS)]
    Credits(credits::CreditsCommand),
    /// List transfers and accounts, and verify the balances
    #[command(subcommand, after_help = TENANTS)]
    Ledger(ledger::LedgerCommand),
    /// Print the version
    Version,
}

const TENANTS: &str = "\
Works on the database of the configuration, also beside a running gateway, which knows of it within
a second; or with --url on the admin listener of a gateway elsewhere.";

#[derive(Clone, Debug, Args)]
struct ServeArgs {
    /// Listen here instead of `server.listen`; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Abort at this point of the code, `NAME` or `NAME:N`: for tests
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_name = "POINT")]
    crash_at: Option<String>,
    /// Make this call of the database fail, `N` or `N:late`: for tests
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_name = "N")]
    fail_database_at: Option<String>,
}

const FAULTS: &str = "\
Each provider has its own path: point its base_url at http://ADDR:PORT/openai/v1, /fal,
/replicate/v1, ... The same switches as --fault work for one call, in the path
(/x/429=30/fal) or in the prompt ([[fault:moderated]]). /sim/stats counts requests.";

#[derive(Debug, Args)]
struct SimulateArgs {
    /// Listen here; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:4100")]
    listen: SocketAddr,
    /// Median seconds a job waits in the queue
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    queue_s: Option<f64>,
    /// Median seconds the work takes
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    run_s: Option<f64>,
    /// Spread of both; 0 is none
    #[arg(long, value_parser = seconds)]
    sigma: Option<f64>,
    /// Decides all that is left to chance
    #[arg(long)]
    seed: Option<u64>,
    /// A fault that happens now and then, such as 429=0.1 or 500@poll=0.05; may be repeated
    #[arg(long, value_name = "KIND[@STAGE][=VALUE]=RATE")]
    fault: Vec<FaultRate>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|n| (0.0..=3600.0).contains(n));
    number.ok_or_else(|| "a number from 0 to 3600 is wanted".to_owned())
}

#[derive(Debug, Args)]
struct CatalogArgs {
    /// As JSON, with everything that is known
    #[arg(long)]
    json: bool,
    /// Only what this provider sells
    #[arg(long, value_name = "ID")]
    provider: Option<String>,
}

/// Why a command ended badly.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The command line or the configuration.
    #[error("{0}")]
    Usage(String),
    /// Anything else.
    #[error("{0}")]
    Runtime(String),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Runtime(format!("the output cannot be written: {error}"))
    }
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let failure = match run(&cli, &mut io::stdout().lock()) {
        Ok(()) => return ExitCode::SUCCESS,
        // A reader that has seen enough, such as `head`, is no failure.
        Err(Failure::Runtime(text)) if text.contains("Broken pipe") => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    let mut errors = io::stderr().lock();
    for line in failure.to_string().lines() {
        // Nobody is left to tell where standard error cannot be written.
        let _ = writeln!(errors, "error: {line}");
    }
    ExitCode::from(match failure {
        Failure::Usage(_) => 2,
        Failure::Runtime(_) => 1,
    })
}

fn run(cli: &Cli, out: &mut dyn Write) -> Result<(), Failure> {
    let load = |listen| Config::load(cli.config.as_deref(), listen);
    match &cli.command {
        None => serve(load(cli.serve.listen)?),
        Some(Command::Serve(args)) => {
            #[cfg(debug_assertions)]
            if let Some(at) = &args.crash_at {
                crate::crash::arm(at).map_err(Failure::Usage)?;
            }
            #[cfg(debug_assertions)]
            if let Some(at) = &args.fail_database_at {
                crate::crash::arm_outage(at).map_err(Failure::Usage)?;
            }
            serve(load(args.listen.or(cli.serve.listen))?)
        }
        Some(Command::Simulate(args)) => simulate(args, out),
        Some(Command::Check) => check::run(&load(cli.serve.listen)?, out),
        Some(Command::Catalog(args)) => {
            catalog::run(&load(None)?.catalog, args.provider.as_deref(), args.json, out)
        }
        Some(Command::Keys(command)) => {
            runtime(Some(1))?.block_on(keys::run(command, cli.config.as_deref(), out))
        }
        Some(Command::Projects(command)) => {
            runtime(Some(1))?.block_on(projects::run(command, cli.config.as_deref(), out))
        }
        Some(Command::Usage(args)) => {
            runtime(Some(1))?.block_on(usage::run(args, cli.config.as_deref(), out))
        }
        Some(Command::Credits(command)) => {
            runtime(Some(1))?.block_on(credits::run(command, cli.config.as_deref(), out))
        }
        Some(Command::Ledger(command)) => {
            runtime(Some(1))?.block_on(ledger::run(command, cli.config.as_deref(), out))
        }
        Some(Command::Version) => Ok(writeln!(out, "mediagate {}", env!("CARGO_PKG_VERSION"))?),
    }
}

fn serve(config: Config) -> Result<(), Failure> {
    telemetry::start(&config.log);
    runtime(Some(config.server.workers))?
        .block_on(serve::run(config))
        .map_err(|e| Failure::Runtime(chain(&e)))
}

fn simulate(args: &SimulateArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let usual = SimSettings::default();
    let settings = SimSettings {
        queue_s: args.queue_s.unwrap_or(usual.queue_s),
        run_s: args.run_s.unwrap_or(usual.run_s),
        sigma: args.sigma.unwrap_or(usual.sigma),
        seed: args.seed.unwrap_or(usual.seed),
        faults: args.fault.clone(),
        ..usual
    };
    runtime(None)?.block_on(async {
        let cannot = |e| Failure::Runtime(format!("{} cannot be listened on: {e}", args.listen));
        let listener = TcpListener::bind(args.listen).await.map_err(cannot)?;
        let address = listener.local_addr()?;
        writeln!(
            out,
            "every provider is simulated on http://{address}; mediagate simulate --help"
        )?;
        out.flush()?;
        tokio::select! {
            ended = sim::serve(listener, settings) => Ok(ended?),
            () = serve::stop_signal() => Ok(()),
        }
    })
}

fn runtime(workers: Option<usize>) -> Result<Runtime, Failure> {
    let mut builder = Builder::new_multi_thread();
    if let Some(workers) = workers {
        builder.worker_threads(workers);
    }
    builder
        .enable_all()
        .build()
        .map_err(|e| Failure::Runtime(format!("the threads cannot be started: {e}")))
}

/// An error with its sources, outermost first.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serving_is_the_default() {
        for (words, listen) in [
            (&["mediagate"][..], None),
            (&["mediagate", "serve", "--listen", "127.0.0.1:0"], Some("127.0.0.1:0")),
            (&["mediagate", "--listen", "127.0.0.1:0"], Some("127.0.0.1:0")),
        ] {
            let cli = Cli::try_parse_from(words).unwrap();
            let given = match cli.command {
                Some(Command::Serve(args)) => args.listen,
                None => cli.serve.listen,
                other => panic!("{words:?}: {other:?}"),
            };
            assert_eq!(given.map(|a| a.to_string()).as_deref(), listen, "{words:?}");
        }
        assert!(Cli::try_parse_from(["mediagate", "serv"]).is_err());
    }

    #[test]
    fn the_version_is_that_of_the_package() {
        let cli = Cli::try_parse_from(["mediagate", "version"]).unwrap();
        let mut out = Vec::new();
        run(&cli, &mut out).unwrap();
        assert_eq!(out, format!("mediagate {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
    }
}
