//! Chains that take back what they said, and nodes that lie.

use crate::support::{
    BOOKED, Draft, audited, call, chain, eventually, invoke, keeper, on_chain, reconciled,
    settlements, stack, tally, through,
};
use keeper::{
    chain::BlockTag,
    ledger::Settlement,
    lifecycle::{KeeperState, Status},
};
use sandbox::{AnvilOptions, Fault, PRICE_MICRO, RpcProxy, Rule, Stack, StackOptions};
use serde_json::{Value, json};

/// Micro-USDC of every test's payer.
const FUNDS: u64 = 1_000_000;
/// More blocks than a payment takes to be split on a busy machine.
const CONFIRMATIONS: u64 = 40;

/// A stack whose blocks are booked, and become final, late enough for a reorg.
async fn slow_finality(name: &str) -> Stack {
    let anvil = AnvilOptions { slots_in_an_epoch: 32, ..AnvilOptions::default() };
    stack(name, StackOptions { anvil, confirmations: CONFIRMATIONS, ..StackOptions::default() })
        .await
}

/// Waits until the only payment is split, then buries it deep enough to be booked.
async fn split_and_buried(stack: &Stack, database: &str) {
    eventually("it is split again", || async {
        let head = chain(stack).head(BlockTag::Latest).await.unwrap().number();
        let settlement = settlements(stack, database).await.remove(0);
        settlement.status.is_paid()
            && settlement.split.is_some_and(|split| split.block_number <= head)
            && on_canonical_block(stack, &settlement).await
    })
    .await;
    stack.anvil.rpc("anvil_mine", json!([CONFIRMATIONS, "0x1"])).await.unwrap();
}

/// Whether the split that the ledger knows is on the chain as it is now.
async fn on_canonical_block(stack: &Stack, settlement: &Settlement) -> bool {
    let Some(split) = settlement.split else { return false };
    let receipt = chain(stack).receipt(split.tx_hash).await.unwrap();
    receipt.is_some_and(|receipt| receipt.block_number() == split.block_number)
}

/// The chain forgets everything since `snapshot` and goes another way.
async fn revert(stack: &Stack, snapshot: &Value) {
    assert_eq!(stack.anvil.rpc("evm_revert", json!([snapshot])).await.unwrap(), json!(true));
}

/// A reorg takes pull, record and split: the same bytes are sent again, and each lands once.
#[tokio::test]
async fn a_reorg_is_followed() {
    let stack = slow_finality("reorg").await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let snapshot = stack.anvil.rpc("evm_snapshot", json!([])).await.unwrap();
    let paid = invoke(&daemon.url, &call("reorg-1"), Some(&draft.header())).await;
    assert_eq!(paid.status, 200, "{paid:?}");
    eventually("it is split", || async {
        settlements(&stack, &database).await[0].keeper_state == KeeperState::Split
    })
    .await;
    let before = settlements(&stack, &database).await.remove(0);
    revert(&stack, &snapshot).await;
    split_and_buried(&stack, &database).await;
    through(&stack, &database, 1).await;
    let metrics = reqwest::get(format!("{}/metrics", daemon.url)).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(value("keeper_reorgs_total{chain_id=\"84532\"}") >= 1.0, "{metrics}");
    assert!(value("keeper_reorg_depth_blocks{chain_id=\"84532\"}") >= 3.0, "{metrics}");
    let after = settlements(&stack, &database).await.remove(0);
    assert_eq!(
        (before.pull.unwrap().tx_hash, before.record.unwrap().tx_hash),
        (after.pull.unwrap().tx_hash, after.record.unwrap().tx_hash),
        "the same bytes"
    );
    assert_eq!(stack.provider.calls(), 1);
    assert_eq!(on_chain(&stack, &draft.authorization).await, (FUNDS - PRICE_MICRO, true));
}

