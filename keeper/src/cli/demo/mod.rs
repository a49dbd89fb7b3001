//! `keeper demo`: the whole way of a payment on this machine alone, from a stock client's signature
//! to a reconciled ledger.

mod agents;
mod progress;
mod report;

use super::Exit;
use crate::{
    chain::Chain,
    ledger::{Ledger, Settlement, SettlementQuery, SplitterRecord},
    reconciler::{Reconciliation, reconcile},
    x402::MicroUsdc,
};
use agents::{Agent, Call};
use alloy::primitives::Address;
use clap::ValueEnum;
use eyre::{WrapErr, ensure};
use progress::Progress;
use report::Report;
use sandbox::{Daemon, Postgres, Stack, StackOptions, Tools};
use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use url::Url;

/// Calls by each client.
const CALLS: [(Agent, u32); 3] =
    [(Agent::X402FetchV1, 10), (Agent::X402FetchV2, 5), (Agent::KeeperPay, 1)];
/// What each agent has, micro-USDC.
const ALLOWANCE: u64 = 5_000_000;
/// How long everything may take to be confirmed, recorded, split and booked.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

/// Show the whole way of a payment on a local chain.
///
/// Starts a local Base Sepolia, deploys USDC's double and the Splitter, registers demo/echo, runs
/// the daemon with its keys in a KMS double, has stock x402 clients pay, and compares ledger, chain
/// and contracts to the last micro-USDC. Writes target/demo/report.json.
#[derive(Debug, clap::Args)]
pub(super) struct Demo {
    /// Leave everything running and print the URLs; ends with Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Where the ledger is.
    #[arg(long, value_enum, default_value = "sqlite")]
    database: Database,
    /// Where everything is written; in the checkout's target/, since forge may write nowhere else.
    #[arg(long, default_value = "target/demo")]
    folder: PathBuf,
}

/// Where the demo's ledger is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Database {
    /// A file.
    Sqlite,
    /// A throwaway PostgreSQL.
    Postgres,
}

/// A settled world.
struct Outcome {
    settlements: Vec<Settlement>,
    reconciliation: Reconciliation,
}

impl Demo {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        let started = Instant::now();
        let tools = Tools::find(&env::current_dir()?)?;
        let folder = tools.root().join(&self.folder);
        if !folder.starts_with(tools.root().join("target")) {
            return Err(Exit::misconfigured(eyre::eyre!("--folder must lie in target/")));
        }
        let _lock = lock(&folder)?;
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .wrap_err_with(|| format!("cannot clear {}", folder.display()))?;
        }
        let progress = Progress::new();

        let step = progress.step("local Base Sepolia, USDC, Splitter, KMS keys");
        let stack = Stack::start(&tools, &folder, StackOptions::default()).await?;
        step.done(&format!("Splitter {}", stack.contracts.splitter));

        let step = progress.step("demo/echo registered at $0.20, 85/10/5");
        stack.register().await?;
        step.done(&format!("provider {}", stack.provider_account));

        let step = progress.step("the daemon");
        let postgres = match self.database {
            Database::Sqlite => None,
            Database::Postgres => Some(Postgres::start(&tools).await?),
        };
        let database =
            postgres.as_ref().map_or_else(|| stack.sqlite(), |server| server.url("postgres"));
        let daemon = stack.daemon(&env::current_exe()?, &database).await?;
        step.done(&format!("{}, log {}", daemon.url, daemon.log.display()));

        let calls = buy(&tools, &stack, &daemon, &progress).await?;

        let step = progress.step("confirmed, recorded, split and booked");
        let expected = calls.iter().filter(|call| call.is_paid()).count();
        let outcome = settle(&stack, &database, expected).await?;
        step.done("");
        progress.finish();

        let report = Report::new(&stack, &calls, &outcome, started.elapsed()).await?;
        report.print(&stack, &outcome);
        let path = folder.join("report.json");
        fs::write(&path, serde_json::to_vec_pretty(&report)?)?;
        println!("report: {}", path.display());

        if self.keep {
            println!();
            println!("running until Ctrl-C:");
            println!("  hub       {}/v1/invoke", daemon.url);
            println!("  health    {}/health", daemon.url);
            println!("  chain     {} (chain id 84532)", stack.anvil.url());
            println!("  KMS       {}", stack.kms.url());
            println!("  database  {database}");
            println!("  config    {}", daemon.config.display());
            tokio::signal::ctrl_c().await?;
        }
        report.verdict()?;
        Ok(())
    }
}

