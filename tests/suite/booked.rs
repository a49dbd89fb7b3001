//! Reorgs that take what was booked already: deeper than the confirmations that the operator asked
//! for, and not through a final block. What was booked is reversed by new journals, and the books are
//! again what the chain says.

use crate::{
    reorgs::{At, FUNDS, Lane, Payment},
    support::{BOOKED, chain, on_chain, postgres, reconciled, settlement_of, tally},
};
use alloy::primitives::B256;
use keeper::{
    chain::BlockTag,
    ledger::Ledger,
    lifecycle::{KeeperState, Status},
};
use sandbox::PRICE_MICRO;
use serde_json::json;
use std::collections::BTreeMap;

/// Pull, record, split and three payouts.
const JOURNALS: i64 = 6;

/// What the new branch does with the transactions of a booked payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Branch {
    Same,
    /// Behind another transaction with a log, so that theirs have other places in the block.
    Shifted,
    Without,
}

/// A payment that is booked after two confirmations: its pull, record and split.
struct Booked {
    payment: Payment,
    pull: B256,
    record: B256,
    split: B256,
    /// Block of the record.
    recorded: u64,
}

/// A hub that books after two confirmations, and a booked payment of it.
async fn booked(name: &str, database: Option<String>) -> (Lane, Booked) {
    let mut lane = Lane::start_with(name, database, 2).await;
    let payment = lane.begin().await;
    lane.bring(At::Booked, &payment).await;
    lane.mining("its payouts are booked too", || async {
        journals(&lane).await.values().sum::<i64>() == JOURNALS
    })
    .await;
    let known = settlement_of(&lane.database, &payment.draft.authorization).await.unwrap();
    let [record, split] = [known.record.unwrap(), known.split.unwrap()];
    let booked = Booked {
        payment,
        pull: known.pull.unwrap().tx_hash,
        record: record.tx_hash,
        split: split.tx_hash,
        recorded: record.block_number,
    };
    (lane, booked)
}

/// What is booked and not reversed, by kind.
async fn journals(lane: &Lane) -> BTreeMap<String, i64> {
    tally(&lane.database, BOOKED, "kind").await
}

async fn reversals(lane: &Lane) -> i64 {
    let reversals = tally(&lane.database, "journals WHERE reverses IS NOT NULL", "kind").await;
    assert!(reversals.keys().all(|kind| kind == "reversal"), "{reversals:?}");
    reversals.values().sum()
}

/// Ledger and chain agree, each log is cited once, and no journal cites anything else.
async fn all_agrees(lane: &Lane) {
    lane.mining("everything agrees", || async {
        reconciled(&lane.stack, &lane.database).await.is_sound() && is_each_cited_once(lane).await
    })
    .await;
}

async fn is_each_cited_once(lane: &Lane) -> bool {
    let place = "tx_hash || ' ' || log_index || ' ' || block_hash";
    let logs = "(SELECT tx_hash, log_index, block_hash FROM x402_pull_events
        UNION ALL SELECT tx_hash, log_index, block_hash FROM payout_events
        UNION ALL SELECT tx_hash, log_index, block_hash FROM splitter_events
            WHERE event_name NOT IN ('CapabilityRegistered', 'CapabilityDeactivated')) logs";
    let cited = tally(&lane.database, BOOKED, place).await;
    cited.values().all(|times| *times == 1) && cited == tally(&lane.database, logs, place).await
}

/// A payment is booked after two confirmations, and then its five newest blocks are replaced.
async fn booked_once(name: &str, branch: Branch, database: Option<String>) {
    let (lane, Booked { payment, pull, record, split, .. }) = booked(name, database).await;
    let minter = lane.stack.anvil.first_account().await.unwrap();
    let known = settlement_of(&lane.database, &payment.draft.authorization).await.unwrap();
    let mut blocks = Vec::new();
    for (place, hash) in (1u64..).zip([pull, record, split]) {
        if branch == Branch::Shifted {
            let to = lane.stack.contracts.usdc;
            let minter_word = format!("{:0>64}", alloy::hex::encode(minter));
            let mint = format!("0x40c10f19{minter_word}{:064x}", 1);
            blocks.push(json!([{"from": minter, "to": to, "input": mint}, place]));
        }
        if branch != Branch::Without {
            blocks.push(json!([lane.raw(hash).await, place]));
        }
    }
    let before = journals(&lane).await;
    lane.rewrite(5, &blocks, true).await;
    lane.mine().await;
    if branch == Branch::Without {
        // A few blocks, as they are while something is sent again.
        lane.bring(At::SplitIncluded, &payment).await;
    }
    lane.until("it is split, elsewhere", &payment, |settlement| {
        settlement.status == Status::ChainConfirmed
            && settlement.keeper_state == KeeperState::Split
            && settlement.pull != known.pull
    })
    .await;
    // Whatever would be booked again has the time to be.
    for _ in 0..12 {
        lane.mine().await;
    }
    all_agrees(&lane).await;
    assert_eq!(journals(&lane).await, before, "booked once");
    assert_eq!(reversals(&lane).await, JOURNALS, "each was taken back once");
    assert_eq!(on_chain(&lane.stack, &payment.draft.authorization).await.0, FUNDS - PRICE_MICRO);
    assert_eq!(lane.alarms(), Vec::<String>::new());
    assert_eq!(payment.answer.await.unwrap(), 200);
}

