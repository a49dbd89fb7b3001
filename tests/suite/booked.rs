//! Reorgs that take what was booked already: deeper than the confirmations that the operator asked
//! for, and not through a final block.

use crate::{
    reorgs::{At, FUNDS, Lane},
    support::{on_chain, reconciled, settlement_of, tally},
};
use keeper::lifecycle::{KeeperState, Status};
use sandbox::PRICE_MICRO;
use serde_json::json;

/// What the new branch does with the transactions of a booked payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Branch {
    Same,
    /// Behind another transaction with a log, so that theirs have other places in the block.
    Shifted,
    Without,
}

/// A payment is booked after two confirmations, and then its five newest blocks are replaced.
async fn booked_once(name: &str, branch: Branch) {
    let mut lane = Lane::start_with(name, None, 2).await;
    let minter = lane.stack.anvil.first_account().await.unwrap();
    let payment = lane.begin().await;
    lane.bring(At::Booked, &payment).await;
    let known = settlement_of(&lane.database, &payment.draft.authorization).await.unwrap();
    let (record, split) = (known.record.unwrap().tx_hash, known.split.unwrap().tx_hash);
    let mut blocks = Vec::new();
    for (place, hash) in (1u64..).zip([known.pull.unwrap().tx_hash, record, split]) {
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
    let journals = tally(&lane.database, "journals", "kind").await;
    lane.rewrite(5, &blocks, true).await;
    lane.mine().await;
    if branch == Branch::Without {
        // A few blocks, as they are while something is sent again.
        lane.bring(At::SplitIncluded, &payment).await;
    }
    lane.until("it is split", &payment, |settlement| {
        settlement.status == Status::ChainConfirmed && settlement.keeper_state == KeeperState::Split
    })
    .await;
    // Whatever would be booked again has the time to be.
    for _ in 0..12 {
        lane.mine().await;
    }
    lane.mining("everything agrees", || async {
        reconciled(&lane.stack, &lane.database).await.is_sound()
    })
    .await;
    let after = settlement_of(&lane.database, &payment.draft.authorization).await.unwrap();
    assert_ne!(after.pull, known.pull, "the reorg took it");
    assert_eq!(tally(&lane.database, "journals", "kind").await, journals, "booked once");
    assert_eq!(on_chain(&lane.stack, &payment.draft.authorization).await.0, FUNDS - PRICE_MICRO);
    assert_eq!(lane.alarms(), Vec::<String>::new());
    assert_eq!(payment.answer.await.unwrap(), 200);
}

#[tokio::test]
async fn a_booked_payment_that_a_reorg_leaves_in_place_is_booked_once() {
    booked_once("same", Branch::Same).await;
}

#[tokio::test]
async fn a_booked_payment_that_a_reorg_moves_is_booked_once() {
    booked_once("shifted", Branch::Shifted).await;
}

#[tokio::test]
async fn a_booked_payment_that_is_sent_again_is_booked_once() {
    booked_once("resent", Branch::Without).await;
}
