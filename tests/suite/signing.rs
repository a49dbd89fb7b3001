//! Whatever KMS does, payments are settled once or not at all, and nothing is signed that the keys
//! are not for.

use crate::support::{
    Answer, Draft, call, chain, eventually, invoke, keeper, metric, on_chain, settlement_of,
    smuggle, stack, tally, through,
};
use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::SolCall,
};
use keeper::{
    chain::BlockTag,
    ledger::{Ledger, NewIntent},
    lifecycle::IntentKind,
};
use sandbox::{Daemon, KeyPlace, KmsFault, Stack, StackOptions};
use serde_json::{Value, json};
use std::{fs, time::Duration};
use tokio::task::JoinHandle;

/// Micro-USDC of every test's payer.
const FUNDS: u64 = 5_000_000;

alloy::sol! {
    function approve(address spender, uint256 value) external returns (bool);
}

/// Pays for a call while the test looks elsewhere.
fn pay(daemon: &Daemon, id: &str, draft: &Draft) -> JoinHandle<Answer> {
    let (url, body, header) = (daemon.url.clone(), call(id), draft.header());
    tokio::spawn(async move { invoke(&url, &body, Some(&header)).await })
}

/// Asks again with the same payment until the call is served.
async fn served(daemon: &Daemon, id: &str, draft: &Draft) {
    eventually("the call is served", || async {
        let answer = invoke(&daemon.url, &call(id), Some(&draft.header())).await;
        assert_ne!(answer.status, 402, "it must not pay again");
        answer.status == 200
    })
    .await;
}

/// Whether the intake is closed for want of signatures.
async fn waits_for_kms(daemon: &Daemon) -> bool {
    let answer = reqwest::get(format!("{}/readyz", daemon.url)).await.unwrap();
    let status = answer.status();
    let body: Value = answer.json().await.unwrap();
    status == 503 && body["waiting_for"]["kms"] == "transactions wait for a signature"
}

/// Signatures that the ledger has.
async fn kept(database: &str) -> u64 {
    let attempts = tally(database, "attempts", "kind").await;
    u64::try_from(attempts.values().sum::<i64>()).unwrap()
}

/// Transactions that each key has sent.
async fn sent(stack: &Stack) -> [u64; 2] {
    let chain = chain(stack);
    let count = |key: Address| chain.transaction_count(key, BlockTag::Latest);
    [count(stack.puller.1).await.unwrap(), count(stack.settler.1).await.unwrap()]
}

fn alarms(daemon: &Daemon, words: &str) -> usize {
    daemon.logged().matches(&format!("ALARM: {words}")).count()
}

