//! The command line: composition of the rooms into programs.

mod agents;
mod audit;
mod boot;
mod config;
mod db;
#[cfg(feature = "demo")]
mod demo;
mod export;
mod flags;
mod import;
mod leader;
mod pay;
mod progress;
mod rebuild;
mod reconcile;
mod refund;
mod replay;
mod run;
mod statement;
mod tx;
mod webhooks;

use crate::telemetry::Telemetry;
use clap::{Parser, Subcommand};
use opentelemetry_otlp::ExporterBuildError;
use std::{path::PathBuf, process::ExitCode};
use tokio::runtime::Handle;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// Exit code of a check that found something wrong, and of every failure without one of its own.
const FAILED: u8 = 1;
/// Exit code of a wrong configuration or usage. clap exits with the same.
const MISCONFIGURED: u8 = 2;
/// Exit code of a check that could not look at everything, and has found nothing wrong so far.
const INCOMPLETE: u8 = MISCONFIGURED;
/// Exit code of a trust root that does not match.
const TRUST_ROOT_MISMATCH: u8 = 3;

/// Settles x402 payments through a Splitter, exactly once, and proves it.
#[derive(Debug, Parser)]
#[command(name = "keeper", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Run(run::Run),
    /// Compare ledger, chain and contracts; exits 1 on any difference.
    Reconcile(reconcile::Reconcile),
    /// Have the ledger look again at a log, or at a range of blocks.
    Replay(replay::Replay),
    /// Recreate the ledger from the chain, in an empty database.
    Rebuild(rebuild::RebuildCommand),
    /// Recompute everything that the ledger says; exits 1 when something does not fit.
    Audit(audit::Audit),
    /// Write the whole ledger as lines of JSON.
    Export(export::Export),
    /// Check an export, or make it a ledger again.
    Import(import::Import),
    /// Look at the outbox, and tell it what to do.
    Tx(tx::Tx),
    /// Show and move the switches, and what closes the intake.
    Flags(flags::Flags),
    /// Give agents credentials, and take them away.
    Agents(agents::Agents),
    /// Give back what agents paid for nothing.
    Refund(refund::RefundCommand),
    /// Everything of a provider in a month.
    Statement(statement::Statement),
    /// Show what others are told, and tell them again.
    Webhooks(webhooks::Webhooks),
    /// Work on the database.
    #[command(subcommand)]
    Db(db::Db),
    /// Pay for a call, as an agent.
    Pay(pay::Pay),
    /// Show the whole way of a payment on a local chain.
    #[cfg(feature = "demo")]
    Demo(demo::Demo),
}

/// An error with the exit code that it deserves.
#[derive(Debug)]
struct Exit {
    code: u8,
    error: eyre::Report,
}

impl Exit {
    /// The operator wrote something wrong.
    fn misconfigured(error: impl Into<eyre::Report>) -> Self {
        Self { code: MISCONFIGURED, error: error.into() }
    }

    /// Chain or database did not answer: nothing can be said.
    fn incomplete(error: impl Into<eyre::Report>) -> Self {
        Self { code: INCOMPLETE, error: error.into() }
    }
}

impl<E: Into<eyre::Report>> From<E> for Exit {
    fn from(error: E) -> Self {
        Self { code: FAILED, error: error.into() }
    }
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("keeper: cannot start: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let telemetry = match start_telemetry(&cli.command, runtime.handle()) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("keeper: telemetry.otlp_endpoint: {error}");
            return ExitCode::from(MISCONFIGURED);
        }
    };
    let filter = EnvFilter::try_from_env("KEEPER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let spans = telemetry.as_ref().map(Telemetry::layer);
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(spans).with(filter);
    if matches!(&cli.command, Command::Run(run) if run.json_log) {
        registry.with(log.json()).init();
    } else {
        registry.with(log.with_target(false)).init();
    }
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Run(run) => run.execute().await,
            Command::Reconcile(reconcile) => reconcile.execute().await,
            Command::Replay(replay) => replay.execute().await,
            Command::Rebuild(rebuild) => rebuild.execute().await,
            Command::Audit(audit) => audit.execute().await,
            Command::Export(export) => export.execute().await,
            Command::Import(import) => import.execute().await,
            Command::Tx(tx) => tx.execute().await,
            Command::Flags(flags) => flags.execute().await,
            Command::Agents(agents) => agents.execute().await,
            Command::Refund(refund) => refund.execute().await,
            Command::Statement(statement) => statement.execute().await,
            Command::Webhooks(webhooks) => webhooks.execute().await,
            Command::Db(db) => db.execute().await,
            Command::Pay(pay) => pay.execute().await,
            #[cfg(feature = "demo")]
            Command::Demo(demo) => demo.execute().await,
        }
    });
    if let Some(telemetry) = telemetry {
        telemetry.shut_down();
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            eprintln!("keeper: {:#}", exit.error);
            ExitCode::from(exit.code)
        }
    }
}

/// Spans, if the daemon is to run and its configuration wants them.
fn start_telemetry(
    command: &Command,
    runtime: &Handle,
) -> Result<Option<Telemetry>, ExporterBuildError> {
    let Command::Run(run) = command else { return Ok(None) };
    run.otlp_endpoint().map(|endpoint| Telemetry::start(&endpoint, runtime)).transpose()
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
struct ConfigArgs {
    /// Configuration file.
    #[arg(long, short, default_value = "keeper.toml", env = "KEEPER_CONFIG")]
    config: PathBuf,
}
