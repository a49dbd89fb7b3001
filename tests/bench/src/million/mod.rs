//! Audit and reconciliation of a million settlements on PostgreSQL.
//!
//! Fifty payments are made for real, by a daemon on anvil. Their rows are then copied until there
//! are a million settlements: each copy with identities, hashes, signatures and event chains of its
//! own, so that every check has its work. All of it is split and paid out, so that the Splitter's
//! real balances on the chain are those of the copied ledger too.

mod copies;
mod seals;
mod template;

use crate::{
    Ground,
    memory::kib,
    payer::CHAIN_ID,
    record::{at_a_rate, create, recorded},
    report::Figure,
};
use alloy::{primitives::B256, signers::local::PrivateKeySigner};
use copies::{Batch, Envelope, Identity, Press};
use eyre::{OptionExt, eyre};
use futures::{StreamExt, TryStreamExt, stream};
use keeper::{
    ledger::{Ledger, Stream},
    lifecycle::Status,
    splitter::capability_id,
};
use sandbox::{AnvilOptions, Daemon, KeyPlace, PRICE_MICRO, Postgres, Stack, StackOptions};
use seals::Sealing;
use serde_json::{Value, json};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolCopyExt, PgPoolOptions},
};
use std::{
    collections::BTreeMap,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};
use template::{Per, SHARING, Slots, Strides, Table, columns, rows};
use tokio::{process::Command, task::spawn_blocking};

/// Settlements.
const SETTLEMENTS: u64 = 1_000_000;
/// Payments of the template.
const TEMPLATE: u64 = 50;
/// Copies between two sends.
const BATCH: usize = 40;
/// Batches that are made at the same time.
const AHEAD: usize = 3;
/// The tables that are copied, with which of their rows, in their order.
const COPIED: &[(&str, &str)] = &[
    ("x402_settlements", ""),
    ("deliveries", ""),
    ("settlement_events", "ORDER BY settlement_id, n"),
    ("event_positions", ""),
    ("intents", ""),
    ("transactions", ""),
    ("transaction_intents", ""),
    ("attempts", ""),
    ("x402_pull_events", ""),
    ("payout_events", ""),
    ("splitter_events", "WHERE event_name <> 'CapabilityRegistered'"),
    ("journals", ""),
    ("postings", ""),
    ("audit_log", "WHERE settlement_id IS NOT NULL"),
];
/// Columns that count up: table, column, and the table whose numbers they are.
const COUNTED: &[[&str; 3]] = &[
    ["settlement_events", "seq", "settlement_events"],
    ["event_positions", "position", "event_positions"],
    ["event_positions", "seq", "settlement_events"],
    ["intents", "id", "intents"],
    ["transaction_intents", "intent_id", "intents"],
    ["transactions", "id", "transactions"],
    ["transaction_intents", "transaction_id", "transactions"],
    ["attempts", "transaction_id", "transactions"],
    ["audit_log", "seq", "audit_log"],
];

/// Positions of the template's events.
const POSITIONS: &str = "INSERT INTO event_positions (position, seq)
    SELECT row_number() OVER (ORDER BY seq) - 1, seq FROM settlement_events";

pub(crate) async fn measure(ground: &Ground) -> eyre::Result<Vec<Figure>> {
    let server = Postgres::start(&ground.tools).await?;
    let folder = ground.folder.join(format!("million-{}", std::process::id()));
    let anvil = AnvilOptions { block_time: Some(2), ..AnvilOptions::default() };
    let options = StackOptions { anvil, keys: KeyPlace::Files, ..StackOptions::default() };
    let stack = Stack::start(&ground.tools, &folder, options).await?;
    stack.register().await?;
    create(&server, "million").await?;
    let database = server.url("million");
    let daemon = make_template(ground, &stack, &database).await?;
    let settlements = SETTLEMENTS / ground.divide;
    let began = Instant::now();
    multiply(&stack, &database, settlements / TEMPLATE).await?;
    println!("million: {settlements} settlements laid in {:?}", began.elapsed());
    // No daemon follows the chain here: it stays where the mirror ends.
    stack.anvil.rpc("evm_setIntervalMining", json!([0])).await?;
    let (mut audits, mut memory, mut reconciliations) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ground.runs {
        let (took, mib) = command(ground, &stack, &daemon, "audit").await?;
        println!("million: audit in {took:?}, {mib} MiB");
        audits.push(took);
        memory.push(mib);
        let (took, mib) = command(ground, &stack, &daemon, "reconcile").await?;
        println!("million: reconcile in {took:?}, {mib} MiB");
        reconciliations.push(took);
    }
    Ok(vec![
        Figure::seconds("audit_1m_seconds", &audits),
        Figure::count("audit_1m_mib", "MiB", &memory),
        Figure::seconds("reconcile_1m_seconds", &reconciliations),
    ])
}

