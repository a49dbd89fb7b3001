//! `keeper rebuild`: the ledger is lost, or old, and comes back from the chain alone. Nothing is done
//! twice by whoever goes on with it.

use crate::support::{
    Draft, HERE, audited, call, copy_of, eventually, folder, invoke, keeper, postgres,
    settlement_of, settlements, sound, splitter_logs, stack, tally, tamper,
};
use alloy::primitives::B256;
use keeper::{
    ledger::{ClosureReason, Ledger},
    lifecycle::{KeeperState, Status},
    splitter::{SplitterEvent, capability_id},
};
use sandbox::{Daemon, PRICE_MICRO, Stack, StackOptions};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

/// Micro-USDC of every payer.
const FUNDS: u64 = 2_000_000;

/// Runs `keeper rebuild`.
fn rebuild(config: &Path, old: &str, into: &str, arguments: &[&str]) -> Output {
    command(config, old, &["rebuild", "--into", into], arguments).output().unwrap()
}

fn command(config: &Path, database: &str, what: &[&str], arguments: &[&str]) -> Command {
    let mut command = Command::new(keeper());
    command.args(what).arg("--config").arg(config).args(arguments);
    command.env("KEEPER_DATABASE", database);
    command
}

/// What `keeper rebuild --json` says of the only Splitter.
fn outcome(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let outcomes: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
    });
    outcomes[0].clone()
}

/// A new database of the same kind as another.
async fn another(database: &str) -> String {
    if database.starts_with("postgres") {
        return postgres().await;
    }
    let path = folder("rebuilt");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    format!("sqlite:{}", path.display())
}

async fn pay(stack: &Stack, daemon: &Daemon, id: &str) -> Draft {
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    eventually("the call is served", || async {
        invoke(&daemon.url, &call(id), Some(&draft.header())).await.status == 200
    })
    .await;
    draft
}

async fn end(mut daemon: Daemon) {
    daemon.signal("TERM").await.unwrap();
    assert_eq!(daemon.wait().await.unwrap(), 0);
}

/// How often each payment was recorded on the chain.
async fn records(stack: &Stack) -> BTreeMap<B256, u32> {
    let mut records = BTreeMap::new();
    for (event, identity) in splitter_logs(stack).await {
        if let SplitterEvent::SettlementRecorded { .. } = event {
            *records.entry(identity.unwrap()).or_default() += 1;
        }
    }
    records
}

/// Every payment's events hang together, and end in the states of its columns.
async fn traces_are_whole(stack: &Stack, database: &str) {
    let ledger = Ledger::open_beside(database).await.unwrap();
    let mut tx = ledger.read().await.unwrap();
    for settlement in settlements(stack, database).await {
        let events = tx.events(settlement.id).await.unwrap();
        let mut previous = settlement.trace_id;
        let mut states = BTreeMap::new();
        for event in &events {
            assert_eq!(event.prev_hash, previous);
            assert_eq!(event.expected_hash(), Some(event.hash));
            previous = event.hash;
            let machine = event.kind.split('.').next().unwrap();
            states.insert(machine.to_owned(), event.state.clone());
        }
        assert_eq!(events[0].kind, "rebuilt");
        assert_eq!(states["status"], settlement.status.as_str());
        assert_eq!(
            states.get("keeper").map_or("none", String::as_str),
            settlement.keeper_state.as_str()
        );
        assert_eq!(states["delivery"], "unknown");
    }
}

