//! The chain's room against a real node: heads, finality, fees, and nodes that lag.

use crate::support::{eventually, tools};
use alloy::primitives::{Address, B256, Bytes};
use keeper::chain::{
    BlockTag, Chain, ChainError, DataFee, Finality, GAS_PRICE_ORACLE, Heads, Reorg, Reorgs,
};
use sandbox::{Anvil, AnvilOptions, ScriptedRpc, compiled};
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A chain whose blocks are mined by hand.
async fn by_hand() -> (Anvil, Chain) {
    let options = AnvilOptions { block_time: None, ..AnvilOptions::default() };
    let anvil = Anvil::start(&tools(), &options).await.unwrap();
    let chain = Chain::new(&[anvil.url().parse().unwrap()]).unwrap();
    (anvil, chain)
}

async fn mine(anvil: &Anvil, blocks: u64) {
    anvil.rpc("anvil_mine", json!([blocks])).await.unwrap();
}

/// Blocks with something in them: a reorg mines empty ones again with the same hash.
async fn mine_full(anvil: &Anvil, blocks: u64) {
    let account = anvil.first_account().await.unwrap();
    for _ in 0..blocks {
        anvil.send(account, account, &Bytes::new()).await.unwrap();
    }
}

/// The follower counts a reorg of the chain, and how deep it was.
#[tokio::test]
async fn a_reorg_is_counted() {
    let (anvil, chain) = by_hand().await;
    let stop = CancellationToken::new();
    let heads = Heads::follow(chain.clone(), Duration::from_millis(20), stop.clone());
    let head = || heads.latest().map_or(0, |seen| seen.head.number());
    mine(&anvil, 7).await;
    mine_full(&anvil, 3).await;
    eventually("the head is seen", || async { head() == 10 }).await;
    let before = heads.latest().unwrap().head.hash;
    assert_eq!(heads.reorgs(), Reorgs::default());
    anvil.rpc("anvil_reorg", json!([3, []])).await.unwrap();
    mine(&anvil, 1).await;
    eventually("it goes another way", || async { head() == 11 }).await;
    assert_ne!(chain.head(BlockTag::Number(10)).await.unwrap().hash, before);
    let last = Some(Reorg { depth: 3, at: 8 });
    assert_eq!(heads.reorgs(), Reorgs { count: 1, deepest: 3, last });
    stop.cancel();
}

/// A nudge has the head looked at now, not at the next interval.
#[tokio::test]
async fn a_nudge_is_heard() {
    let (anvil, chain) = by_hand().await;
    let stop = CancellationToken::new();
    let mut heads = Heads::follow(chain, Duration::from_secs(3_600), stop.clone());
    heads.changed().await;
    mine(&anvil, 1).await;
    assert_eq!(heads.latest().unwrap().head.number(), 0);
    heads.nudge();
    tokio::time::timeout(Duration::from_secs(60), heads.changed()).await.unwrap();
    assert_eq!(heads.latest().unwrap().head.number(), 1);
    stop.cancel();
}

/// A reorg through a final block is noticed; everything else is not taken for one.
#[tokio::test]
async fn what_was_final_is_held_against_the_node() {
    let (anvil, chain) = by_hand().await;
    mine(&anvil, 10).await;
    let Finality::Advanced(first) = chain.finality(None).await.unwrap() else {
        panic!("nothing is final");
    };
    assert_eq!(first.number, 8);
    assert_eq!(chain.finality(Some(first)).await.unwrap(), Finality::Unchanged);
    mine_full(&anvil, 5).await;
    let advanced = chain.finality(Some(first)).await.unwrap();
    let Finality::Advanced(second) = advanced else { panic!("{advanced:?}") };
    assert_eq!(second.number, 13);
    // A reorg of what is not final yet.
    anvil.rpc("anvil_reorg", json!([1, []])).await.unwrap();
    assert_eq!(chain.finality(Some(second)).await.unwrap(), Finality::Unchanged);

    anvil.rpc("anvil_reorg", json!([4, []])).await.unwrap();
    let found = chain.head(BlockTag::Number(13)).await.unwrap().hash;
    let broken = Finality::Broken { number: 13, remembered: second.hash, found };
    assert_eq!(chain.finality(Some(second)).await.unwrap(), broken);
    assert_eq!(
        chain.finality(Some(first)).await.unwrap(),
        Finality::Advanced(chain.head(BlockTag::Finalized).await.unwrap().into()),
        "below the reorg nothing is broken"
    );
}