/// Has the daemon settle the template's payments, and stops it.
async fn make_template(ground: &Ground, stack: &Stack, database: &str) -> eyre::Result<Daemon> {
    let mut agents = Vec::new();
    for _ in 0..10 {
        agents.push(stack.agent(TEMPLATE.saturating_mul(PRICE_MICRO)).await?);
    }
    let mut daemon = stack.daemon(&ground.keeper, database).await?;
    at_a_rate(stack, &daemon.url, &agents, TEMPLATE).await?;
    let split = recorded(stack, database, TEMPLATE).await?;
    let last = split.iter().filter_map(|one| one.split).map(|at| at.block_number).max();
    let last = last.ok_or_eyre("nothing was split")?;
    let ledger = Ledger::open_beside(database).await?;
    loop {
        let mut tx = ledger.read().await?;
        let booked = tx.cursor(CHAIN_ID, stack.contracts.splitter, Stream::Journal).await?;
        let query = keeper::ledger::SettlementQuery::InStatus(Status::ChainConfirmed);
        let confirmed = tx.settlements(CHAIN_ID, stack.contracts.splitter, query).await?;
        drop(tx);
        let finals = sqlx::PgPool::connect_with(as_loader(database)?).await?;
        let open: (i64,) = sqlx::query_as("SELECT count(*) FROM transactions WHERE NOT final")
            .fetch_one(&finals)
            .await?;
        if booked > Some(last) && confirmed.len() as u64 == TEMPLATE && open.0 == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    daemon.signal("TERM").await?;
    daemon.wait().await?;
    Ok(daemon)
}

/// Connections that lay rows as they are: no trigger runs, no reference is checked.
fn as_loader(database: &str) -> eyre::Result<PgConnectOptions> {
    let options: PgConnectOptions = database.parse()?;
    Ok(options.options([
        ("search_path", "jecp"),
        ("session_replication_role", "replica"),
        ("synchronous_commit", "off"),
        ("maintenance_work_mem", "512MB"),
    ]))
}

/// Copies the template until there are so many of it.
async fn multiply(stack: &Stack, database: &str, copies: u64) -> eyre::Result<()> {
    let began = Instant::now();
    let say = |what: &str| println!("million: {what} after {:?}", began.elapsed());
    let pool = PgPoolOptions::new().max_connections(20).connect_with(as_loader(database)?).await?;
    // Nothing of this server is worth keeping.
    run(&pool, "ALTER SYSTEM SET fsync = off").await?;
    run(&pool, "ALTER SYSTEM SET max_wal_size = '4GB'").await?;
    run(&pool, "SELECT pg_reload_conf()").await?;
    run(&pool, "TRUNCATE event_positions, event_seals").await?;
    run(&pool, POSITIONS).await?;
    let Ready { press, blocks, events } = press(stack, &pool).await?;
    let press = Arc::new(press);
    let names: Vec<_> = press.tables.iter().map(|table| format!("'{}'", table.name)).collect();
    let unindexed = format!(
        "UPDATE pg_index SET indisready = false, indisvalid = false WHERE indrelid IN
        (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'jecp' AND c.relname IN ({}))",
        names.join(", ")
    );
    run(&pool, &unindexed).await?;
    let mut sealing = Sealing::default();
    for event in events {
        sealing.event(event)?;
    }
    let mut streams = Vec::new();
    for table in &press.tables {
        let copy = format!("COPY {} ({}) FROM STDIN", table.name, table.columns.join(", "));
        streams.push(pool.copy_in_raw(&copy).await?);
    }
    // The template itself is the first.
    let mut batches = stream::iter((1..copies).step_by(BATCH))
        .map(|first| {
            let (press, last) = (press.clone(), copies.min(first.saturating_add(BATCH as u64)));
            spawn_blocking(move || press.batch(first..last))
        })
        .buffered(AHEAD);
    while let Some(batch) = batches.try_next().await? {
        let Batch { lines, events } = batch?;
        let sends = streams
            .iter_mut()
            .zip(lines)
            .map(|(stream, lines)| async move { stream.send(lines.into_bytes()).await.map(drop) });
        futures::future::try_join_all(sends).await?;
        for event in events {
            sealing.event(event)?;
        }
    }
    for stream in streams {
        stream.finish().await?;
    }
    let mut seals = pool.copy_in_raw("COPY event_seals FROM STDIN").await?;
    seals.send(sealing.finish()?.into_bytes()).await?;
    seals.finish().await?;
    say("rows copied");
    for table in &press.tables {
        run(&pool, &format!("REINDEX TABLE {}", table.name)).await?;
    }
    say("indexes built");
    settle_the_rest(&pool, copies, blocks).await?;
    // The chain is as long as the mirror.
    let more = blocks.saturating_mul(copies.div_ceil(SHARING));
    stack.anvil.rpc("anvil_mine", json!([format!("{more:#x}")])).await?;
    let end: (i64,) = sqlx::query_as("SELECT next_block - 1 FROM cursors WHERE stream = 'mirror'")
        .fetch_one(&pool)
        .await?;
    let block =
        stack.anvil.rpc("eth_getBlockByNumber", json!([format!("{:#x}", end.0), false])).await?;
    let hash = block["hash"].as_str().ok_or_eyre("the mirror ends beyond the chain")?;
    run(&pool, &format!("UPDATE cursors SET head_hash = '{hash}' WHERE stream = 'mirror'")).await?;
    say("blocks mined");
    run(&pool, "VACUUM ANALYZE").await
}

/// What copies are made with.
struct Ready {
    press: Press,
    /// Blocks of the template.
    blocks: u64,
    /// The hashes of its events, in their order.
    events: Vec<B256>,
}

/// Cuts the template into a press.
async fn press(stack: &Stack, pool: &PgPool) -> eyre::Result<Ready> {
    let mut found = BTreeMap::new();
    for (table, which) in COPIED {
        found.insert(*table, rows(pool, table, which).await?);
    }
    let number = |row: &Value, column: &str| row[column].as_u64();
    let range = |table: &str| -> u64 {
        let is = |column: &&str| found[table].iter().any(|row| row[*column].is_u64());
        let column = ["position", "seq"].into_iter().find(is).unwrap_or("id");
        let numbers = || found[table].iter().filter_map(|row| number(row, column));
        let span = numbers().max().unwrap_or(0).saturating_sub(numbers().min().unwrap_or(0));
        span.saturating_add(1)
    };
    let places = ["x402_pull_events", "payout_events", "splitter_events", "transactions"];
    let all = || {
        places.iter().flat_map(|table| &found[table]).filter_map(|row| number(row, "block_number"))
    };
    let (first, last) = (all().min().unwrap_or(0), all().max().unwrap_or(0));
    let logs = places.iter().flat_map(|table| &found[table]);
    let logs = logs.filter_map(|row| number(row, "log_index")).max().unwrap_or(0);
    let mut strides = Strides {
        blocks: last.saturating_sub(first).saturating_add(1),
        logs: logs.saturating_add(1),
        fixed: vec![capability_id("demo", "echo").to_string()],
        ..Strides::default()
    };
    for [table, column, continued] in COUNTED {
        strides.columns.insert((*table, *column), range(continued));
    }
    for transaction in &found["transactions"] {
        let signer = transaction["signer"].as_str().ok_or_eyre("no signer")?.to_owned();
        let count = strides.nonces.entry(signer).or_insert(0);
        *count = count.saturating_add(1);
    }
    let mut slots = Slots::default();
    for row in found.values().flatten() {
        if let Some(hash) = row["block_hash"].as_str() {
            let slot = slots.hash(hash);
            slots.blocks.insert(slot);
        }
    }
    let mut nonces = BTreeMap::new();
    let mut identities = Vec::new();
    for settlement in &found["x402_settlements"] {
        let nonce = settlement["eip3009_nonce"].as_str().ok_or_eyre("no nonce")?;
        nonces.insert(nonce.parse::<B256>()?, slots.hash(nonce));
        strides.authorizations.push(nonce.trim_start_matches("0x").to_owned());
        identities.push(Identity::read(settlement, &mut slots)?);
    }
    let mut envelopes = Vec::new();
    for attempt in &found["attempts"] {
        let of = number(attempt, "transaction_id");
        let transaction = found["transactions"].iter().find(|row| number(row, "id") == of);
        let signer = transaction.and_then(|row| row["signer"].as_str()).ok_or_eyre("no signer")?;
        let stride = *strides.nonces.get(signer).ok_or_eyre("no stride")?;
        let read = Envelope::read(attempt, signer.parse()?, stride, &nonces, &mut slots)?;
        envelopes.push(read);
    }
    let mut tables = Vec::new();
    for (table, _) in COPIED {
        let names = columns(pool, table).await?;
        tables.push(Table::cut(table, names, &found[table], &mut slots, &strides)?);
    }
    let mut keys = BTreeMap::new();
    for (file, address) in [&stack.settler, &stack.puller] {
        let key: PrivateKeySigner = fs::read_to_string(stack.folder.join(file))?.trim().parse()?;
        keys.insert(*address, key);
    }
    let mut events = Vec::new();
    for event in &found["settlement_events"] {
        let hash: B256 = event["hash"].as_str().ok_or_eyre("no hash")?.parse()?;
        events.push((number(event, "seq"), hash));
    }
    let ranks = events.iter().map(|(seq, _)| events.iter().filter(|(it, _)| it < seq).count());
    let ranks = ranks.collect();
    events.sort_unstable();
    let press = Press { tables, slots, envelopes, identities, keys, ranks };
    let events = events.into_iter().map(|(_, hash)| hash).collect();
    Ok(Ready { press, blocks: strides.blocks, events })
}

/// What counts everything: totals, cursors, account nonces, identities.
async fn settle_the_rest(pool: &PgPool, copies: u64, blocks: u64) -> eyre::Result<()> {
    let more = Per::Blocks.steps(copies.saturating_sub(1)).saturating_mul(blocks);
    for statement in [
        format!(
            "UPDATE accounts SET debits_micro = debits_micro * {copies},
                credits_micro = credits_micro * {copies}"
        ),
        format!("UPDATE cursors SET next_block = next_block + {more} WHERE stream <> 'evidence'"),
        "UPDATE signers s SET next_account_nonce = (SELECT max(account_nonce) + 1
            FROM transactions t WHERE t.signer = s.address)"
            .to_owned(),
        "SELECT setval(pg_get_serial_sequence('settlement_events', 'seq'),
            (SELECT max(seq) FROM settlement_events))"
            .to_owned(),
    ] {
        run(pool, &statement).await?;
    }
    Ok(())
}

