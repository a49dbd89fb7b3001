//! Hints: they change when the chain is looked at, and nothing that is booked.

use crate::support::{
    Draft, call, chain, eventually, invoke, keeper, on_chain, settlement_of, stack, tally, through,
};
use keeper::{
    chain::BlockTag,
    ledger::{Ledger, Stream},
    lifecycle::Status,
};
use sandbox::{AnvilOptions, Daemon, ScriptedRpc, Stack, StackOptions};
use serde_json::{Value, json};

/// Micro-USDC of every test's payer.
const FUNDS: u64 = 1_000_000;

/// A preconfirmation endpoint that says of every transaction that it is mined and succeeded.
async fn liar() -> ScriptedRpc {
    let receipt = |method: &str, params: &Value| match method {
        "eth_getTransactionReceipt" => json!({"result": {
            "transactionHash": params[0], "status": "0x1", "blockNumber": "0x1",
            "blockHash": params[0], "gasUsed": "0x1", "effectiveGasPrice": "0x1", "logs": [],
        }}),
        _ => json!({"error": {"code": -32_601, "message": "only receipts"}}),
    };
    ScriptedRpc::start(receipt).await.unwrap()
}

/// A daemon with both hints.
async fn daemon(stack: &Stack, database: &str, preconfirmations: &str) -> Daemon {
    let hints = format!(
        "[chain.hints]\nsend_sync = true\npreconfirmations = \"{preconfirmations}\"\n\n[[splitter]]"
    );
    let with_hints = |config: String| config.replacen("[[splitter]]", &hints, 1);
    let mut daemon = stack.spawn(&keeper(), database, &[], with_hints).await.unwrap();
    daemon.ready().await.unwrap();
    daemon
}

/// With the hints on, payments go through once each, by what the sealed blocks say.
#[tokio::test]
async fn with_hints_a_payment_goes_through_once() {
    let stack = stack("hints", StackOptions::default()).await;
    let database = stack.sqlite();
    // Anvil shows receipts of sealed blocks only; as an endpoint for hints that is good enough.
    let daemon = daemon(&stack, &database, stack.anvil.url()).await;
    let payer = stack.agent(FUNDS).await.unwrap();
    for id in ["hints-1", "hints-2"] {
        let draft = Draft::new(&payer, stack.contracts.splitter);
        let paid = invoke(&daemon.url, &call(id), Some(&draft.header())).await;
        assert_eq!(paid.status, 200, "{paid:?}");
        let pull = settlement_of(&database, &draft.authorization).await.unwrap().pull.unwrap();
        let sealed = chain(&stack).head(BlockTag::Number(pull.block_number)).await.unwrap();
        assert_eq!(sealed.hash, pull.block_hash);
    }
    through(&stack, &database, 2).await;
    assert!(daemon.logged().contains("a node says that it is included"), "{}", daemon.tail());
    assert!(daemon.logged().contains("preconfirmed"), "{}", daemon.tail());
}

/// An endpoint swears that everything is mined: as long as it is not on the chain, nothing is served
/// and nothing is booked.
#[tokio::test]
async fn a_preconfirmation_is_no_evidence() {
    let anvil = AnvilOptions { block_time: None, ..AnvilOptions::default() };
    let options = StackOptions { anvil, settle_timeout: "3s", ..StackOptions::default() };
    let stack = stack("liar", options).await;
    let database = stack.sqlite();
    let liar = liar().await;
    let daemon = daemon(&stack, &database, liar.url()).await;
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
    let pending = invoke(&daemon.url, &call("liar-1"), Some(&draft.header())).await;
    assert_eq!(pending.status, 503, "{pending:?}");
    eventually("it has lied", || async { daemon.logged().contains("preconfirmed") }).await;
    // Blocks go by, without the transaction.
    stack.anvil.rpc("anvil_setNextBlockBaseFeePerGas", json!(["0x12a05f200"])).await.unwrap();
    stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
    let head = chain(&stack).head(BlockTag::Latest).await.unwrap().number();
    eventually("that block is mirrored", || async {
        let ledger = Ledger::open_beside(&database).await.unwrap();
        let mut tx = ledger.read().await.unwrap();
        let next = tx.cursor(84_532, stack.contracts.splitter, Stream::Mirror).await.unwrap();
        next.is_some_and(|next| next > head)
    })
    .await;
    assert_eq!(on_chain(&stack, &draft.authorization).await, (FUNDS, false));
    let settlement = settlement_of(&database, &draft.authorization).await.unwrap();
    assert_eq!((settlement.status, settlement.pull), (Status::SettlePending, None));
    assert!(tally(&database, "journals", "kind").await.is_empty());
    let mined = tally(&database, "transactions", "state").await;
    assert_eq!(mined.keys().collect::<Vec<_>>(), ["broadcast"], "{mined:?}");
    assert_eq!(stack.provider.calls(), 0);

    stack.anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
    eventually("it is served", || async {
        invoke(&daemon.url, &call("liar-1"), Some(&draft.header())).await.status == 200
    })
    .await;
    through(&stack, &database, 1).await;
}