/// The rebuilt ledger has every payment with the same amount, capability, terms, states and
/// evidence, its books agree with the chain, and a difference to the old one is told.
async fn equal(name: &str, database: &str) {
    let stack = stack(name, StackOptions::default()).await;
    let daemon = stack.daemon(&keeper(), database).await.unwrap();
    let mut drafts = Vec::new();
    for id in ["first", "second", "third"] {
        drafts.push(pay(&stack, &daemon, id).await);
    }
    stack.contracts.mint(&stack.anvil, stack.contracts.splitter, 7).await.unwrap();
    sound(&stack, database, 3).await;
    let config = daemon.config.clone();
    end(daemon).await;

    let new = another(database).await;
    let output = rebuild(&config, database, &new, &["--compare", "--json"]);
    let told = outcome(&output);
    assert_eq!(output.status.code(), Some(0), "{told:#}");
    assert_eq!(told["comparison"], json!({"equal": 3, "differences": []}));
    let sums = ["settlements", "amount_micro", "recorded", "split", "violations", "unattributed"];
    let sums = sums.map(|key| told[key].as_u64().unwrap());
    assert_eq!(sums, [3, 3 * PRICE_MICRO, 3, 3, 0, 1], "{told:#}");
    traces_are_whole(&stack, &new).await;
    for draft in &drafts {
        let settlement = settlement_of(&new, &draft.authorization).await.unwrap();
        assert_eq!(settlement.status, Status::ChainConfirmed);
        assert_eq!(settlement.keeper_state, KeeperState::Split);
        assert_eq!(settlement.capability_id.as_deref(), Some("demo/echo"));
        assert_eq!(settlement.splitter_capability_id, Some(capability_id("demo", "echo")));
        assert_eq!(settlement.valid_before, draft.authorization.valid_before);
    }
    let reconciled = command(&config, &new, &["reconcile"], &["--deep"]).output().unwrap();
    let table = String::from_utf8_lossy(&reconciled.stdout).into_owned();
    assert_eq!(reconciled.status.code(), Some(0), "{table}");

    // Nothing is ever overwritten.
    let refused = rebuild(&config, database, &new, &[]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not empty"), "{refused:?}");

    let wrong = copy_of(database).await;
    let id = settlement_of(database, &drafts[0].authorization).await.unwrap().id;
    let sql = format!(
        "UPDATE x402_settlements SET amount_usdc_micro = amount_usdc_micro + 1,
         hub_share_micro = hub_share_micro + 1 WHERE id = '{id}'"
    );
    tamper(&wrong, &sql).await.unwrap();
    let output = rebuild(&config, &wrong, &another(database).await, &["--compare", "--json"]);
    let told = outcome(&output);
    assert_eq!(output.status.code(), Some(1), "{told:#}");
    assert_eq!(told["comparison"]["equal"], json!(2));
    let whats: Vec<_> = told["comparison"]["differences"].as_array().unwrap().iter().collect();
    assert!(
        whats.iter().any(|it| it["what"] == "amount" && it["rebuilt"] == "0.200000"),
        "{told:#}"
    );
}

#[tokio::test]
async fn a_rebuilt_ledger_equals_the_undamaged_one_on_sqlite() {
    let database = another("sqlite:").await;
    equal("rebuild", &database).await;
}

#[tokio::test]
async fn a_rebuilt_ledger_equals_the_undamaged_one_on_postgres() {
    let database = postgres().await;
    equal("rebuild-pg", &database).await;
}

/// The backup is two payments old. A daemon on it notices, takes nothing until it is healed, and
/// cannot know what was lost; the rebuilt ledger does, and goes on.
async fn restored(name: &str, database: &str) {
    let stack = stack(name, StackOptions::default()).await;
    let daemon = stack.daemon(&keeper(), database).await.unwrap();
    pay(&stack, &daemon, "before").await;
    sound(&stack, database, 1).await;
    end(daemon).await;
    let backup = copy_of(database).await;
    let daemon = stack.daemon(&keeper(), database).await.unwrap();
    for id in ["lost-1", "lost-2"] {
        pay(&stack, &daemon, id).await;
    }
    sound(&stack, database, 3).await;
    end(daemon).await;

    let daemon = stack.spawn(&keeper(), &backup, &[], |config| config).await.unwrap();
    eventually("it is noticed", || async {
        let log = daemon.logged();
        log.contains("ALARM: the database is not the one")
            || log.contains("ALARM: the ledger is an old copy")
    })
    .await;
    let ready = reqwest::get(format!("{}/readyz", daemon.url)).await.unwrap();
    assert_eq!(ready.status().as_u16(), 503, "the intake is closed");
    // The records of what was lost are nobody's: that is drift, and stays.
    eventually("the keys are known again, the books are not", || async {
        let closures = tally(&backup, "closures", "reason").await;
        daemon.logged().contains("quarantine is over") && closures.contains_key("drift")
    })
    .await;
    let ready = reqwest::get(format!("{}/readyz", daemon.url)).await.unwrap();
    assert_eq!(ready.status().as_u16(), 503, "the intake is closed");
    let config = daemon.config.clone();
    eventually("what was lost is found to be missing", || async {
        let output = command(&config, &backup, &["reconcile"], &["--json"]).output().unwrap();
        let told = outcome(&output);
        let missing = told["categories"].as_array().unwrap().iter();
        let missing = missing.filter(|sum| sum["category"] == "missing_in_ledger");
        let counts: Vec<_> = missing.map(|sum| sum["count"].as_u64().unwrap()).collect();
        output.status.code() == Some(1) && counts == [2]
    })
    .await;
    end(daemon).await;

    let new = another(database).await;
    let output = rebuild(&config, database, &new, &["--compare", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{:#}", outcome(&output));
    let before = records(&stack).await;
    let mut daemon = stack.spawn(&keeper(), &new, &[], |config| config).await.unwrap();
    let ready = reqwest::get(format!("{}/readyz", daemon.url)).await.unwrap();
    assert_eq!(ready.status().as_u16(), 503, "the intake is closed");
    daemon.ready().await.unwrap();
    assert!(daemon.logged().contains("quarantine is over"), "{}", daemon.tail());
    pay(&stack, &daemon, "after").await;
    sound(&stack, &new, 4).await;
    let after = records(&stack).await;
    assert!(after.values().all(|times| *times == 1), "{after:?}");
    assert_eq!(after.len(), before.len() + 1);
    let reconciled = command(&config, &new, &["reconcile"], &["--deep"]).output().unwrap();
    let table = String::from_utf8_lossy(&reconciled.stdout).into_owned();
    assert_eq!(reconciled.status.code(), Some(0), "{table}");
    audited(&config, &new).await;
    assert!(!daemon.logged().contains("refund is due"), "{}", daemon.tail());
    end(daemon).await;
}

#[tokio::test]
async fn a_rebuilt_ledger_goes_on_where_an_old_backup_cannot_on_sqlite() {
    let database = another("sqlite:").await;
    restored("old-backup", &database).await;
}

#[tokio::test]
async fn a_rebuilt_ledger_goes_on_where_an_old_backup_cannot_on_postgres() {
    let database = postgres().await;
    restored("old-backup-pg", &database).await;
}

/// The ledger is lost between pull and record: only the pull's calldata says what was paid for. It
/// is recorded and split, once.
#[tokio::test]
async fn a_payment_that_only_its_pull_names_is_recorded_once() {
    let stack = stack("tag", StackOptions { confirmations: 8, ..StackOptions::default() }).await;
    let slow = |config: String| {
        config.replace("confirmations = 8", "confirmations = 8\nrecord_confirmations = 8")
    };
    let database = stack.sqlite();
    let mut daemon = stack.spawn(&keeper(), &database, &[], slow).await.unwrap();
    daemon.ready().await.unwrap();
    let draft = pay(&stack, &daemon, "tagged").await;
    daemon.signal("KILL").await.unwrap();
    daemon.wait().await.unwrap();
    assert_eq!(records(&stack).await.len(), 0, "it was killed in time");
    let config = daemon.config.clone();
    let new = another(&database).await;
    // Killed in the middle: what is begun is never taken for whole.
    let killed = command(&config, &database, &["rebuild", "--into", &new], &[])
        .env("KEEPER_FAILPOINT", "after:rebuild:1:kill")
        .output()
        .unwrap();
    assert!(!killed.status.success());
    assert_eq!(rebuild(&config, &database, &new, &[]).status.code(), Some(2));
    let new = another(&database).await;
    let output = rebuild(&config, &database, &new, &["--json"]);
    let told = outcome(&output);
    assert_eq!(output.status.code(), Some(0), "{told:#}");
    assert_eq!((&told["settlements"], &told["recorded"]), (&json!(1), &json!(0)), "{told:#}");
    let rebuilt = settlement_of(&new, &draft.authorization).await.unwrap();
    assert_eq!(rebuilt.capability_id.as_deref(), Some("demo/echo"));
    assert_eq!(rebuilt.keeper_state, KeeperState::None);

    let daemon = stack.daemon(&keeper(), &new).await.unwrap();
    sound(&stack, &new, 1).await;
    assert_eq!(records(&stack).await.values().collect::<Vec<_>>(), [&1]);
    end(daemon).await;
}

/// A backup from between pull and record, at a Splitter where nothing may be asked for: what was
/// recorded meanwhile is found in the mirror, and booked as the payment's.
#[tokio::test]
async fn a_record_that_a_backup_does_not_know_is_found_while_frozen() {
    let stack =
        stack("unknown", StackOptions { confirmations: 8, ..StackOptions::default() }).await;
    let slow = |config: String| {
        config.replace("confirmations = 8", "confirmations = 8\nrecord_confirmations = 8")
    };
    let database = stack.sqlite();
    let mut daemon = stack.spawn(&keeper(), &database, &[], slow).await.unwrap();
    daemon.ready().await.unwrap();
    let draft = pay(&stack, &daemon, "unknown").await;
    daemon.signal("KILL").await.unwrap();
    daemon.wait().await.unwrap();
    let backup = copy_of(&database).await;
    let known = settlement_of(&backup, &draft.authorization).await.unwrap();
    assert_eq!(known.keeper_state, KeeperState::None, "it was killed in time");
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    sound(&stack, &database, 1).await;
    end(daemon).await;

    let ledger = Ledger::open_beside(&backup).await.unwrap();
    let mut tx = ledger.begin().await.unwrap();
    let (splitter, reason) = (stack.contracts.splitter, ClosureReason::SourcesDiffer);
    assert!(tx.close(84_532, splitter, reason, "a test's").await.unwrap());
    tx.commit(HERE).await.unwrap();
    let daemon = stack.spawn(&keeper(), &backup, &[], |config| config).await.unwrap();
    sound(&stack, &backup, 1).await;
    let mut tx = ledger.read().await.unwrap();
    let closures = tx.closures(84_532, splitter).await.unwrap();
    drop(tx);
    assert_eq!(closures.len(), 1, "the books hold: {closures:?}");
    assert!(!daemon.logged().contains("belongs to no settlement"), "{}", daemon.tail());
    end(daemon).await;
}

/// Who pulls may append what he likes: only our puller's tag counts, and money that nobody names
/// stays in suspense.
#[tokio::test]
async fn a_tag_from_a_stranger_does_not_count() {
    let stack = stack("stranger", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    pay(&stack, &daemon, "ours").await;
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let signature = draft.signature();
    let authorization = &draft.authorization;
    let mut pull = alloy::sol_types::SolCall::abi_encode(
        &keeper::eip3009::FiatToken::transferWithAuthorizationCall {
            from: authorization.from,
            to: authorization.to,
            value: authorization.value,
            validAfter: alloy::primitives::U256::from(authorization.valid_after),
            validBefore: alloy::primitives::U256::from(authorization.valid_before),
            nonce: authorization.nonce,
            v: signature[64],
            r: B256::from_slice(&signature[..32]),
            s: B256::from_slice(&signature[32..64]),
        },
    );
    pull.extend(capability_id("demo", "echo"));
    let stranger = stack.anvil.first_account().await.unwrap();
    stack.anvil.send(stranger, stack.contracts.usdc, &pull.into()).await.unwrap();
    sound(&stack, &database, 1).await;
    let config = daemon.config.clone();
    end(daemon).await;
    let new = another(&database).await;
    let output = rebuild(&config, &database, &new, &["--compare", "--json"]);
    let told = outcome(&output);
    assert_eq!(output.status.code(), Some(0), "{told:#}");
    assert_eq!((&told["settlements"], &told["unattributed"]), (&json!(1), &json!(1)), "{told:#}");
}
