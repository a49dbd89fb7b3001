//! Transactions that stay out: paid more for, or given way to nothing. Each account nonce is used
//! once all the same.

use crate::support::{
    Draft, call, chain, eventually, invoke, keeper, on_chain, settlement_of, settlements, sound,
    stack, tally, through,
};
use alloy::primitives::{B256, U256};
use keeper::{
    chain::BlockTag,
    lifecycle::{KeeperState, Status},
    splitter::{JecpSplitter, capability_id},
};
use sandbox::{AnvilOptions, PRICE_MICRO, Stack, StackOptions};
use serde_json::json;

/// Micro-USDC of every test's payer.
const FUNDS: u64 = 1_000_000;
/// A base fee at which what was signed before cannot be mined, wei.
const DEAR: &str = "0x12a05f200";

/// A stack whose blocks are mined by hand.
async fn by_hand(name: &str) -> Stack {
    let anvil = AnvilOptions { block_time: None, ..AnvilOptions::default() };
    stack(name, StackOptions { anvil, settle_timeout: "1s", ..StackOptions::default() }).await
}

/// Mines a block that is too dear for what is in the pool.
async fn mine_a_dear_block(stack: &Stack) {
    stack.anvil.rpc("anvil_setNextBlockBaseFeePerGas", json!([DEAR])).await.unwrap();
    stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
}

/// The base fee rises above what a pull offers: it is signed again for more, and lands once.
#[tokio::test]
async fn a_pull_that_is_too_cheap_is_paid_more_for() {
    let stack = by_hand("bump").await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
    let pending = invoke(&daemon.url, &call("bump-1"), Some(&draft.header())).await;
    let first = pending.body["error"]["details"]["tx_hash"].clone();
    assert!(first.is_string(), "{pending:?}");
    mine_a_dear_block(&stack).await;
    assert_eq!(on_chain(&stack, &draft.authorization).await, (FUNDS, false), "too dear");
    eventually("it is signed again", || async {
        tally(&database, "attempts", "kind").await.get("bump") == Some(&1)
    })
    .await;
    stack.anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
    through(&stack, &database, 1).await;
    let settlement = settlement_of(&database, &draft.authorization).await.unwrap();
    let mined: B256 = settlement.pull.unwrap().tx_hash;
    assert_ne!(json!(mined), first, "the second envelope was mined");
    let lost: B256 = serde_json::from_value(first).unwrap();
    assert!(chain(&stack).receipt(lost).await.unwrap().is_none(), "the first one never was");
}

/// A pull that is not mined within its window gives way to nothing; the next payment is not held up.
#[tokio::test]
async fn a_pull_past_its_window_gives_way() {
    let stack = by_hand("noop").await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
    let pending = invoke(&daemon.url, &call("noop-1"), Some(&draft.header())).await;
    assert_eq!(pending.status, 503, "{pending:?}");
    stack.anvil.rpc("evm_increaseTime", json!([120])).await.unwrap();
    mine_a_dear_block(&stack).await;
    eventually("it gives way", || async {
        tally(&database, "attempts", "kind").await.get("noop") == Some(&1)
    })
    .await;
    stack.anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
    eventually("it is released", || async {
        settlement_of(&database, &draft.authorization).await.unwrap().status == Status::Released
    })
    .await;
    assert_eq!(on_chain(&stack, &draft.authorization).await, (FUNDS, false));
    eventually("its intent is closed", || async {
        tally(&database, "intents", "state").await.get("cancelled") == Some(&1)
    })
    .await;

    let mut next = Draft::new(&draft.payer, stack.contracts.splitter);
    let head = chain(&stack).head(BlockTag::Latest).await.unwrap();
    next.authorization.valid_before = head.timestamp() + 120;
    eventually("the next one is served", || async {
        invoke(&daemon.url, &call("noop-2"), Some(&next.header())).await.status == 200
    })
    .await;
    sound(&stack, &database, 1).await;
    let puller = chain(&stack).transaction_count(stack.puller.1, BlockTag::Latest).await.unwrap();
    assert_eq!(puller, 2, "one account nonce each");
}

/// A reorg takes a pull that cannot come back: its record is not made with other people's money.
#[tokio::test]
async fn a_record_without_its_pull_gives_way() {
    let anvil = AnvilOptions { slots_in_an_epoch: 8, ..AnvilOptions::default() };
    let options = StackOptions { anvil, confirmations: 12, ..StackOptions::default() };
    let stack = stack("cause", options).await;
    let database = stack.sqlite();
    let mut daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let snapshot = stack.anvil.rpc("evm_snapshot", json!([])).await.unwrap();
    let paid = invoke(&daemon.url, &call("cause-1"), Some(&draft.header())).await;
    assert_eq!(paid.status, 200, "{paid:?}");
    eventually("it is recorded", || async {
        let state = settlements(&stack, &database).await[0].keeper_state;
        [KeeperState::Recorded, KeeperState::Splitting, KeeperState::Split].contains(&state)
    })
    .await;
    daemon.signal("KILL").await.unwrap();
    daemon.wait().await.unwrap();
    assert_eq!(stack.anvil.rpc("evm_revert", json!([snapshot])).await.unwrap(), json!(true));
    stack.anvil.rpc("evm_increaseTime", json!([120])).await.unwrap();
    // Somebody else's money, which a record without a pull would take.
    stack.contracts.mint(&stack.anvil, stack.contracts.splitter, PRICE_MICRO).await.unwrap();

    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    eventually("the record gives way", || async {
        tally(&database, "attempts", "kind").await.get("noop").is_some_and(|count| *count >= 2)
    })
    .await;
    let mut next = Draft::new(&draft.payer, stack.contracts.splitter);
    let head = chain(&stack).head(BlockTag::Latest).await.unwrap();
    next.authorization.valid_before = head.timestamp() + 180;
    eventually("the next one is served", || async {
        invoke(&daemon.url, &call("cause-2"), Some(&next.header())).await.status == 200
    })
    .await;
    eventually("and split", || async {
        let next = settlement_of(&database, &next.authorization).await.unwrap();
        next.keeper_state == KeeperState::Split
    })
    .await;
    let first = settlement_of(&database, &draft.authorization).await.unwrap();
    assert_eq!(first.status, Status::Released);
    let accounted =
        JecpSplitter::accountedBalanceCall { capabilityId: capability_id("demo", "echo") };
    let left = chain(&stack).call(stack.contracts.splitter, &accounted, BlockTag::Latest).await;
    assert_eq!(left.unwrap(), U256::ZERO);
    let held = keeper::eip3009::FiatToken::balanceOfCall { account: stack.contracts.splitter };
    let held = chain(&stack).call(stack.contracts.usdc, &held, BlockTag::Latest).await.unwrap();
    assert_eq!(held, U256::from(PRICE_MICRO), "nobody took it");
}
