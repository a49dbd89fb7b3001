//! Reservations on PostgreSQL, at a fixed rate whatever becomes of those before: what the edge does
//! in one SQL transaction between signature and pull.

use crate::{
    Ground,
    payer::{CHAIN_ID, verified},
    report::{Figure, percentile},
};
use alloy::{primitives::B256, signers::local::PrivateKeySigner};
use keeper::{
    failpoint::Point,
    ledger::{Identity, Ledger, NewIntent, NewSettlement, Sale, SplitterRecord},
    lifecycle::{IntentKind, Mode},
    splitter::{SplitTerms, capability_id},
    x402::{MicroUsdc, Network, Version},
};
use sandbox::{PRICE_MICRO, Postgres};
use sqlx::PgPool;
use std::time::{Duration, Instant};

/// Between two reservations: 500 a second.
const INTERVAL: Duration = Duration::from_millis(2);
/// Reservations per run.
const RESERVATIONS: u64 = 10_000;
/// Reservations before the first run.
const WARM: u64 = 1_000;
/// Payers who share them.
const PAYERS: usize = 2_000;
/// Files of 16 MiB that the server's log takes in a run, and some more.
const SEGMENTS: usize = 8;

pub(crate) async fn measure(ground: &Ground) -> eyre::Result<Vec<Figure>> {
    let server = Postgres::start(&ground.tools).await?;
    let ledger = Ledger::open(&server.url("postgres")).await?;
    let splitter = SplitterRecord {
        chain_id: CHAIN_ID,
        address: PrivateKeySigner::random().address(),
        asset: Network::BaseSepolia.usdc().address,
        hub_treasury: PrivateKeySigner::random().address(),
        network_reserve: PrivateKeySigner::random().address(),
        authorized_settler: PrivateKeySigner::random().address(),
        per_tx_cap: MicroUsdc::new(PRICE_MICRO)?,
        first_block: 0,
    };
    let mut tx = ledger.begin().await?;
    tx.enter_splitter(&splitter).await?;
    tx.commit(Point::Enter).await?;
    let payers: Vec<_> = (0..PAYERS).map(|_| PrivateKeySigner::random()).collect();
    let mut slowest = Vec::new();
    let server = PgPool::connect(&server.url("postgres")).await?;
    // Connections and plans are there before anything counts.
    at_a_rate(&ledger, drafts(&splitter, &payers, "warm", WARM)?).await?;
    for run in 0..ground.runs {
        let count = RESERVATIONS / ground.divide;
        // Signatures first: they are the agents' work.
        let drafts = drafts(&splitter, &payers, &run.to_string(), count)?;
        write_ahead(&server).await?;
        let mut took = at_a_rate(&ledger, drafts).await?;
        let p99 = percentile(&mut took, 99).unwrap_or_default();
        let of = |took: &mut [Duration], percent| percentile(took, percent).unwrap_or_default();
        let (p50, p95, most) = (of(&mut took, 50), of(&mut took, 95), of(&mut took, 100));
        println!(
            "reserve: {count} reservations, p50 {p50:?}, p95 {p95:?}, p99 {p99:?}, longest {most:?}"
        );
        slowest.push(p99);
    }
    Ok(vec![Figure::milliseconds("ledger_reserve_p99_ms", &slowest)])
}

/// Makes the server what it is after an hour of work: one that writes its log into files that it has,
/// instead of making a new one, which everybody waits for, every six seconds.
async fn write_ahead(server: &PgPool) -> eyre::Result<()> {
    for _ in 0..SEGMENTS {
        let fill =
            "SELECT pg_logical_emit_message(false, 'bench', 'fills a file'), pg_switch_wal()";
        sqlx::raw_sql(fill).execute(server).await?;
    }
    sqlx::raw_sql("CHECKPOINT").execute(server).await?;
    Ok(())
}

fn drafts(
    splitter: &SplitterRecord,
    payers: &[PrivateKeySigner],
    run: &str,
    count: u64,
) -> eyre::Result<Vec<NewSettlement>> {
    let numbered = (0..count).zip(payers.iter().cycle());
    numbered.map(|(n, payer)| draft(splitter, payer, &format!("{run}-{n}"))).collect()
}

fn draft(
    splitter: &SplitterRecord,
    payer: &PrivateKeySigner,
    request: &str,
) -> eyre::Result<NewSettlement> {
    let authorization = verified(payer, splitter.address)?;
    Ok(NewSettlement {
        chain_id: CHAIN_ID,
        splitter: splitter.address,
        asset: splitter.asset,
        amount: MicroUsdc::new(PRICE_MICRO)?,
        mode: Mode::SelfPull,
        version: Version::V1,
        sale: Some(Sale {
            capability_id: "demo/echo".to_owned(),
            splitter_capability_id: capability_id("demo", "echo"),
            terms: SplitTerms { provider: splitter.hub_treasury, bps: [8_500, 1_000, 500] },
        }),
        agent_id: payer.address().to_string().to_lowercase(),
        request_id: request.to_owned(),
        content_hash: B256::new(rand::random()),
        payment_hash: B256::new(rand::random()),
        authorization,
    })
}

/// Begins one every [`INTERVAL`]; the time of each counts from when it should have begun.
async fn at_a_rate(ledger: &Ledger, drafts: Vec<NewSettlement>) -> eyre::Result<Vec<Duration>> {
    let mut ticks = tokio::time::interval(INTERVAL);
    let mut running = Vec::new();
    for new in drafts {
        let due = ticks.tick().await;
        let ledger = ledger.clone();
        running.push(tokio::spawn(async move {
            reserve(&ledger, &new).await?;
            Ok::<_, eyre::Report>(Instant::now().saturating_duration_since(due.into_std()))
        }));
    }
    let mut took = Vec::new();
    for one in running {
        took.push(one.await??);
    }
    Ok(took)
}

async fn reserve(ledger: &Ledger, new: &NewSettlement) -> eyre::Result<()> {
    let mut tx = ledger.begin().await?;
    let payer = new.authorization.payer();
    tx.open_payments(new.chain_id, new.asset, payer).await?;
    let Identity::Free = tx.identity(new).await? else {
        eyre::bail!("request {} was not reserved", new.request_id);
    };
    let settlement = tx.reserve_to_settle(new, None).await?;
    tx.add_intent(&NewIntent {
        chain_id: new.chain_id,
        splitter: new.splitter,
        signer: payer,
        kind: IntentKind::Pull,
        settlement: Some(settlement.id),
        splitter_capability_id: capability_id("demo", "echo"),
        to: new.asset,
        calldata: new.authorization.pull_call(capability_id("demo", "echo")),
        gas_limit: 250_000,
        valid_before: Some(new.authorization.valid_before()),
    })
    .await?;
    tx.commit(Point::Reserve).await?;
    Ok(())
}