/// The same while the daemon is down, which then finds a chain much longer than its window.
#[tokio::test]
async fn a_reorg_while_it_slept_is_followed() {
    let stack = slow_finality("asleep").await;
    let database = stack.sqlite();
    let mut daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let mut draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    draft.authorization.valid_before += 540;
    let snapshot = stack.anvil.rpc("evm_snapshot", json!([])).await.unwrap();
    let paid = invoke(&daemon.url, &call("asleep-1"), Some(&draft.header())).await;
    assert_eq!(paid.status, 200, "{paid:?}");
    eventually("it is split", || async {
        settlements(&stack, &database).await[0].keeper_state == KeeperState::Split
    })
    .await;
    daemon.signal("KILL").await.unwrap();
    daemon.wait().await.unwrap();
    revert(&stack, &snapshot).await;
    stack.anvil.rpc("anvil_mine", json!(["0x28", "0x1"])).await.unwrap();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    split_and_buried(&stack, &database).await;
    through(&stack, &database, 1).await;
    let again = invoke(&daemon.url, &call("asleep-1"), Some(&draft.header())).await;
    assert_eq!((again.status, &again.body["replayed"]), (200, &json!(true)));
}

/// A reorg much deeper than the window that is read again at each head, and not final: the mirror is
/// read anew from the final block on, and everything lands once.
#[tokio::test]
async fn a_reorg_deeper_than_the_window_is_followed() {
    let anvil = AnvilOptions { slots_in_an_epoch: 48, ..AnvilOptions::default() };
    let stack = stack("deep", StackOptions { anvil, ..StackOptions::default() }).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let mut draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    draft.authorization.valid_before += 540;
    let snapshot = stack.anvil.rpc("evm_snapshot", json!([])).await.unwrap();
    let paid = invoke(&daemon.url, &call("deep-1"), Some(&draft.header())).await;
    assert_eq!(paid.status, 200, "{paid:?}");
    eventually("it is split and booked", || async {
        settlements(&stack, &database).await[0].keeper_state == KeeperState::Split
            && tally(&database, BOOKED, "kind").await.get("split") == Some(&1)
    })
    .await;
    // Sixty blocks more; the window is 22.
    stack.anvil.rpc("anvil_mine", json!(["0x3c", "0x1"])).await.unwrap();
    let head = || async { chain(&stack).head(BlockTag::Latest).await.unwrap().number() };
    let before = head().await;
    eventually("the mirror is there", || async {
        let mirrored =
            tally(&database, "cursors WHERE stream = 'mirror'", "CAST(next_block AS TEXT)");
        mirrored.await.keys().all(|next| next.parse::<u64>().unwrap() > before)
    })
    .await;
    revert(&stack, &snapshot).await;
    stack.anvil.rpc("anvil_mine", json!(["0x41", "0x1"])).await.unwrap();
    eventually("it is found, sent again, and agrees", || async {
        let settlement = settlements(&stack, &database).await.remove(0);
        settlement.keeper_state == KeeperState::Split
            && settlement.split.is_some_and(|split| split.block_number > before)
            && on_canonical_block(&stack, &settlement).await
    })
    .await;
    assert_eq!(on_chain(&stack, &draft.authorization).await, (FUNDS - PRICE_MICRO, true));
    let puller = chain(&stack).transaction_count(stack.puller.1, BlockTag::Latest).await.unwrap();
    let settler = chain(&stack).transaction_count(stack.settler.1, BlockTag::Latest).await.unwrap();
    assert_eq!((puller, settler), (1, 2), "each once");
    eventually("the books agree", || async { reconciled(&stack, &database).await.is_sound() })
        .await;
    audited(&daemon.config, &database).await;
}

/// A reorg takes a served payment, and its window closes before it can be sent again: nothing can
/// be done, and somebody is told.
#[tokio::test]
async fn served_and_never_paid_is_shouted() {
    let anvil = AnvilOptions { slots_in_an_epoch: 4, ..AnvilOptions::default() };
    let options = StackOptions { anvil, confirmations: 5, ..StackOptions::default() };
    let stack = stack("unpaid", options).await;
    let database = stack.sqlite();
    let mut daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let snapshot = stack.anvil.rpc("evm_snapshot", json!([])).await.unwrap();
    let paid = invoke(&daemon.url, &call("unpaid-1"), Some(&draft.header())).await;
    assert_eq!(paid.status, 200, "{paid:?}");
    daemon.signal("KILL").await.unwrap();
    daemon.wait().await.unwrap();
    revert(&stack, &snapshot).await;
    stack.anvil.rpc("evm_increaseTime", json!([120])).await.unwrap();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    eventually("its window closes", || async {
        settlements(&stack, &database).await[0].status == Status::Released
    })
    .await;
    assert!(daemon.logged().contains("ALARM: served, but never paid"), "{}", daemon.tail());
    assert_eq!(on_chain(&stack, &draft.authorization).await, (FUNDS, false));
}

