//! How fast payments are compared, and in how much memory.

use super::{booked, count};
use crate::support::{chain, keeper, postgres, stack};
use keeper::{chain::BlockTag, splitter::capability_id};
use sandbox::StackOptions;
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Ten payments to a split.
const GENERATE: &[&str] = &[
    "CREATE TEMPORARY TABLE g AS SELECT g,
        CAST(md5('s' || g) AS uuid)::text AS id,
        '0x' || md5('t' || g) || md5('u' || g) AS pull,
        '0x' || md5('r' || g) || md5('q' || g) AS record,
        '0x' || md5('x' || g / 10) || md5('y' || g / 10) AS split,
        '0x' || substr(md5('p' || g % 1000) || md5('o'), 1, 40) AS payer,
        '0x' || md5('n' || g) || md5('m' || g) AS nonce
        FROM generate_series(0, {n} - 1) g",
    "INSERT INTO x402_settlements (id, trace_id, chain_id, splitter, asset, payer, eip3009_nonce,
        pay_to, amount_usdc_micro, valid_after, valid_before, kind, mode, capability_id,
        splitter_capability_id, provider, provider_bps, hub_bps, reserve_bps, status, keeper_state,
        tx_hash, log_index, block_number, block_hash, record_tx_hash, record_log_index,
        record_block_number, split_tx_hash, split_log_index, split_block_number,
        provider_share_micro, hub_share_micro, network_share_micro, reserved_at, settled_at)
        SELECT id, nonce, 84532, '{splitter}', '{asset}', payer, nonce, '{splitter}', 200000, 0, 1,
        'capability', 'self', 'demo/echo', '{capability}', '{provider}', 8500, 1000, 500,
        'chain_confirmed', 'split', pull, 1, {block}, '{hash}', record, 0, {block} + 1, split, 0,
        {block} + 2, 170000, 20000, 10000, now(), now() FROM g",
    "INSERT INTO x402_pull_events (chain_id, tx_hash, log_index, block_number, block_hash,
        block_timestamp, splitter, asset, payer, eip3009_nonce, amount_micro, settlement_id)
        SELECT 84532, pull, 1, {block}, '{hash}', 1, '{splitter}', '{asset}', payer, nonce, 200000,
        id FROM g",
    "INSERT INTO splitter_events (chain_id, tx_hash, log_index, block_number, block_hash,
        block_timestamp, splitter, event_name, splitter_capability_id, account, eip3009_nonce, amount)
        SELECT 84532, record, 0, {block} + 1, '{hash}', 1, '{splitter}', 'SettlementRecorded',
        '{capability}', payer, nonce, 200000 FROM g",
    "INSERT INTO splitter_events (chain_id, tx_hash, log_index, block_number, block_hash,
        block_timestamp, splitter, event_name, splitter_capability_id, account, amount,
        provider_amount, hub_amount, reserve_amount)
        SELECT 84532, split, 0, {block} + 2, '{hash}', 1, '{splitter}', 'PaymentSplit',
        '{capability}', '{provider}', 2000000, 1700000, 200000, 100000 FROM g WHERE g % 10 = 0",
    "INSERT INTO payout_events (chain_id, tx_hash, log_index, block_number, block_hash,
        block_timestamp, splitter, asset, recipient, amount_micro)
        SELECT 84532, split, i, {block} + 2, '{hash}', 1, '{splitter}', '{asset}', '{provider}',
        (ARRAY[1700000, 200000, 100000])[i] FROM g, generate_series(1, 3) i WHERE g % 10 = 0",
    "INSERT INTO journals (id, chain_id, splitter, kind, settlement_id, tx_hash, log_index,
        block_number, block_hash, at)
        SELECT CAST(md5('a' || g) AS uuid)::text, 84532, '{splitter}', 'pull', id, pull, 1, {block},
        '{hash}', now() FROM g
        UNION ALL SELECT CAST(md5('b' || g) AS uuid)::text, 84532, '{splitter}', 'record', id,
        record, 0, {block} + 1, '{hash}', now() FROM g
        UNION ALL SELECT CAST(md5('c' || g || 'i' || i) AS uuid)::text, 84532, '{splitter}',
        CASE i WHEN 0 THEN 'split' ELSE 'payout' END, NULL, split, i, {block} + 2, '{hash}', now()
        FROM g, generate_series(0, 3) i WHERE g % 10 = 0",
    "INSERT INTO accounts (chain_id, splitter, code, side, floor_zero, debits_micro, credits_micro)
        SELECT 84532, '{splitter}', code, side, true, {n}::bigint * 200000, {n}::bigint * 200000
        FROM (VALUES ('asset:splitter', 'debit'), ('clearing:{capability}', 'credit'),
            ('accounted:{capability}', 'credit')) v(code, side)",
    "INSERT INTO intents (chain_id, splitter, signer, kind, settlement_id, splitter_capability_id,
        to_address, calldata, gas_limit, state, due_at_ms, created_at)
        SELECT 84532, '{splitter}', '{asset}', 'pull', id, '{capability}', '{asset}', '', 1, 'done',
        0, now() FROM g",
    "INSERT INTO transactions (chain_id, signer, account_nonce, epoch, to_address, calldata,
        gas_limit, state, final, mined_hash, max_cost_wei, data_fee_wei, created_at)
        SELECT 84532, '{asset}', g, 1, '{asset}', '', 1, 'finalized', true, pull, 0, 0, now() FROM g",
    "INSERT INTO transaction_intents (transaction_id, intent_id)
        SELECT t.id, i.id FROM g JOIN transactions t ON t.mined_hash = g.pull
        JOIN intents i ON i.settlement_id = g.id AND i.kind = 'pull'",
    "ANALYZE",
];