async fn run(pool: &PgPool, sql: &str) -> eyre::Result<()> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await
        .map(drop)
        .map_err(|error| eyre!("{sql}: {error}"))
}

/// Runs a command of the keeper; how long it took, and the most memory that it had, MiB.
async fn command(
    ground: &Ground,
    stack: &Stack,
    daemon: &Daemon,
    name: &str,
) -> eyre::Result<(Duration, u32)> {
    let began = Instant::now();
    let log = fs::File::create(stack.folder.join(format!("{name}.log")))?;
    let mut child = Command::new(&ground.keeper)
        .args([name, "--config"])
        .arg(&daemon.config)
        .current_dir(&stack.folder)
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let id = child.id().ok_or_eyre("no process")?;
    let mut most = 0;
    let ended = loop {
        most = kib(id, "VmHWM:").unwrap_or(most);
        let waited = tokio::time::timeout(Duration::from_millis(20), child.wait()).await;
        if let Ok(ended) = waited {
            break ended?;
        }
    };
    let took = began.elapsed();
    let said = fs::read_to_string(stack.folder.join(format!("{name}.log")))?;
    eyre::ensure!(ended.success(), "keeper {name}: {ended}\n{said}");
    Ok((took, u32::try_from(most.div_ceil(1_024))?))
}
