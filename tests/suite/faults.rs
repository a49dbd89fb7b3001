//! Nodes that fail, and networks between them and the keeper: whatever they do, each payment is
//! pulled, recorded and booked once, and nobody is called for it.

use crate::{
    rig::Rig,
    support::{chain, eventually, tools},
};
use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::eip2718::Encodable2718,
    primitives::{Address, TxKind, U256},
    signers::{SignerSync, local::PrivateKeySigner},
};
use keeper::chain::BlockTag;
use sandbox::{Anvil, AnvilOptions, Fault, POOL_LIMIT, RpcProxy, Rule, StackOptions};
use serde_json::{Value, json};
use std::time::Duration;

/// The chain's only way to move.
const SEND: &str = "eth_sendRawTransaction";

/// Finality far away: what is behind for a few blocks is not behind the final one.
fn far_from_final() -> StackOptions {
    let anvil = AnvilOptions { slots_in_an_epoch: 32, ..AnvilOptions::default() };
    StackOptions { anvil, ..StackOptions::default() }
}

/// every way in which a send can fail, one after the other, in one burst of payments.
#[tokio::test]
async fn sends_that_fail_in_every_way() {
    let mut rig = Rig::start("sends", StackOptions::default()).await;
    for fault in [
        Fault::AnswerLost,
        Fault::TimedOut,
        Fault::Denied(-32_000, "already known"),
        Fault::Denied(-32_000, "replacement transaction underpriced"),
        Fault::Denied(-32_603, "nonce too low"),
        Fault::Denied(-32_603, "internal error"),
        Fault::Delayed(Duration::from_millis(1_500)),
        Fault::Dropped,
        Fault::Status(429),
        Fault::Status(502),
        Fault::Refused(-32_603, "internal error"),
        Fault::Refused(-32_000, "transaction underpriced"),
        Fault::Refused(-32_000, "txpool is full"),
        Fault::Refused(-32_005, "rate limited"),
    ] {
        rig.proxy.next(SEND, fault);
    }
    rig.pay(8).await;
    eventually("every fault has struck", || async { rig.proxy.is_spent() }).await;
    rig.through().await;
}

/// The same with a good endpoint beside it: what one node loses the other has.
#[tokio::test]
async fn one_good_endpoint_is_enough() {
    let endpoints = |proxy: &str, node: &str| format!("\"{proxy}\", \"{node}\"");
    let mut rig = Rig::start_with("second", StackOptions::default(), endpoints).await;
    rig.proxy.add(Rule::new(SEND, Fault::Dropped).every(2));
    rig.proxy.add(Rule::new(SEND, Fault::Denied(-32_603, "nonce too low")));
    for method in ["eth_getTransactionReceipt", "eth_getLogs", "eth_call", "eth_blockNumber"] {
        rig.proxy.add(Rule::new(method, Fault::Status(429)).every(2));
        rig.proxy.add(Rule::new(method, Fault::Refused(-32_603, "internal error")));
    }
    rig.pay(6).await;
    assert!(rig.proxy.struck(SEND) >= 6);
    rig.through().await;
}

/// Reads that fail, lag, come out of order or say that there is nothing.
#[tokio::test]
async fn reads_that_fail_in_every_way() {
    let mut rig = Rig::start("reads", far_from_final()).await;
    let receipts = "eth_getTransactionReceipt";
    rig.proxy.add(Rule::new(receipts, Fault::NULL).times(12));
    rig.proxy.add(Rule::new("eth_getLogs", Fault::EMPTY).times(7));
    rig.pay(3).await;
    rig.proxy.heal();

    for method in ["eth_getLogs", receipts, "eth_getBlockByNumber", "eth_call"] {
        rig.proxy.add(Rule::new(method, Fault::Delayed(Duration::from_millis(700))).every(3));
        rig.proxy.add(Rule::new(method, Fault::Refused(-32_603, "internal error")).every(5));
        rig.proxy.add(Rule::new(method, Fault::Status(429)).every(7));
        rig.proxy.add(Rule::new(method, Fault::Dropped).every(8));
    }
    rig.proxy.add(Rule::new("eth_getTransactionCount", Fault::Refused(-32_603, "no")).every(2));
    rig.proxy.add(Rule::new("eth_getLogs", Fault::REVERSED));
    rig.pay(5).await;
    for method in ["eth_getLogs", receipts, "eth_getBlockByNumber", "eth_getTransactionCount"] {
        assert!(rig.proxy.struck(method) > 2, "{method}");
    }
    rig.through().await;
}

