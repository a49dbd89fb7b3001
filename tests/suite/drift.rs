//! Journal, settlements, logs and contracts are held against one another all the time; what stays
//! apart closes the Splitter.

use crate::support::{
    Draft, call, eventually, invoke, keeper, postgres, send_as, settlements, stack, tally, tamper,
    through,
};
use alloy::{primitives::U256, sol};
use keeper::{
    ledger::{Action, ClosureReason, Ledger},
    splitter::{JecpSplitter, capability_id},
};
use sandbox::{Daemon, Fault, RpcProxy, Rule, Stack, StackOptions};

/// Micro-USDC of every test's payer.
const FUNDS: u64 = 1_000_000;
/// How often checks held, and how often they found drift for the second time.
const HOLD: &str = "keeper_books_checks_total{result=\"hold\"}";
const DRIFT: &str = "x402_reconciler_attribution_drift_total";

sol! {
    function transfer(address to, uint256 value);
}

/// A metric of a daemon; zero while there is none.
async fn metric(daemon: &Daemon, name: &str) -> u64 {
    let text = reqwest::get(format!("{}/metrics", daemon.url)).await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(name));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// What closes the stack's Splitter now.
async fn closures(stack: &Stack, database: &str) -> Vec<ClosureReason> {
    let ledger = Ledger::open_beside(database).await.unwrap();
    let mut tx = ledger.read().await.unwrap();
    let closures = tx.closures(84_532, stack.contracts.splitter).await.unwrap();
    closures.into_iter().map(|closure| closure.reason).collect()
}

async fn is_closed(stack: &Stack, database: &str) -> bool {
    closures(stack, database).await.contains(&ClosureReason::Drift)
}

/// What the audit log has of drift.
async fn logged(database: &str) -> Vec<String> {
    let ledger = Ledger::open_beside(database).await.unwrap();
    let mut tx = ledger.read().await.unwrap();
    let actions = tx.actions(Action::DriftDetected).await.unwrap();
    actions.into_iter().map(|action| action.detail).collect()
}

/// An operator opens the Splitter again.
async fn lift(stack: &Stack, database: &str) {
    let ledger = Ledger::open_beside(database).await.unwrap();
    let mut tx = ledger.begin().await.unwrap();
    let (splitter, why) = (stack.contracts.splitter, "a test's");
    assert!(tx.lift(84_532, splitter, ClosureReason::Drift, why).await.unwrap());
    tx.commit(crate::support::HERE).await.unwrap();
}

/// Pays for a call, and waits until everything of it is done.
async fn paid(stack: &Stack, daemon: &Daemon, database: &str) {
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let answer = invoke(&daemon.url, &call("drift-1"), Some(&draft.header())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    through(stack, database, 1).await;
}

/// So many checks more hold.
async fn holds(daemon: &Daemon, more: u64) {
    let before = metric(daemon, HOLD).await;
    eventually("checks hold", || async { metric(daemon, HOLD).await >= before + more }).await;
}

/// The settler's key records what the ledger knows nothing of, in an open hub.
async fn intruder(stack: Stack, database: String) {
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let (usdc, splitter) = (stack.contracts.usdc, stack.contracts.splitter);
    let donor = stack.agent(FUNDS).await.unwrap().address();
    send_as(&stack, donor, usdc, transferCall { to: splitter, value: U256::from(7) }).await;
    paid(&stack, &daemon, &database).await;
    holds(&daemon, 2).await;
    assert!(!is_closed(&stack, &database).await, "a donation is no drift");
    assert_eq!(metric(&daemon, DRIFT).await, 0);

    let record = JecpSplitter::recordSettlementCall {
        capabilityId: capability_id("demo", "echo"),
        amount: U256::from(7),
    };
    send_as(&stack, stack.settler.1, splitter, record).await;
    eventually("the Splitter is closed", || is_closed(&stack, &database)).await;
    assert!(daemon.logged().contains("ALARM: chain, journal and settlements disagree"));
    let [detail] = &logged(&database).await[..] else { panic!("logged once") };
    let told = "R-155 recorded for payments: 200000 expected, 200007 found";
    assert!(detail.contains(told), "{detail}");
    eventually("it is counted", || async { metric(&daemon, DRIFT).await > 0 }).await;

    lift(&stack, &database).await;
    eventually("it is closed again", || is_closed(&stack, &database)).await;
    assert_eq!(logged(&database).await.len(), 2);
}

/// a record that is no settlement's closes the Splitter, and whoever opens it
/// while it is still there finds it closed again.
#[tokio::test]
async fn a_record_of_no_settlement_closes_the_splitter() {
    let one = stack("intruder", StackOptions::default()).await;
    let database = one.sqlite();
    intruder(one, database).await;
    let other = stack("intruder", StackOptions::default()).await;
    intruder(other, postgres().await).await;
}

/// Somebody raises what a settlement paid: journal and chain know better.
#[tokio::test]
async fn a_settlement_that_was_changed_by_hand_closes_the_splitter() {
    let stack = stack("changed", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    paid(&stack, &daemon, &database).await;
    holds(&daemon, 1).await;
    let sql = "UPDATE x402_settlements SET amount_usdc_micro = amount_usdc_micro + 1,
        network_share_micro = network_share_micro + 1";
    tamper(&database, sql).await.unwrap();
    eventually("the Splitter is closed", || is_closed(&stack, &database)).await;
    let detail = logged(&database).await.remove(0);
    assert!(detail.contains("J8") && detail.contains("R-155"), "{detail}");
    // It is right again: opened, it stays open.
    let sql = "UPDATE x402_settlements SET amount_usdc_micro = amount_usdc_micro - 1,
        network_share_micro = network_share_micro - 1";
    tamper(&database, sql).await.unwrap();
    holds(&daemon, 1).await;
    lift(&stack, &database).await;
    holds(&daemon, 3).await;
    assert!(!is_closed(&stack, &database).await);
}

/// A node that cannot say what was at a block says nothing about the books.
#[tokio::test]
async fn a_node_without_old_state_is_no_drift() {
    let stack = stack("pruned", StackOptions::default()).await;
    let proxy = RpcProxy::start(stack.anvil.url()).await.unwrap();
    let database = stack.sqlite();
    let through_proxy = |config: String| config.replace(stack.anvil.url(), proxy.url());
    let mut daemon = stack.spawn(&keeper(), &database, &[], through_proxy).await.unwrap();
    daemon.ready().await.unwrap();
    paid(&stack, &daemon, &database).await;
    holds(&daemon, 1).await;
    proxy.add(Rule::new("eth_call", Fault::Refused(-32_000, "missing trie node")));
    let before = daemon.logged().matches("missing trie node").count();
    eventually("it is noticed twice", || async {
        daemon.logged().matches("missing trie node").count() > before + 1
    })
    .await;
    assert!(!is_closed(&stack, &database).await);
    proxy.heal();
    holds(&daemon, 2).await;
    assert_eq!(metric(&daemon, DRIFT).await, 0);
    assert!(settlements(&stack, &database).await[0].split.is_some());
    let noticed = tally(&database, "audit_log", "action").await;
    assert!(!noticed.contains_key("x402.attribution_drift_detected"), "{noticed:?}");
}
