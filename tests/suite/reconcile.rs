//! `keeper reconcile` finds every kind of difference between whoever pulled, the chain and the
//! ledger, and nothing where there is none.

use crate::support::{
    Draft, call, chain, copy_of, eventually, invoke, keeper, postgres, settlement_of, sound, stack,
    tamper,
};
use alloy::{primitives::U256, sol_types::SolCall};
use keeper::{
    chain::BlockTag,
    ledger::{Ledger, Stream},
    splitter::{JecpSplitter, capability_id},
};
use sandbox::{Daemon, KmsFault, PRICE_MICRO, Stack, StackOptions};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Micro-USDC of every payer.
const FUNDS: u64 = 2_000_000;

/// Runs `keeper reconcile` against a database.
fn run(config: &Path, database: &str, arguments: &[&str]) -> Output {
    Command::new(keeper())
        .args(["reconcile", "--config"])
        .arg(config)
        .args(arguments)
        .env("KEEPER_DATABASE", database)
        .output()
        .unwrap()
}

/// The only report of a run, and the exit code.
fn report(config: &Path, database: &str, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = run(config, database, &[&["--json", "--all"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let reports: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
    });
    assert_eq!(reports.as_array().unwrap().len(), 1);
    (output.status.code(), reports[0].clone())
}

/// How many findings a category has.
fn count(report: &Value, category: &str) -> u64 {
    let all = report["categories"].as_array().unwrap();
    let sum = all.iter().find(|sum| sum["category"] == category).unwrap();
    sum["count"].as_u64().unwrap()
}

/// Matched, or so but late: a busy machine may make it so.
fn in_order(report: &Value) -> u64 {
    count(report, "matched") + count(report, "late")
}

/// Which verdicts were found in a category.
fn verdicts(report: &Value, category: &str) -> Vec<String> {
    let all = report["findings"].as_array().unwrap().iter();
    all.filter(|line| line["category"] == category)
        .map(|line| line["verdict"].as_str().unwrap().to_owned())
        .collect()
}

async fn pay(stack: &Stack, daemon: &Daemon, id: &str) -> Draft {
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    eventually("the call is served", || async {
        invoke(&daemon.url, &call(id), Some(&draft.header())).await.status == 200
    })
    .await;
    draft
}

/// Waits until everything up to the head of now is booked.
async fn booked(stack: &Stack, database: &str) {
    let head = chain(stack).head(BlockTag::Latest).await.unwrap().number();
    eventually("it is booked", || async {
        let ledger = Ledger::open_beside(database).await.unwrap();
        let mut tx = ledger.read().await.unwrap();
        let splitter = stack.contracts.splitter;
        tx.cursor(84_532, splitter, Stream::Journal).await.unwrap().is_some_and(|it| it > head)
    })
    .await;
}

/// Three payments that are through and one that is reserved and cannot be pulled, one inflow that
/// nobody asked for, and a daemon that has ended.
async fn fixture(name: &str, database: &str) -> (Stack, Daemon, Vec<Draft>) {
    let options = StackOptions { settle_timeout: "1s", ..StackOptions::default() };
    let stack = stack(name, options).await;
    let mut daemon = stack.daemon(&keeper(), database).await.unwrap();
    let mut drafts = Vec::new();
    for id in ["first", "second", "third"] {
        drafts.push(pay(&stack, &daemon, id).await);
    }
    stack.contracts.mint(&stack.anvil, stack.contracts.splitter, 7).await.unwrap();
    sound(&stack, database, 3).await;
    stack.kms.go_wrong(KmsFault::Refused("KMSInternalException"));
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let answer = invoke(&daemon.url, &call("open"), Some(&draft.header())).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    booked(&stack, database).await;
    daemon.signal("TERM").await.unwrap();
    daemon.wait().await.unwrap();
    (stack, daemon, drafts)
}

/// One change to a copy of the ledger, and what must be found.
struct Case {
    name: &'static str,
    /// `{id}`, `{other}` are payments, `{tx}` the first one's pull.
    sql: &'static [&'static str],
    category: &'static str,
    verdict: &'static str,
    deep: bool,
}