/// A node whose index of logs is behind its blocks by more than a confirmation takes: the money that
/// it shows late is booked all the same.
#[tokio::test]
async fn money_that_a_node_shows_late_is_booked() {
    // Less often than that node is behind: what it hides for longer counts as drift.
    let options = StackOptions { reconcile_interval: "30s", ..far_from_final() };
    let mut rig = Rig::start("late-logs", options).await;
    let hide_inflows = Fault::Changed(|params, result| {
        if params[0]["topics"][2].is_string() {
            *result = json!([]);
        }
    });
    rig.proxy.add(Rule::new("eth_getLogs", hide_inflows));
    let served = rig.buy();
    pulled(&rig, 1).await;
    rig.blocks(5).await;
    rig.proxy.heal();
    served.await.unwrap();
    rig.through().await;
}

/// A load balancer with a node behind it that has stopped: every second answer is old, then every
/// answer is. What is sent arrives, nothing is concluded from what is not seen.
#[tokio::test]
async fn a_node_that_has_stopped_behind_a_load_balancer() {
    let mut rig = Rig::start("stale", far_from_final()).await;
    rig.pay(1).await;
    rig.proxy.freeze(2).await.unwrap();
    let first = [rig.buy(), rig.buy(), rig.buy()];
    pulled(&rig, 4).await;
    rig.blocks(5).await;
    rig.proxy.freeze(1).await.unwrap();
    let second = rig.buy();
    pulled(&rig, 5).await;
    rig.blocks(5).await;
    rig.proxy.heal();
    for call in first.into_iter().chain([second]) {
        call.await.unwrap();
    }
    rig.through().await;
}

/// Waits until the chain has so many pulls, whatever the keeper can see.
async fn pulled(rig: &Rig, pulls: u64) {
    eventually("the pulls are mined behind its back", || async {
        let node = chain(&rig.stack);
        node.transaction_count(rig.stack.puller.1, BlockTag::Latest).await.unwrap() == pulls
    })
    .await;
}

/// The first endpoint has stopped and the second has not: reads go to the one that answers first,
/// sends to both.
#[tokio::test]
async fn a_stopped_endpoint_in_front_of_a_good_one() {
    let endpoints = |proxy: &str, node: &str| format!("\"{proxy}\", \"{node}\"");
    let mut rig = Rig::start_with("front", far_from_final(), endpoints).await;
    rig.pay(2).await;
    rig.proxy.freeze(1).await.unwrap();
    let served = [rig.buy(), rig.buy()];
    pulled(&rig, 4).await;
    rig.blocks(5).await;
    rig.proxy.heal();
    for call in served {
        call.await.unwrap();
    }
    rig.through().await;
}

/// Twenty at once and no block: a pool that takes sixteen of one sender has twelve of ours, and
/// refuses none.
#[tokio::test]
async fn twenty_at_once_do_not_overflow_the_pool() {
    let anvil = AnvilOptions { block_time: None, ..AnvilOptions::default() };
    let options = StackOptions { anvil, settle_timeout: "2s", ..StackOptions::default() };
    let mut rig = Rig::start("twenty", options).await;
    rig.stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
    let calls: Vec<_> = (0..20).map(|_| rig.buy()).collect();
    eventually("twelve are in the pool", || async { rig.proxy.most_pending() >= 12 }).await;
    // Whoever would send more has had the time to do so.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.proxy.most_pending(), 12);
    rig.stack.anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
    for call in calls {
        call.await.unwrap();
    }
    rig.through().await;
    assert_eq!(rig.proxy.most_pending(), 12);
}

/// The double is as strict as a public node.
#[tokio::test]
async fn the_proxy_takes_sixteen_of_one_sender() {
    let options = AnvilOptions { block_time: None, ..AnvilOptions::default() };
    let anvil = Anvil::start(&tools(), &options).await.unwrap();
    anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
    let proxy = RpcProxy::start(anvil.url()).await.unwrap();
    let sender = PrivateKeySigner::random();
    anvil.set_balance(sender.address(), U256::from(10u64.pow(18))).await.unwrap();
    let send = async |nonce: u64| {
        let transaction = TxEip1559 {
            chain_id: 84_532,
            nonce,
            gas_limit: 21_000,
            max_fee_per_gas: 10_000_000_000,
            max_priority_fee_per_gas: 1,
            to: TxKind::Call(Address::ZERO),
            ..TxEip1559::default()
        };
        let signature = sender.sign_hash_sync(&transaction.signature_hash()).unwrap();
        let raw = TxEnvelope::from(transaction.into_signed(signature)).encoded_2718();
        let raw = alloy::hex::encode_prefixed(raw);
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": SEND, "params": [raw]});
        let sent = reqwest::Client::new().post(proxy.url()).json(&request).send().await.unwrap();
        sent.json::<Value>().await.unwrap()
    };
    for nonce in 0..POOL_LIMIT {
        assert!(send(nonce).await["result"].is_string(), "{nonce}");
    }
    assert_eq!(send(POOL_LIMIT).await["error"]["message"], "txpool is full");
    assert_eq!((proxy.most_pending(), proxy.overflowed()), (POOL_LIMIT, 1));
    anvil.rpc("evm_mine", json!([])).await.unwrap();
    assert!(send(POOL_LIMIT).await["result"].is_string(), "there is room again");
}
