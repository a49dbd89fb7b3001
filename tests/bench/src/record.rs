//! From pull to record: a daemon on a chain with Base's two-second blocks, KMS at 120 ms per
//! signature, five payments a second.

use crate::{
    Ground,
    payer::{CHAIN_ID, pay},
    report::{Figure, percentile},
};
use alloy::signers::local::PrivateKeySigner;
use keeper::{
    ledger::{Ledger, Settlement, SettlementQuery},
    lifecycle::KeeperState,
};
use sandbox::{AnvilOptions, PRICE_MICRO, Postgres, Stack, StackOptions};
use std::time::{Duration, Instant};

/// Between two payments: five a second.
const INTERVAL: Duration = Duration::from_millis(200);
/// Payments per run: two minutes of them.
const PAYMENTS: u64 = 600;
/// Agents who share them.
const AGENTS: usize = 50;
/// What KMS takes for a signature.
const KMS_LATENCY: Duration = Duration::from_millis(120);
/// How long the last payments may take.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn measure(ground: &Ground) -> eyre::Result<Vec<Figure>> {
    let server = Postgres::start(&ground.tools).await?;
    let (mut blocks, mut served) = (Vec::new(), Vec::new());
    for run in 0..ground.runs {
        let folder = ground.folder.join(format!("record-{}-{run}", std::process::id()));
        let anvil = AnvilOptions { block_time: Some(2), ..AnvilOptions::default() };
        let options = StackOptions { anvil, ..StackOptions::default() };
        let stack = Stack::start(&ground.tools, &folder, options).await?;
        stack.register().await?;
        stack.kms.take(KMS_LATENCY);
        let payments = PAYMENTS / ground.divide;
        let mut agents = Vec::new();
        for _ in 0..AGENTS {
            agents.push(stack.agent(payments.saturating_mul(PRICE_MICRO)).await?);
        }
        let database = server.url(&format!("record_{run}"));
        create(&server, &format!("record_{run}")).await?;
        let daemon = stack.daemon(&ground.keeper, &database).await?;
        let mut waits = at_a_rate(&stack, &daemon.url, &agents, payments).await?;
        let settlements = recorded(&stack, &database, payments).await?;
        let mut behind: Vec<u32> = Vec::new();
        for settlement in &settlements {
            let (Some(pull), Some(record)) = (settlement.pull, settlement.record) else { continue };
            let distance = record.block_number.saturating_sub(pull.block_number);
            behind.push(u32::try_from(distance)?);
        }
        let p99 = percentile(&mut behind, 99).unwrap_or_default();
        let wait = percentile(&mut waits, 99).unwrap_or_default();
        println!(
            "record: {} payments, p50 {:?} and p99 {p99} blocks from pull to record, {wait:?} p99 to \
             the answer",
            behind.len(),
            percentile(&mut behind, 50),
        );
        blocks.push(p99);
        served.push(wait);
    }
    Ok(vec![
        Figure::count("record_p99_blocks", "blocks", &blocks),
        Figure::seconds("invoke_p99_seconds", &served),
    ])
}

/// A database on a server.
pub(crate) async fn create(server: &Postgres, name: &str) -> eyre::Result<()> {
    let pool = sqlx::PgPool::connect(&server.url("postgres")).await?;
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::query(create).execute(&pool).await?;
    Ok(())
}

/// Begins one payment every [`INTERVAL`] and waits for all answers; how long each took.
pub(crate) async fn at_a_rate(
    stack: &Stack,
    hub: &str,
    agents: &[PrivateKeySigner],
    payments: u64,
) -> eyre::Result<Vec<Duration>> {
    let client = reqwest::Client::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    let mut running = Vec::new();
    for (n, agent) in (0..payments).zip(agents.iter().cycle()) {
        let due = ticks.tick().await;
        let (client, hub, agent) = (client.clone(), hub.to_owned(), agent.clone());
        let splitter = stack.contracts.splitter;
        running.push(tokio::spawn(async move {
            let request = format!("bench-{n:06}");
            let status = pay(&client, &hub, &agent, splitter, &request).await?;
            eyre::ensure!(status == 200, "payment {n} was answered {status}");
            Ok(Instant::now().saturating_duration_since(due.into_std()))
        }));
    }
    let mut waits = Vec::new();
    for one in running {
        waits.push(one.await??);
    }
    Ok(waits)
}

/// Waits until all payments are split.
pub(crate) async fn recorded(
    stack: &Stack,
    database: &str,
    payments: u64,
) -> eyre::Result<Vec<Settlement>> {
    let ledger = Ledger::open_beside(database).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut tx = ledger.read().await?;
        let query = SettlementQuery::InKeeperState(KeeperState::Split);
        let split = tx.settlements(CHAIN_ID, stack.contracts.splitter, query).await?;
        drop(tx);
        if split.len() as u64 >= payments {
            return Ok(split);
        }
        eyre::ensure!(Instant::now() < deadline, "{} of {payments} are split", split.len());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