#[tokio::test]
async fn a_booked_payment_that_a_reorg_leaves_in_place_is_booked_once() {
    booked_once("same", Branch::Same, None).await;
    booked_once("same", Branch::Same, Some(postgres().await)).await;
}

#[tokio::test]
async fn a_booked_payment_that_a_reorg_moves_is_booked_once() {
    booked_once("shifted", Branch::Shifted, None).await;
    booked_once("shifted", Branch::Shifted, Some(postgres().await)).await;
}

#[tokio::test]
async fn a_booked_payment_that_is_sent_again_is_booked_once() {
    booked_once("resent", Branch::Without, None).await;
    booked_once("resent", Branch::Without, Some(postgres().await)).await;
}

/// The pull's account nonce is somebody else's on the new branch: the payment is never made, and
/// nothing of it stays in the books.
async fn taken_for_good(name: &str, database: Option<String>) {
    let (lane, Booked { payment, pull, .. }) = booked(name, database).await;
    let known = settlement_of(&lane.database, &payment.draft.authorization).await.unwrap();
    let head = chain(&lane.stack).head(BlockTag::Latest).await.unwrap().number();
    let depth = head + 1 - known.pull.unwrap().block_number;
    assert!(depth < 8, "not through a final block");
    let pull = lane.target(lane.stack.puller.0.clone(), pull).await;
    lane.rewrite(depth, &[json!([lane.foreign(&pull).await, 0])], true).await;
    lane.mining("its pull is parked", || async {
        tally(&lane.database, "transactions", "state").await.contains_key("parked")
    })
    .await;
    lane.stack.anvil.rpc("evm_increaseTime", json!([700])).await.unwrap();
    lane.until("it is released", &payment, |settlement| settlement.status == Status::Released)
        .await;
    all_agrees(&lane).await;
    assert_eq!(journals(&lane).await, BTreeMap::new(), "nothing of it is booked");
    assert_eq!(reversals(&lane).await, JOURNALS);
    let ledger = Ledger::open_beside(&lane.database).await.unwrap();
    let mut tx = ledger.read().await.unwrap();
    let accounts = tx.accounts(84_532, lane.stack.contracts.splitter).await.unwrap();
    assert!(accounts.len() > 5 && accounts.iter().all(|one| one.balance == 0), "{accounts:?}");
    let alarms = lane.alarms();
    assert!(alarms.iter().any(|alarm| alarm.contains("served, but never paid")), "{alarms:?}");
}

#[tokio::test]
async fn a_booked_payment_that_is_gone_for_good_is_taken_out_of_the_books() {
    taken_for_good("gone", None).await;
    taken_for_good("gone", Some(postgres().await)).await;
}

/// The record's account nonce is somebody else's on the new branch, below which the pull stays: its
/// journal stays too, and its money waits in clearing.
async fn record_taken(name: &str, database: Option<String>) {
    let (lane, Booked { payment, record, recorded, .. }) = booked(name, database).await;
    let pull = tally(&lane.database, "journals WHERE kind = 'pull'", "id").await;
    let head = chain(&lane.stack).head(BlockTag::Latest).await.unwrap().number();
    let record = lane.target(lane.stack.settler.0.clone(), record).await;
    let depth = head + 1 - recorded;
    lane.rewrite(depth, &[json!([lane.foreign(&record).await, 0])], true).await;
    lane.until("it is held", &payment, |settlement| {
        settlement.status == Status::ChainConfirmed && settlement.keeper_state == KeeperState::Held
    })
    .await;
    all_agrees(&lane).await;
    assert_eq!(journals(&lane).await, [("pull".to_owned(), 1)].into());
    assert_eq!(tally(&lane.database, BOOKED, "id").await, pull, "the same journal as before");
    assert_eq!(reversals(&lane).await, JOURNALS - 1);
    let ledger = Ledger::open_beside(&lane.database).await.unwrap();
    let mut tx = ledger.read().await.unwrap();
    let accounts = tx.accounts(84_532, lane.stack.contracts.splitter).await.unwrap();
    let left: Vec<_> = accounts.iter().filter(|one| one.balance != 0).collect();
    let price = i64::try_from(PRICE_MICRO).unwrap();
    assert!(left.len() == 2 && left.iter().all(|one| one.balance == price), "{left:?}");
    assert!(left[1].code.starts_with("clearing:"), "{left:?}");
}

#[tokio::test]
async fn a_booked_record_that_a_reorg_takes_leaves_its_pull_in_the_books() {
    record_taken("unrecorded", None).await;
    record_taken("unrecorded", Some(postgres().await)).await;
}