/// So many payments in a ledger on PostgreSQL, each with its logs, journals and transaction, are
/// compared in this time and memory.
async fn compared_within(payments: u64, time: Duration, kibibytes: u64) {
    let stack = stack("fast", StackOptions::default()).await;
    let database = postgres().await;
    stack.anvil.rpc("anvil_mine", json!(["0x40"])).await.unwrap();
    let mut daemon = stack.daemon(&keeper(), &database).await.unwrap();
    booked(&stack, &database).await;
    let node = chain(&stack);
    let block = node.head(BlockTag::Latest).await.unwrap().number() - 20;
    daemon.signal("TERM").await.unwrap();
    daemon.wait().await.unwrap();

    let options: sqlx::postgres::PgConnectOptions = database.parse().unwrap();
    let options = options.options([("search_path", "jecp")]);
    let pool = sqlx::PgPool::connect_with(options).await.unwrap();
    let mut session = pool.acquire().await.unwrap();
    let off = sqlx::query("SET session_replication_role = replica");
    off.execute(&mut *session).await.unwrap();
    for sql in GENERATE {
        let sql = sql
            .replace("{n}", &payments.to_string())
            .replace("{block}", &block.to_string())
            .replace("{hash}", &node.head(BlockTag::Number(block)).await.unwrap().hash.to_string())
            .replace("{splitter}", &format!("{:#x}", stack.contracts.splitter))
            .replace("{asset}", &format!("{:#x}", stack.contracts.usdc))
            .replace("{provider}", &format!("{:#x}", stack.provider_account))
            .replace("{capability}", &capability_id("demo", "echo").to_string());
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *session).await.unwrap();
    }
    drop(session);
    pool.close().await;

    let begun = Instant::now();
    let mut running = Command::new(keeper())
        .args(["reconcile", "--json", "--config"])
        .arg(&daemon.config)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut peak = 0;
    while running.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", running.id()));
        let line = status.unwrap_or_default();
        let line = line.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let elapsed = begun.elapsed();
    let output = running.wait_with_output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{:#}", found[0]);
    assert_eq!(count(&found[0], "matched"), payments);
    println!("{payments} payments: {elapsed:?}, {peak} KiB");
    assert!(elapsed < time && peak < kibibytes, "{elapsed:?}, {peak} KiB");

    let mut streaming = Command::new(keeper())
        .args(["reconcile", "--csv", "--config"])
        .arg(&daemon.config)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (out, pid) = (streaming.stdout.take().unwrap(), streaming.id());
    let mut lines = 0;
    for line in BufReader::new(out).lines() {
        assert!(!line.unwrap().is_empty());
        lines += 1;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    println!("csv: {:?}", status.lines().find(|line| line.starts_with("VmHWM:")));
    assert!(streaming.wait().unwrap().success());
    assert_eq!(lines, payments + 1);
}

#[tokio::test]
async fn fifty_thousand_payments_are_compared_in_seconds() {
    compared_within(50_000, Duration::from_secs(30), 128 << 10).await;
}

mod deep {
    use super::{Duration, compared_within};

    #[tokio::test]
    #[ignore = "gigabytes: make test-deep"]
    async fn a_million_payments_are_compared_in_a_minute() {
        compared_within(1_000_000, Duration::from_secs(60), 512 << 10).await;
    }
}