/// A node that loses its logs for a while takes nothing back and hides nothing for good.
#[tokio::test]
async fn a_node_without_logs_is_not_believed() {
    let stack = stack("blind", StackOptions::default()).await;
    let proxy = RpcProxy::start(stack.anvil.url()).await.unwrap();
    let database = stack.sqlite();
    let through_proxy = |config: String| config.replace(stack.anvil.url(), proxy.url());
    let mut daemon = stack.spawn(&keeper(), &database, &[], through_proxy).await.unwrap();
    daemon.ready().await.unwrap();
    let payer = stack.agent(FUNDS).await.unwrap();
    let first = Draft::new(&payer, stack.contracts.splitter);
    assert_eq!(invoke(&daemon.url, &call("blind-1"), Some(&first.header())).await.status, 200);
    proxy.add(Rule::new("eth_getLogs", Fault::EMPTY));
    eventually("it notices", || async { daemon.logged().contains("the node contradicts itself") })
        .await;
    assert!(settlements(&stack, &database).await[0].status.is_paid());
    assert!(!daemon.logged().contains("lost its block"));
    proxy.heal();
    through(&stack, &database, 1).await;
}

/// An endpoint that is further behind than finality takes nothing back: a ledger that was restored
/// knows what was done from the mirror alone.
#[tokio::test]
async fn a_node_far_behind_is_not_believed() {
    let stack = stack("far-behind", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let snapshot = stack.anvil.rpc("evm_snapshot", json!([])).await.unwrap();
    let paid = invoke(&daemon.url, &call("far-behind-1"), Some(&draft.header())).await;
    assert_eq!(paid.status, 200, "{paid:?}");
    through(&stack, &database, 1).await;
    eventually("its transactions are final", || async {
        let states = tally(&database, "transactions", "state").await;
        states.get("finalized") == Some(&3)
    })
    .await;
    // The chain stands still where it was before the payment.
    stack.anvil.rpc("evm_setIntervalMining", json!([0])).await.unwrap();
    revert(&stack, &snapshot).await;
    eventually("it notices", || async { daemon.logged().contains("its head is") }).await;
    let settlement = settlements(&stack, &database).await.remove(0);
    assert!(settlement.status.is_paid() && settlement.keeper_state == KeeperState::Split);
    assert!(!daemon.logged().contains("lost its"), "{}", daemon.tail());
}

/// A mirror that falls behind closes the intake: what cannot be seen must not be sold.
#[tokio::test]
async fn behind_the_chain_nothing_is_sold() {
    let stack = stack("behind", StackOptions::default()).await;
    let proxy = RpcProxy::start(stack.anvil.url()).await.unwrap();
    let database = stack.sqlite();
    let through_proxy = |config: String| config.replace(stack.anvil.url(), proxy.url());
    let mut daemon = stack.spawn(&keeper(), &database, &[], through_proxy).await.unwrap();
    daemon.ready().await.unwrap();
    let refusal = Fault::Refused(-32005, "query returned more than 0 results");
    proxy.add(Rule::new("eth_getLogs", refusal));
    stack.anvil.rpc("anvil_mine", json!(["0x14", "0x0"])).await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    eventually("it is not ready", || async {
        let answer = reqwest::get(format!("{}/readyz", daemon.url)).await.unwrap();
        let body: Value = answer.json().await.unwrap();
        body["waiting_for"]["mirror"].is_string()
    })
    .await;
    let refused = invoke(&daemon.url, &call("behind-1"), Some(&draft.header())).await;
    assert_eq!((refused.status, refused.code()), (503, "SERVICE_DEGRADED"), "{refused:?}");
    assert!(tally(&database, "x402_settlements", "status").await.is_empty());
    let puller = chain(&stack).transaction_count(stack.puller.1, BlockTag::Latest).await.unwrap();
    assert_eq!(puller, 0);
    proxy.heal();
    daemon.ready().await.unwrap();
    let head = chain(&stack).head(BlockTag::Latest).await.unwrap();
    let mut draft = draft;
    draft.authorization.valid_before = head.timestamp() + 60;
    assert_eq!(invoke(&daemon.url, &call("behind-1"), Some(&draft.header())).await.status, 200);
    through(&stack, &database, 1).await;
}