const CASES: &[Case] = &[
    Case {
        name: "a payment was deleted",
        sql: &[
            "DELETE FROM deliveries WHERE settlement_id = '{id}'",
            "DELETE FROM x402_settlements WHERE id = '{id}'",
        ],
        category: "missing_in_ledger",
        verdict: "pull_unknown",
        deep: false,
    },
    Case {
        name: "the ledger does not know that it was pulled",
        sql: &["UPDATE x402_settlements SET status = 'settle_pending', keeper_state = 'none',
            tx_hash = NULL, log_index = NULL, block_number = NULL, block_hash = NULL,
            record_tx_hash = NULL, record_log_index = NULL, record_block_number = NULL
            WHERE id = '{id}'"],
        category: "missing_in_ledger",
        verdict: "pull_not_noted",
        deep: false,
    },
    Case {
        name: "the ledger does not know that it was recorded",
        sql: &["UPDATE x402_settlements SET keeper_state = 'none', record_tx_hash = NULL,
            record_log_index = NULL, record_block_number = NULL WHERE id = '{id}'"],
        category: "missing_in_ledger",
        verdict: "record_not_noted",
        deep: false,
    },
    Case {
        name: "the ledger does not know that it was split",
        sql: &["UPDATE x402_settlements SET keeper_state = 'recorded', split_tx_hash = NULL,
            split_log_index = NULL, split_block_number = NULL WHERE id = '{id}'"],
        category: "missing_in_ledger",
        verdict: "split_not_noted",
        deep: false,
    },
    Case {
        name: "a journal was taken out",
        sql: &[
            "DELETE FROM postings WHERE journal_id IN
                (SELECT id FROM journals WHERE settlement_id = '{id}' AND kind = 'record')",
            "DELETE FROM journals WHERE settlement_id = '{id}' AND kind = 'record'",
        ],
        category: "missing_in_ledger",
        verdict: "not_booked",
        deep: false,
    },
    Case {
        name: "the mirror lacks a log, and its journal was taken out",
        sql: &[
            "DELETE FROM postings WHERE journal_id IN
                (SELECT id FROM journals WHERE kind = 'unattributed_inflow')",
            "DELETE FROM journals WHERE kind = 'unattributed_inflow'",
            "DELETE FROM x402_pull_events WHERE settlement_id IS NULL",
        ],
        category: "missing_in_ledger",
        verdict: "not_mirrored",
        deep: true,
    },
    Case {
        name: "the mirror says another amount than the chain",
        sql: &["UPDATE payout_events SET amount_micro = amount_micro + 1"],
        category: "amount_mismatch",
        verdict: "mirror_amount",
        deep: true,
    },
    Case {
        name: "the chain does not have the pull",
        sql: &["DELETE FROM x402_pull_events WHERE tx_hash = '{tx}'"],
        category: "missing_on_chain",
        verdict: "pull_gone",
        deep: false,
    },
    Case {
        name: "the chain does not have the record",
        sql: &["DELETE FROM splitter_events WHERE event_name = 'SettlementRecorded' AND tx_hash =
            (SELECT record_tx_hash FROM x402_settlements WHERE id = '{id}')"],
        category: "missing_on_chain",
        verdict: "record_gone",
        deep: false,
    },
    Case {
        name: "the outbox has a pull that is final, and the payment none",
        sql: &["UPDATE transactions SET mined_hash =
                '0x1111111111111111111111111111111111111111111111111111111111111111'
                WHERE mined_hash = '{tx}'"],
        category: "missing_on_chain",
        verdict: "told_only",
        deep: false,
    },
    Case {
        name: "another amount",
        sql: &["UPDATE x402_settlements SET amount_usdc_micro = amount_usdc_micro + 1,
            hub_share_micro = hub_share_micro + 1 WHERE id = '{id}'"],
        category: "amount_mismatch",
        verdict: "pull_amount",
        deep: false,
    },
    Case {
        name: "the facilitator says another amount",
        sql: &["UPDATE x402_settlements
            SET facilitator_response_jsonb = '{\"transaction\": \"{tx}\", \"amount\": \"1\"}'
            WHERE id = '{id}'"],
        category: "amount_mismatch",
        verdict: "told_amount",
        deep: false,
    },
    Case {
        name: "another payee",
        sql: &["UPDATE x402_settlements SET kind = 'pass_through',
            pay_to = '0x5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a' WHERE id = '{id}'"],
        category: "recipient_mismatch",
        verdict: "payee",
        deep: false,
    },
    Case {
        name: "another provider than the split paid",
        sql: &["UPDATE x402_settlements
            SET provider = '0x5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a' WHERE id = '{id}'"],
        category: "recipient_mismatch",
        verdict: "split_terms",
        deep: false,
    },
    Case {
        name: "one record for two payments",
        sql: &["UPDATE x402_settlements SET
            record_tx_hash = (SELECT record_tx_hash FROM x402_settlements WHERE id = '{other}'),
            record_log_index =
                (SELECT record_log_index FROM x402_settlements WHERE id = '{other}'),
            record_block_number =
                (SELECT record_block_number FROM x402_settlements WHERE id = '{other}')
            WHERE id = '{id}'"],
        category: "duplicate",
        verdict: "record_shared",
        deep: false,
    },
];

/// Runs statements with every guard of the schema switched off.
async fn force(database: &str, statements: &[String]) {
    let mut all = statements.to_vec();
    if database.starts_with("postgres") {
        for table in ["x402_settlements", "deliveries", "journals", "postings"] {
            all.insert(0, format!("ALTER TABLE {table} DISABLE TRIGGER ALL"));
        }
    } else {
        for trigger in [
            "x402_settlements_no_delete",
            "deliveries_no_delete",
            "journals_no_delete",
            "postings_no_delete",
        ] {
            all.insert(0, format!("DROP TRIGGER IF EXISTS {trigger}"));
        }
        all.insert(0, "PRAGMA foreign_keys = OFF".to_owned());
        // One connection: the pragma is the connection's.
        return tamper(database, &all.join(";\n")).await.unwrap();
    }
    for statement in all {
        tamper(database, &statement).await.unwrap();
    }
}

/// Every kind of difference, made in a copy of a sound ledger, is found for what it is.
async fn every_difference(name: &str, database: &str) {
    let (stack, daemon, drafts) = fixture(name, database).await;
    let config = daemon.config.clone();
    drop(daemon);
    let first = settlement_of(database, &drafts[0].authorization).await.unwrap();
    let second = settlement_of(database, &drafts[1].authorization).await.unwrap();

    for arguments in [&[][..], &["--deep"]] {
        let (code, sound) = report(&config, database, arguments);
        assert_eq!(code, Some(0), "{sound:#}");
        assert_eq!(in_order(&sound), 3, "{sound:#}");
        assert_eq!((count(&sound, "pending"), count(&sound, "unattributed_inflow")), (1, 1));
        assert_eq!(sound["capabilities"][0]["recorded_logs_micro"], json!(3 * PRICE_MICRO));
        assert_eq!(sound["is_deep"], json!(!arguments.is_empty()));
    }
    let table = run(&config, database, &[]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("held by the Splitter") && table.contains("in suspense"), "{table}");
    assert!(!table.contains("DIFFERS"), "{table}");

    let csv = run(&config, database, &["--csv"]);
    assert_eq!(csv.status.code(), Some(0));
    let text = String::from_utf8(csv.stdout).unwrap();
    let mut lines = text.lines();
    assert_eq!(
        lines.next().unwrap(),
        "category,verdict,what,settlement_id,payer,authorization_nonce,splitter_capability_id,\
         amount_micro,found_micro,tx_hash,log_index,block_number,record_tx_hash,split_tx_hash"
    );
    let ids: Vec<_> = lines.map(|line| line.split(',').rev().nth(10).unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 5, "three that match, one on its way, one inflow: {text}");
    assert_eq!(ids.iter().filter(|id| id.len() == 36).count(), 4, "{text}");

    for case in CASES {
        let copy = copy_of(database).await;
        let sql: Vec<_> = case
            .sql
            .iter()
            .map(|sql| {
                sql.replace("{id}", &first.id.to_string())
                    .replace("{other}", &second.id.to_string())
                    .replace("{tx}", &first.pull.unwrap().tx_hash.to_string())
            })
            .collect();
        force(&copy, &sql).await;
        let arguments: &[&str] = if case.deep { &["--deep"] } else { &[] };
        let (code, found) = report(&config, &copy, arguments);
        assert_eq!(code, Some(1), "{}: {found:#}", case.name);
        assert!(count(&found, case.category) > 0, "{}: {found:#}", case.name);
        let verdicts = verdicts(&found, case.category);
        assert!(verdicts.iter().any(|it| it == case.verdict), "{}: {verdicts:?}", case.name);
        let table = run(&config, &copy, arguments);
        let table = String::from_utf8_lossy(&table.stdout).into_owned();
        assert!(table.contains("DIFFERS"), "{}: {table}", case.name);
    }
    drop(stack);
}

/// R-155, C-06, C-33c.
#[tokio::test]
async fn every_difference_is_found_on_sqlite() {
    let database = format!("sqlite:{}", crate::support::folder("reconcile-db").display());
    let path = database.trim_start_matches("sqlite:").to_owned();
    std::fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
    every_difference("differences", &database).await;
}

/// R-155, C-06, C-33c.
#[tokio::test]
async fn every_difference_is_found_on_postgres() {
    let database = postgres().await;
    every_difference("differences-pg", &database).await;
}

/// A record that is slower than the specification's two blocks is shown, and is no difference.
#[tokio::test]
async fn a_late_record_is_shown_and_is_no_difference() {
    let stack = stack("late", StackOptions { confirmations: 5, ..StackOptions::default() }).await;
    let database = stack.sqlite();
    let slow = |config: String| {
        config.replace("confirmations = 5", "confirmations = 5\nrecord_confirmations = 5")
    };
    let mut daemon = stack.spawn(&keeper(), &database, &[], slow).await.unwrap();
    daemon.ready().await.unwrap();
    pay(&stack, &daemon, "late").await;
    sound(&stack, &database, 1).await;
    booked(&stack, &database).await;
    let (code, found) = report(&daemon.config, &database, &[]);
    assert_eq!(
        (code, count(&found, "late"), count(&found, "matched")),
        (Some(0), 1, 0),
        "{found:#}"
    );
    assert_eq!(verdicts(&found, "late"), ["record_late"]);
}

/// Somebody who has the settler's key records money that no payment brought.
#[tokio::test]
async fn a_record_by_somebody_else_with_the_key_is_found() {
    let stack = stack("foreign", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    pay(&stack, &daemon, "ours").await;
    sound(&stack, &database, 1).await;
    let splitter = stack.contracts.splitter;
    stack.contracts.mint(&stack.anvil, splitter, 9).await.unwrap();
    let record = JecpSplitter::recordSettlementCall {
        capabilityId: capability_id("demo", "echo"),
        amount: U256::from(9),
    };
    stack.anvil.rpc("anvil_impersonateAccount", json!([stack.settler.1])).await.unwrap();
    stack.anvil.send(stack.settler.1, splitter, &record.abi_encode().into()).await.unwrap();
    booked(&stack, &database).await;
    let (code, found) = report(&daemon.config, &database, &[]);
    assert_eq!(code, Some(1), "{found:#}");
    assert_eq!(verdicts(&found, "missing_in_ledger"), ["record_unknown"], "{found:#}");
    assert_eq!(count(&found, "unattributed_inflow"), 1);
    assert_eq!(found["capabilities"][0]["drift_micro"], json!(9));
}

// ------------------------------------------------------------------------------ how fast

/// Ten payments to a split.
const GENERATE: &[&str] = &[
    "CREATE TEMPORARY TABLE g AS SELECT g, g / 10 AS batch,
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
        SELECT 84532, '{splitter}', code, side, true, {n} * 200000, {n} * 200000
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
    for line in std::io::BufRead::lines(std::io::BufReader::new(out)) {
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