/// As slow as KMS is in a region: every payment goes through once, and no signature is made that the
/// ledger has not.
#[tokio::test]
async fn slow_signatures_hold_up_no_payment() {
    let stack = stack("slow", StackOptions::default()).await;
    stack.kms.take(Duration::from_millis(120));
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let payer = stack.agent(FUNDS).await.unwrap();
    let mut calls = Vec::new();
    for n in 0..6 {
        let draft = Draft::new(&payer, stack.contracts.splitter);
        calls.push(pay(&daemon, &format!("slow-{n}"), &draft));
    }
    for answer in calls {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    through(&stack, &database, 6).await;
    assert_eq!(stack.provider.calls(), 6);
    assert_eq!(kept(&database).await, stack.kms.signed());
    // Without a bump each took one signature.
    assert_eq!(sent(&stack).await.iter().sum::<u64>(), stack.kms.signed());

    assert_eq!(metric(&daemon, "keeper_kms_sign_seconds_count").await, stack.kms.signed());
    assert_eq!(metric(&daemon, "keeper_kms_sign_seconds_bucket{le=\"0.1\"}").await, 0);
    let version = format!("keeper_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(metric(&daemon, &version).await, 1);
}

/// More refusals than one attempt bears: the outbox tries again by itself.
#[tokio::test]
async fn throttling_for_a_while_only_delays() {
    let stack = stack("throttled", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    stack.kms.go_wrong(KmsFault::Throttled(4));
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let answer = pay(&daemon, "throttled-1", &draft).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    through(&stack, &database, 1).await;
    assert_eq!(stack.provider.calls(), 1);
    assert_eq!(stack.kms.asked(), stack.kms.signed() + 4);
    assert_eq!(kept(&database).await, stack.kms.signed());
    assert_eq!(metric(&daemon, "keeper_kms_errors_total{kind=\"throttled\"}").await, 1);
}

/// Refusals, and a KMS that hangs: nothing more is taken in, and what was is settled once it signs
/// again.
#[tokio::test]
async fn a_kms_that_never_signs_closes_the_intake() {
    let options = StackOptions { settle_timeout: "2s", ..StackOptions::default() };
    let stack = stack("never", options).await;
    let database = stack.sqlite();
    let mut daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let payer = stack.agent(FUNDS).await.unwrap();
    for (n, (fault, kind)) in
        [(KmsFault::Throttled(u32::MAX), "throttled"), (KmsFault::Hanging, "timeout")]
            .into_iter()
            .enumerate()
    {
        stack.kms.go_wrong(fault);
        let mut first = Draft::new(&payer, stack.contracts.splitter);
        first.authorization.valid_before += 300;
        let id = format!("never-{n}");
        // The first payment may be taken before anybody knows; it is pending, not lost.
        assert_eq!(pay(&daemon, &id, &first).await.unwrap().status, 503, "{kind}");
        eventually("readiness says why", || waits_for_kms(&daemon)).await;
        let second = Draft::new(&payer, stack.contracts.splitter);
        let refused = pay(&daemon, &format!("{id}-refused"), &second).await.unwrap();
        assert_eq!((refused.status, refused.code()), (503, "SERVICE_DEGRADED"), "{refused:?}");
        let row = settlement_of(&database, &second.authorization).await;
        assert!(row.is_none(), "{kind}: reserved");
        let series = format!("keeper_kms_errors_total{{kind=\"{kind}\"}}");
        assert!(metric(&daemon, &series).await > 0, "{series}");
        stack.kms.go_wrong(None);
        daemon.ready().await.unwrap();
        served(&daemon, &id, &first).await;
    }
    through(&stack, &database, 2).await;
    assert_eq!(stack.provider.calls(), 2);
    assert_eq!(kept(&database).await, stack.kms.signed());
}

/// Somebody answers for KMS with a key of his own.
#[tokio::test]
async fn a_wrong_keys_signature_is_neither_kept_nor_sent() {
    let options = StackOptions { settle_timeout: "2s", ..StackOptions::default() };
    let stack = stack("wrong", options).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    stack.kms.go_wrong(KmsFault::WrongKey);
    let mut draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    draft.authorization.valid_before += 300;
    let answer = pay(&daemon, "wrong-1", &draft).await.unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    eventually("it tries again", || async { stack.kms.signed() > 3 }).await;
    assert_eq!((sent(&stack).await, kept(&database).await), ([0, 0], 0));
    let pool = stack.anvil.rpc("txpool_status", json!([])).await.unwrap();
    assert_eq!((&pool["pending"], &pool["queued"]), (&json!("0x0"), &json!("0x0")));
    assert_eq!(on_chain(&stack, &draft.authorization).await, (FUNDS, false));
    assert_eq!(alarms(&daemon, "a signature is not the key's"), 1, "once");
    stack.kms.go_wrong(None);
    served(&daemon, "wrong-1", &draft).await;
    through(&stack, &database, 1).await;
}

/// a key that has signed as often as it may is left alone, and somebody is called; the
/// payment waits and is not lost.
#[tokio::test]
async fn a_key_signs_no_more_often_than_it_may() {
    let options = StackOptions { settle_timeout: "2s", ..StackOptions::default() };
    let stack = stack("often", options).await;
    let database = stack.sqlite();
    let slow = |config: String| {
        config
            .replace("[[splitter]]", "[chain.signing]\nmax_signatures_per_minute = 1\n[[splitter]]")
    };
    let mut daemon = stack.spawn(&keeper(), &database, &[], slow).await.unwrap();
    daemon.ready().await.unwrap();
    let payer = stack.agent(FUNDS).await.unwrap();
    let mut first = Draft::new(&payer, stack.contracts.splitter);
    let mut second = Draft::new(&payer, stack.contracts.splitter);
    first.authorization.valid_before += 300;
    second.authorization.valid_before += 300;
    served(&daemon, "often-1", &first).await;
    assert_eq!(pay(&daemon, "often-2", &second).await.unwrap().status, 503);
    eventually("readiness says why", || waits_for_kms(&daemon)).await;
    // The pull of the first and its record.
    assert_eq!((stack.kms.asked(), kept(&database).await), (2, 2));
    assert_eq!(sent(&stack).await, [1, 1]);
    assert_eq!(alarms(&daemon, "too many signatures"), 2, "once for each key");
    assert!(metric(&daemon, "keeper_kms_refused_total{reason=\"rate\"}").await > 2);
    daemon.signal("TERM").await.unwrap();
    daemon.wait().await.unwrap();

    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    served(&daemon, "often-2", &second).await;
    through(&stack, &database, 2).await;
}

/// Whoever can write into the ledger cannot have the keys sign what he likes.
#[tokio::test]
async fn what_was_smuggled_into_the_ledger_is_not_signed() {
    let stack = stack("smuggled", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    smuggle(&stack, &database, &draft, false).await;
    let settlement = settlement_of(&database, &draft.authorization).await.unwrap();
    let ledger = Ledger::open_beside(&database).await.unwrap();
    let thief = Address::repeat_byte(0xbb);
    let mut tx = ledger.begin().await.unwrap();
    tx.add_intent(&NewIntent {
        chain_id: 84_532,
        splitter: stack.contracts.splitter,
        signer: stack.puller.1,
        kind: IntentKind::Pull,
        settlement: Some(settlement.id),
        splitter_capability_id: B256::repeat_byte(1),
        to: stack.contracts.usdc,
        calldata: Bytes::from(approveCall { spender: thief, value: U256::MAX }.abi_encode()),
        gas_limit: 100_000,
        valid_before: None,
    })
    .await
    .unwrap();
    tx.commit(crate::support::HERE).await.unwrap();
    let alarm = "asked to sign what the key may not";
    eventually("it is noticed", || async { alarms(&daemon, alarm) == 1 }).await;
    let series = "keeper_kms_refused_total{reason=\"selector\"}";
    eventually("it is asked again", || async { metric(&daemon, series).await > 2 }).await;
    let log = daemon.logged();
    let words = format!("(to {}, selector 0x095ea7b3)", stack.contracts.usdc);
    assert!(log.contains(&words), "{words}");
    assert_eq!(alarms(&daemon, alarm), 1, "once");
    assert_eq!((stack.kms.asked(), kept(&database).await), (0, 0));
    assert_eq!(sent(&stack).await, [0, 0]);
}

/// A whole payment with keys in files, which only tests have.
#[tokio::test]
async fn keys_in_files_settle_where_no_money_is_real() {
    let options = StackOptions { keys: KeyPlace::Files, ..StackOptions::default() };
    let stack = stack("files", options).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let answer = pay(&daemon, "files-1", &draft).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    through(&stack, &database, 1).await;
    assert_eq!(stack.kms.asked(), 0);
    assert_eq!(metric(&daemon, "keeper_kms_sign_seconds_count").await, 0);
    for file in ["settler.key", "puller.key"] {
        let secret = fs::read_to_string(stack.folder.join(file)).unwrap();
        let digits = secret.trim_start_matches("0x");
        assert_eq!(digits.len(), 64);
        let config = fs::read_to_string(&daemon.config).unwrap();
        assert!(!daemon.logged().contains(digits) && !config.contains(digits), "{file} is shown");
    }
}