/// Keeps a second demo out of the folder of one that runs.
fn lock(folder: &Path) -> eyre::Result<fs::File> {
    let path = folder.with_extension("lock");
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let file = fs::File::create(&path)?;
    file.try_lock().map_err(|_| {
        eyre::eyre!("another demo runs in {}; end it, or take another --folder", folder.display())
    })?;
    Ok(file)
}

/// Has every agent make its calls.
async fn buy(
    tools: &Tools,
    stack: &Stack,
    daemon: &Daemon,
    progress: &Progress,
) -> eyre::Result<Vec<Call>> {
    let url = format!("{}/v1/invoke", daemon.url);
    let mut calls = Vec::new();
    for (agent, count) in CALLS {
        let payer = stack.agent(ALLOWANCE).await?;
        let step = progress.count(agent.name(), u64::from(count));
        let made = agent.buy(tools, &payer, &url, count, |call| step.one(call.is_paid())).await?;
        let served = made.iter().filter(|call| call.is_served()).count();
        step.done(&format!("{served} answered 402, paid, answered 200"));
        ensure!(
            served == made.len(),
            "{}: only {served} of {} calls were served; see {}",
            agent.name(),
            made.len(),
            daemon.log.display()
        );
        calls.extend(made);
    }
    Ok(calls)
}

/// Waits until every payment is through and the books agree with the chain.
async fn settle(stack: &Stack, database: &str, expected: usize) -> eyre::Result<Outcome> {
    let ledger = Ledger::open_beside(database).await?;
    let chain = Chain::new(&[Url::parse(stack.anvil.url())?])?;
    let splitter = splitter(stack);
    let expected = u64::try_from(expected)?;
    let deadline = Instant::now() + SETTLE_LIMIT;
    loop {
        let reconciliation = reconcile(&ledger, &chain, &splitter).await?;
        let totals = reconciliation.totals;
        let through = totals.confirmed == expected && totals.split == expected;
        if (through && reconciliation.is_sound()) || Instant::now() >= deadline {
            let mut tx = ledger.read().await?;
            let settlements =
                tx.settlements(splitter.chain_id, splitter.address, SettlementQuery::All).await?;
            return Ok(Outcome { settlements, reconciliation });
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

fn splitter(stack: &Stack) -> SplitterRecord {
    SplitterRecord {
        chain_id: 84_532,
        address: stack.contracts.splitter,
        asset: stack.contracts.usdc,
        hub_treasury: stack.roles.hub_treasury,
        network_reserve: stack.roles.network_reserve,
        authorized_settler: stack.settler.1,
        per_tx_cap: MicroUsdc::ZERO,
        first_block: 0,
    }
}

/// What an account has on the chain, micro-USDC.
async fn balance(stack: &Stack, account: Address) -> eyre::Result<u64> {
    let chain = Chain::new(&[Url::parse(stack.anvil.url())?])?;
    let call = crate::eip3009::FiatToken::balanceOfCall { account };
    let balance = chain.call(stack.contracts.usdc, &call, crate::chain::BlockTag::Latest).await?;
    Ok(MicroUsdc::try_from(balance)?.micro())
}

/// A folder of the demo for messages.
fn shown(path: &std::path::Path) -> PathBuf {
    env::current_dir()
        .ok()
        .and_then(|here| path.strip_prefix(here).ok().map(PathBuf::from))
        .unwrap_or_else(|| path.to_owned())
}
