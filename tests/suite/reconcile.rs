//! `keeper reconcile` finds every kind of difference between whoever pulled, the chain and the
//! ledger, and nothing where there is none.

mod many;

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
    path::Path,
    process::{Command, Output},
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
