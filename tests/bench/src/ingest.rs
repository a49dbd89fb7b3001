//! The mirror catching up: a hundred thousand pulls, each in a transaction of its own, so that each
//! needs its receipt, into PostgreSQL.

use crate::{
    Ground,
    payer::{CHAIN_ID, verified},
    record::create,
    report::Figure,
};
use alloy::{
    primitives::{Address, U64},
    signers::local::PrivateKeySigner,
};
use keeper::{
    chain::{BlockTag, Chain, Heads},
    failpoint::Point,
    ledger::{Ledger, SplitterRecord, Stream},
    splitter::capability_id,
    watcher::Watcher,
    x402::MicroUsdc,
};
use sandbox::{AnvilOptions, PRICE_MICRO, Postgres, Stack, StackOptions};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Pulls.
const PULLS: u64 = 100_000;
/// Pulls in a block: ten a second, as Base makes a block in two. Anvil goes through a whole block for
/// each receipt, so that much fuller ones would measure anvil; emptier ones take too long to lay.
const PER_BLOCK: u64 = 20;
/// Who pays.
const PAYERS: usize = 50;
/// Gas limit of a block, with room for all of them.
const BLOCK_GAS: u64 = 400_000_000;

pub(crate) async fn measure(ground: &Ground) -> eyre::Result<Vec<Figure>> {
    let folder = ground.folder.join(format!("ingest-{}", std::process::id()));
    let anvil = AnvilOptions { block_time: None, ..AnvilOptions::default() };
    let stack =
        Stack::start(&ground.tools, &folder, StackOptions { anvil, ..StackOptions::default() })
            .await?;
    stack.register().await?;
    let pulls = PULLS / ground.divide;
    let began = Instant::now();
    pull(&stack, pulls).await?;
    println!("ingest: {pulls} pulls laid in {:?}", began.elapsed());
    let server = Postgres::start(&ground.tools).await?;
    let mut took = Vec::new();
    for run in 0..ground.runs {
        let name = format!("ingest_{run}");
        create(&server, &name).await?;
        let time = ingest(&stack, &server.url(&name), pulls).await?;
        println!("ingest: {pulls} logs in {time:?}");
        took.push(time);
    }
    Ok(vec![Figure::seconds("ingest_100k_seconds", &took)])
}

/// Puts the pulls on the chain.
async fn pull(stack: &Stack, pulls: u64) -> eyre::Result<()> {
    let mut payers = Vec::new();
    for _ in 0..PAYERS {
        payers.push(stack.agent(pulls.saturating_mul(PRICE_MICRO)).await?);
    }
    let from = stack.anvil.first_account().await?;
    stack.anvil.rpc("evm_setAutomine", json!([false])).await?;
    stack.anvil.rpc("evm_setBlockGasLimit", json!([format!("{BLOCK_GAS:#x}")])).await?;
    // Then anvil signs none of them; who sends a pull is nobody's concern.
    stack.anvil.rpc("anvil_impersonateAccount", json!([from])).await?;
    let client = reqwest::Client::new();
    let used = stack.anvil.rpc("eth_getTransactionCount", json!([from, "latest"])).await?;
    let first: U64 = serde_json::from_value(used)?;
    let batches = Batches {
        from,
        usdc: stack.contracts.usdc,
        splitter: stack.contracts.splitter,
        payers: Arc::new(payers),
    };
    let mut next = batches.sign(first.to(), PER_BLOCK.min(pulls));
    let mut sent = 0;
    while sent < pulls {
        let batch = next.await??;
        sent = sent.saturating_add(batch.len() as u64);
        // The next ones are signed while anvil takes these.
        let nonce = first.to::<u64>().saturating_add(sent);
        next = batches.sign(nonce, PER_BLOCK.min(pulls.saturating_sub(sent)));
        let answers: Vec<Value> =
            client.post(stack.anvil.url()).json(&batch).send().await?.json().await?;
        if let Some(refused) = answers.iter().find(|answer| answer["result"].is_null()) {
            eyre::bail!("a pull was not taken: {refused}");
        }
        stack.anvil.rpc("evm_mine", json!([])).await?;
    }
    stack.anvil.rpc("anvil_stopImpersonatingAccount", json!([from])).await?;
    Ok(())
}

/// What pulls are made of.
#[derive(Debug, Clone)]
struct Batches {
    from: Address,
    usdc: Address,
    splitter: Address,
    payers: Arc<Vec<PrivateKeySigner>>,
}

impl Batches {
    /// Pulls from an account nonce on, on a thread of their own.
    fn sign(&self, nonce: u64, count: u64) -> JoinHandle<eyre::Result<Vec<Value>>> {
        let batches = self.clone();
        tokio::task::spawn_blocking(move || batches.signed(nonce, count))
    }

    fn signed(&self, nonce: u64, count: u64) -> eyre::Result<Vec<Value>> {
        let capability = capability_id("demo", "echo");
        (nonce..nonce.saturating_add(count))
            .zip(self.payers.iter().cycle())
            .map(|(nonce, payer)| {
                let authorization = verified(payer, self.splitter)?;
                let transaction = json!({
                    "from": self.from,
                    "to": self.usdc,
                    "gas": "0x3d090",
                    "nonce": format!("{nonce:#x}"),
                    "input": authorization.pull_call(capability),
                });
                Ok(json!({"jsonrpc": "2.0", "id": nonce, "method": "eth_sendTransaction",
                    "params": [transaction]}))
            })
            .collect()
    }
}

/// Has the watcher read everything into an empty ledger.
async fn ingest(stack: &Stack, database: &str, pulls: u64) -> eyre::Result<Duration> {
    let ledger = Ledger::open(database).await?;
    let splitter = SplitterRecord {
        chain_id: CHAIN_ID,
        address: stack.contracts.splitter,
        asset: stack.contracts.usdc,
        hub_treasury: stack.roles.hub_treasury,
        network_reserve: stack.roles.network_reserve,
        authorized_settler: stack.settler.1,
        per_tx_cap: MicroUsdc::new(PRICE_MICRO)?,
        first_block: 0,
    };
    let mut tx = ledger.begin().await?;
    tx.enter_splitter(&splitter).await?;
    tx.commit(Point::Enter).await?;
    let lease = ledger
        .acquire_lease("bench", "bench", Duration::from_secs(3_600))
        .await?
        .ok_or_else(|| eyre::eyre!("no lease"))?;
    let chain = Chain::new(&[stack.anvil.url().parse()?])?;
    let head = chain.head(BlockTag::Latest).await?.number();
    let stop = CancellationToken::new();
    let heads = Heads::follow(chain.clone(), Duration::from_millis(200), stop.clone());
    let watcher = Watcher { chain, heads, ledger: ledger.clone(), lease, splitter, window: 32 };
    let began = Instant::now();
    let running = tokio::spawn(watcher.run(stop.clone()));
    let took = loop {
        let mut tx = ledger.read().await?;
        let next = tx.cursor(CHAIN_ID, splitter.address, Stream::Mirror).await?;
        if next.is_some_and(|next| next > head) {
            break began.elapsed();
        }
        drop(tx);
        eyre::ensure!(!running.is_finished(), "the watcher ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    stop.cancel();
    running.await??;
    let mut tx = ledger.read().await?;
    let mirrored = tx.pulls(CHAIN_ID, splitter.address, 0, head).await?.len() as u64;
    eyre::ensure!(mirrored == pulls, "{mirrored} of {pulls} pulls are in the mirror");
    Ok(took)
}