/// A node that has not come as far is passed over: it would say that there are no logs.
#[tokio::test]
async fn a_node_that_lags_is_not_asked_for_logs() {
    let (anvil, _) = by_hand().await;
    mine(&anvil, 10).await;
    let lagging = ScriptedRpc::start(|method, _| match method {
        "eth_blockNumber" => json!({"result": "0x5"}),
        "eth_getLogs" => json!({"result": []}),
        _ => json!({"error": {"code": -32_601, "message": "not in the script"}}),
    });
    let lagging = lagging.await.unwrap();
    let urls = [lagging.url().parse().unwrap(), anvil.url().parse().unwrap()];
    let chain = Chain::new(&urls).unwrap();
    let at_five = chain.pinned_at(5).await.unwrap();
    assert!(at_five.chain_id().await.is_err(), "the first that is far enough");
    let at_six = chain.pinned_at(6).await.unwrap();
    assert_eq!(at_six.head(BlockTag::Number(6)).await.unwrap().number(), 6);
    let error = chain.pinned_at(11).await.unwrap_err();
    assert!(matches!(error, ChainError::Unavailable { .. }), "{error}");
    assert!(!lagging.asked().contains(&"eth_getLogs".to_owned()));
}

/// The oracle's word at every fork: 200 bytes, a million gas.
#[tokio::test]
async fn fees_beyond_gas_are_what_the_oracle_says() {
    let (anvil, chain) = by_hand().await;
    let none = DataFee::default();
    assert_eq!(chain.data_fee(200, 1_000_000).await.unwrap(), none, "there is no oracle");
    let code = compiled(&tools(), "GasPriceOracleDouble").await.unwrap();
    anvil.set_code(GAS_PRICE_ORACLE, &code).await.unwrap();
    assert_eq!(chain.data_fee(200, 1_000_000).await.unwrap(), none, "asked once per process");

    let chain = Chain::new(&[anvil.url().parse().unwrap()]).unwrap();
    // 268 bytes with the signature, 285 as FastLZ packs them at worst.
    let l1 =
        (285 * 836_500 - 42_585_600) * (2_269 * 16_000_000_000 + 1_055_762 * 3) / 1_000_000_000_000;
    for (fork, operator) in [(1, 0), (2, 27), (3, 2_000_000_007)] {
        set_fork(&anvil, fork).await;
        let fee = chain.data_fee(200, 1_000_000).await.unwrap();
        assert_eq!(fee, DataFee { l1, operator }, "fork {fork}");
        assert_eq!(fee.total(), l1 + operator);
    }
    set_fork(&anvil, 0).await;
    let error = chain.data_fee(200, 1_000_000).await.unwrap_err();
    assert!(matches!(error, ChainError::Reverted { .. }), "not taken for zero: {error}");
}

async fn set_fork(anvil: &Anvil, fork: u8) {
    let value = B256::with_last_byte(fork);
    let params = json!([GAS_PRICE_ORACLE, "0x0", value]);
    anvil.rpc("anvil_setStorageAt", params).await.unwrap();
}

/// The node's advice for the tip is heard, and not when it is ten thousand times too much.
#[tokio::test]
async fn a_node_cannot_make_us_pay() {
    for (advised, tip) in [("0x1", 1_000_000), ("0x1e8480", 2_000_000), ("0x2540be400", 10_000_000)]
    {
        let node = ScriptedRpc::start(move |method, _| match method {
            "eth_maxPriorityFeePerGas" => json!({"result": advised}),
            _ => json!({"result": {
                "number": "0x1", "hash": B256::ZERO, "parentHash": B256::ZERO,
                "timestamp": "0x1", "baseFeePerGas": "0x5", "miner": Address::ZERO,
            }}),
        });
        let node = node.await.unwrap();
        let market = Chain::new(&[node.url().parse().unwrap()]).unwrap().market().await.unwrap();
        assert_eq!(market.base_fee, 5);
        assert_eq!(market.fees.max_priority_fee_per_gas, tip);
        assert_eq!(market.fees.max_fee_per_gas, 10 + tip, "twice the base fee, and the tip");
    }
}
