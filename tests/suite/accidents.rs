//! What has gone wrong elsewhere, and does not here. docs/accidents.md tells each story and names
//! its test; those that other modules show are not shown again.

use crate::{
    rig::Rig,
    support::{chain, eventually, settlements, sound, tally},
};
use keeper::chain::BlockTag;
use sandbox::{AnvilOptions, Fault, KmsFault, Rule, StackOptions};
use serde_json::{Value, json};

const SEND: &str = "eth_sendRawTransaction";
const RECEIPT: &str = "eth_getTransactionReceipt";
const LOGS: &str = "eth_getLogs";

/// Blocks at which nothing is final yet while a test runs.
fn far_from_final() -> StackOptions {
    let anvil = AnvilOptions { slots_in_an_epoch: 32, ..AnvilOptions::default() };
    StackOptions { anvil, ..StackOptions::default() }
}

/// How many transactions the puller has on the chain.
async fn pulls(rig: &Rig) -> u64 {
    let node = chain(&rig.stack);
    node.transaction_count(rig.stack.puller.1, BlockTag::Latest).await.unwrap()
}

/// Waits until the puller has so many transactions on the chain.
async fn pulled(rig: &Rig, count: u64) {
    eventually("the pull is mined", || async { pulls(rig).await == count }).await;
}

/// the node had taken it, nobody said so, and the program died: others sent it anew.
#[tokio::test]
async fn a_lost_response_does_not_pay_twice() {
    let mut rig = Rig::start("lost", StackOptions::default()).await;
    rig.proxy.add(Rule::new(SEND, Fault::AnswerLost));
    let call = rig.buy();
    pulled(&rig, 1).await;
    rig.kill().await;
    call.abort();
    rig.proxy.heal();
    rig.restart().await;
    rig.again().await.unwrap();
    rig.through().await;
    assert_eq!(tally(&rig.database, "attempts", "kind").await["first"], 3);
}

/// committed as sent, never sent, and nobody looked again.
#[tokio::test]
async fn signed_is_not_taken_for_sent() {
    let mut rig = Rig::start("signed", StackOptions::default()).await;
    rig.proxy.add(Rule::new(SEND, Fault::Dropped));
    let call = rig.buy();
    eventually("it is signed", || async { rig.proxy.struck(SEND) > 0 }).await;
    rig.kill().await;
    call.abort();
    assert_eq!(pulls(&rig).await, 0);
    rig.proxy.heal();
    rig.restart().await;
    rig.again().await.unwrap();
    rig.through().await;
}

/// A node that wraps "nonce too low" into an internal error, and had mined the transaction: others
/// paused every endpoint, dropped the transaction, or gave up before its confirmations.
#[tokio::test]
async fn minus_32603_nonce_too_low_does_not_pause_the_keeper() {
    let mut rig = Rig::start("paused", StackOptions::default()).await;
    rig.proxy.add(Rule::new(SEND, Fault::Denied(-32_603, "nonce too low")));
    rig.pay(3).await;
    sound(&rig.stack, &rig.database, 3).await;
    assert!(rig.proxy.struck(SEND) >= 7, "all the time");
    eventually("every transaction is final", || async {
        tally(&rig.database, "transactions WHERE NOT final", "state").await.is_empty()
    })
    .await;
    rig.through().await;
}

/// Sends that failed, for good by the node's word: others had used the account nonce up and waited
/// behind the gap for ever.
#[tokio::test]
async fn a_failed_send_leaves_no_gap() {
    let mut rig = Rig::start("gap", StackOptions::default()).await;
    for fault in [
        Fault::Refused(-32_000, "insufficient funds for gas * price + value"),
        Fault::Refused(-32_000, "intrinsic gas too low"),
        Fault::Refused(-32_000, "nonce too high"),
        Fault::Refused(-32_000, "invalid sender"),
    ] {
        rig.proxy.next(SEND, fault);
    }
    rig.pay(4).await;
    rig.through().await;
}

/// The account nonce is past and the node has no receipt yet: others took that for a replacement
/// and paid again.
#[tokio::test]
async fn a_null_receipt_with_a_newer_nonce_is_not_a_replacement() {
    let mut rig = Rig::start("null", far_from_final()).await;
    rig.proxy.add(Rule::new(RECEIPT, Fault::NULL));
    let call = rig.buy();
    pulled(&rig, 1).await;
    rig.blocks(5).await;
    assert!(rig.proxy.struck(RECEIPT) > 3);
    let states = tally(&rig.database, "transactions", "state").await;
    assert_eq!(states, [("broadcast".to_owned(), 1)].into(), "nothing is concluded");
    rig.proxy.heal();
    call.await.unwrap();
    rig.through().await;
}

/// The same until the account nonce is gone at a final block: the keeper calls somebody and sends
/// nothing in its place. The payment goes its way when its log is seen.
#[tokio::test]
async fn a_final_nonce_without_a_receipt_is_not_paid_again() {
    let mut rig = Rig::start("parked", StackOptions::default()).await;
    rig.proxy.add(Rule::new(RECEIPT, Fault::NULL));
    let call = rig.buy();
    pulled(&rig, 1).await;
    eventually("somebody is called", || async {
        rig.daemon.logged().contains("ALARM: the account nonce is gone")
    })
    .await;
    rig.blocks(3).await;
    rig.proxy.heal();
    call.await.unwrap();
    sound(&rig.stack, &rig.database, 1).await;
    assert_eq!(pulls(&rig).await, 1);
}

/// Logs and receipts of a block that was only announced, or is another than the sealed one: others
/// booked effects that the chain then did not have.
#[tokio::test]
async fn what_no_sealed_block_has_does_not_count() {
    let mut rig = Rig::start("sealed", far_from_final()).await;
    let unsealed = Fault::Changed(|params, logs| {
        let inflows = params[0]["topics"][2].is_string();
        for log in logs.as_array_mut().into_iter().flatten().filter(|_| inflows) {
            log["blockHash"] = Value::Null;
            log["blockNumber"] = Value::Null;
        }
    });
    let elsewhere = Fault::Changed(|_, receipt| {
        if receipt.is_object() {
            receipt["blockHash"] = json!(alloy::primitives::B256::repeat_byte(7));
        }
    });
    rig.proxy.add(Rule::new(LOGS, unsealed));
    rig.proxy.add(Rule::new(RECEIPT, elsewhere));
    let call = rig.buy();
    pulled(&rig, 1).await;
    rig.blocks(4).await;
    assert!(rig.proxy.struck(LOGS) > 3 && rig.proxy.struck(RECEIPT) > 3);
    let settlement = settlements(&rig.stack, &rig.database).await.remove(0);
    assert!(!settlement.status.is_paid(), "{}", settlement.status);
    assert_eq!(tally(&rig.database, "transactions", "state").await["broadcast"], 1);
    assert_eq!(rig.stack.provider.calls(), 0);
    rig.proxy.heal();
    call.await.unwrap();
    rig.through().await;
}

/// KMS throttles: what is planned is signed later, once.
#[tokio::test]
async fn a_throttled_kms_delays_and_loses_nothing() {
    let mut rig = Rig::start("throttled", StackOptions::default()).await;
    rig.stack.kms.go_wrong(KmsFault::Throttled(12));
    rig.pay(3).await;
    let (asked, signed) = (rig.stack.kms.asked(), rig.stack.kms.signed());
    assert_eq!(asked, signed + 12, "every refusal was given");
    rig.through().await;
}
