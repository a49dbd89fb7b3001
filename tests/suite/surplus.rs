//! Reorgs while other people's money lies in the Splitter: a record takes whatever is there and not
//! yet accounted, whether its own pull is on the chain or not.

use crate::{
    reorgs::{At, FUNDS, Lane, Payment},
    support::{chain, on_chain, reconciled, settlement_of, tally},
};
use alloy::primitives::U256;
use keeper::{
    chain::BlockTag,
    eip3009::FiatToken,
    ledger::{Ledger, Settlement},
    lifecycle::{KeeperState, Status},
};
use sandbox::PRICE_MICRO;
use serde_json::json;

/// A hub in whose Splitter lies as much of somebody else's money as a payment brings.
async fn lane_with_surplus(name: &str) -> Lane {
    let lane = Lane::start(name, None).await;
    let anvil = &lane.stack.anvil;
    anvil.rpc("evm_setAutomine", json!([true])).await.unwrap();
    let splitter = lane.stack.contracts.splitter;
    lane.stack.contracts.mint(anvil, splitter, PRICE_MICRO).await.unwrap();
    anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
    anvil.rpc("anvil_mine", json!(["0x8", "0x1"])).await.unwrap();
    lane
}

/// Micro-USDC in the Splitter.
async fn held(lane: &Lane) -> U256 {
    let call = FiatToken::balanceOfCall { account: lane.stack.contracts.splitter };
    chain(&lane.stack).call(lane.stack.contracts.usdc, &call, BlockTag::Latest).await.unwrap()
}

/// Transactions of the settler on the chain.
async fn settled(lane: &Lane) -> u64 {
    chain(&lane.stack).transaction_count(lane.stack.settler.1, BlockTag::Latest).await.unwrap()
}

async fn settlement(lane: &Lane, payment: &Payment) -> Settlement {
    settlement_of(&lane.database, &payment.draft.authorization).await.unwrap()
}

/// Brings a payment to its record's block and tells the hash of its pull, one block below.
async fn recorded(
    lane: &Lane,
    payment: &Payment,
) -> (alloy::primitives::B256, crate::reorgs::Target) {
    let record = lane.bring(At::RecordIncluded, payment).await;
    let pull = settlement(lane, payment).await.pull.unwrap();
    let head = chain(&lane.stack).head(BlockTag::Latest).await.unwrap().number();
    assert_eq!(pull.block_number + 1, head, "the pull is one block below its record");
    (pull.tx_hash, record)
}

/// The new branch has the record, made with somebody else's money, and not the pull. The pull is
/// sent again, everything is there, and it is split once.
#[tokio::test]
async fn reorg_drops_pull_keeps_record() {
    let mut lane = lane_with_surplus("keeps").await;
    let payment = lane.begin().await;
    let (_, record) = recorded(&lane, &payment).await;
    lane.rewrite(2, &[json!([lane.raw(record.hash).await, 1])], true).await;
    let receipt = chain(&lane.stack).receipt(record.hash).await.unwrap().unwrap();
    assert!(receipt.success(), "the branch made the record");
    lane.until("it is split", &payment, |settlement| {
        settlement.status == Status::ChainConfirmed && settlement.keeper_state == KeeperState::Split
    })
    .await;
    lane.mining("everything agrees", || async {
        let open = tally(&lane.database, "transactions WHERE NOT final", "state").await;
        open.is_empty() && reconciled(&lane.stack, &lane.database).await.is_sound()
    })
    .await;
    assert_eq!(on_chain(&lane.stack, &payment.draft.authorization).await.0, FUNDS - PRICE_MICRO);
    assert_eq!(held(&lane).await, U256::from(PRICE_MICRO), "nobody else's money is gone");
    assert_eq!(settled(&lane).await, 2, "one record, one split");
    // The record was booked first, out of the donation; its pull gives that back.
    let ledger = Ledger::open_beside(&lane.database).await.unwrap();
    let mut tx = ledger.read().await.unwrap();
    let accounts = tx.accounts(84_532, lane.stack.contracts.splitter).await.unwrap();
    let on = |code: &str| accounts.iter().find(|one| one.code.starts_with(code)).unwrap().balance;
    assert_eq!((on("clearing:"), on("suspense:")), (0, i64::try_from(PRICE_MICRO).unwrap()));
    let closures = tally(&lane.database, "closures", "reason").await;
    assert!(closures.is_empty(), "its pull was on its way: no drift: {closures:?}");
    assert_eq!(payment.answer.await.unwrap(), 200);
}

/// The same, and the pull cannot come back. The record is the chain's doing; the keeper does not
/// divide what it took, and calls somebody.
#[tokio::test]
async fn reorg_drops_pull_for_good_and_the_record_is_not_split() {
    let mut lane = lane_with_surplus("for-good").await;
    let payment = lane.begin().await;
    let (pull, record) = recorded(&lane, &payment).await;
    let pull = lane.target(lane.stack.puller.0.clone(), pull).await;
    let branch = [json!([lane.foreign(&pull).await, 0]), json!([lane.raw(record.hash).await, 1])];
    lane.rewrite(2, &branch, true).await;
    lane.mining("its pull is parked", || async {
        tally(&lane.database, "transactions", "state").await.contains_key("parked")
    })
    .await;
    lane.stack.anvil.rpc("evm_increaseTime", json!([700])).await.unwrap();
    lane.until("it is released", &payment, |settlement| settlement.status == Status::Released)
        .await;
    let alarms = lane.alarms();
    let told = |words: &str| alarms.iter().any(|alarm| alarm.contains(words));
    assert!(told("handed to be recorded, but its pull is not on the chain"), "{alarms:?}");
    assert_eq!(settlement(&lane, &payment).await.keeper_state, KeeperState::Violation);
    for _ in 0..10 {
        lane.mine().await;
    }
    assert_eq!(on_chain(&lane.stack, &payment.draft.authorization).await, (FUNDS, false));
    assert_eq!(held(&lane).await, U256::from(PRICE_MICRO), "somebody else's money is still there");
    assert_eq!(settled(&lane).await, 1, "the record, and no split");
    lane.mining("a record that nobody paid for is drift", || async {
        tally(&lane.database, "closures", "reason").await.contains_key("drift")
    })
    .await;
}

/// The pull is lost, its record stays in the pool and is mined first, without money: it reverts. The
/// pull comes back, and the payment is held for a human.
#[tokio::test]
async fn a_record_that_was_mined_before_its_pull_came_back_is_held() {
    let mut lane = Lane::start("too-early", None).await;
    let payment = lane.begin().await;
    let record = lane.bring(At::RecordBroadcast, &payment).await;
    lane.rewrite(1, &[], false).await;
    lane.mine().await;
    let receipt = chain(&lane.stack).receipt(record.hash).await.unwrap().unwrap();
    assert!(!receipt.success(), "there was no money");
    lane.until("it is held", &payment, |settlement| {
        settlement.status == Status::ChainConfirmed && settlement.keeper_state == KeeperState::Held
    })
    .await;
    let alarms = lane.alarms();
    let told = |words: &str| alarms.iter().any(|alarm| alarm.contains(words));
    assert!(told("a transaction reverted") && told("the payment is held"), "{alarms:?}");
    lane.mining("everything agrees", || async {
        reconciled(&lane.stack, &lane.database).await.is_sound()
    })
    .await;
    assert_eq!(on_chain(&lane.stack, &payment.draft.authorization).await.0, FUNDS - PRICE_MICRO);
    assert_eq!(held(&lane).await, U256::from(PRICE_MICRO), "it waits in the Splitter");
}
