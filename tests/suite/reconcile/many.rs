//! Thousands of payments in one comparison.

use super::{booked, count, report, run, verdicts};
use crate::support::{chain, keeper, postgres, stack};
use keeper::{chain::BlockTag, splitter::capability_id};
use sandbox::StackOptions;
use serde_json::json;
use sqlx::ConnectOptions;

/// Payments that are laid into the ledger.
const PAYMENTS: u64 = 5_000;

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

/// What is then done to three of them: a pull of another amount, a record that is not there, a record
/// that nobody booked.
const TAMPER: &[&str] = &[
    "UPDATE x402_pull_events SET amount_micro = 199999
        WHERE tx_hash = '0x' || md5('t7') || md5('u7')",
    "DELETE FROM splitter_events WHERE tx_hash = '0x' || md5('r2500') || md5('q2500')",
    "DELETE FROM journals WHERE tx_hash = '0x' || md5('r4999') || md5('q4999')",
];

/// Of five thousand payments on PostgreSQL, each with its logs, journals and transaction, those are
/// named that do not fit, and no other. With --csv there is a line for each.
#[tokio::test]
async fn among_thousands_of_payments_only_those_that_differ_are_named() {
    let stack = stack("many", StackOptions::default()).await;
    let database = postgres().await;
    stack.anvil.rpc("anvil_mine", json!(["0x40"])).await.unwrap();
    let mut daemon = stack.daemon(&keeper(), &database).await.unwrap();
    booked(&stack, &database).await;
    let node = chain(&stack);
    let block = node.head(BlockTag::Latest).await.unwrap().number() - 20;
    let hash = node.head(BlockTag::Number(block)).await.unwrap().hash.to_string();
    daemon.signal("TERM").await.unwrap();
    daemon.wait().await.unwrap();

    let options: sqlx::postgres::PgConnectOptions = database.parse().unwrap();
    let options =
        options.options([("search_path", "jecp"), ("session_replication_role", "replica")]);
    let mut session = options.connect().await.unwrap();
    for sql in GENERATE {
        let sql = sql
            .replace("{n}", &PAYMENTS.to_string())
            .replace("{block}", &block.to_string())
            .replace("{hash}", &hash)
            .replace("{splitter}", &format!("{:#x}", stack.contracts.splitter))
            .replace("{asset}", &format!("{:#x}", stack.contracts.usdc))
            .replace("{provider}", &format!("{:#x}", stack.provider_account))
            .replace("{capability}", &capability_id("demo", "echo").to_string());
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut session).await.unwrap();
    }
    let (code, sound) = report(&daemon.config, &database, &[]);
    assert_eq!((code, count(&sound, "matched")), (Some(0), PAYMENTS), "{sound:#}");
    assert_eq!(sound["findings"], json!([]));
    let csv = run(&daemon.config, &database, &["--csv"]);
    assert_eq!(csv.status.code(), Some(0), "{}", String::from_utf8_lossy(&csv.stderr));
    let lines = String::from_utf8(csv.stdout).unwrap().lines().count();
    assert_eq!(u64::try_from(lines).unwrap(), PAYMENTS + 1, "a line for each, and the header");

    for sql in TAMPER {
        let done = sqlx::query(sqlx::AssertSqlSafe(*sql)).execute(&mut session).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{sql}");
    }
    let (code, broken) = report(&daemon.config, &database, &[]);
    assert_eq!((code, count(&broken, "matched")), (Some(1), PAYMENTS - 2), "{broken:#}");
    assert_eq!(verdicts(&broken, "amount_mismatch"), ["pull_amount"]);
    assert_eq!(verdicts(&broken, "missing_on_chain"), ["booked_unseen", "record_gone"]);
    assert_eq!(verdicts(&broken, "missing_in_ledger"), ["not_booked"]);
    assert_eq!(broken["findings"].as_array().unwrap().len(), 4);
}
