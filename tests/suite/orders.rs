//! `keeper tx`: what an operator sees of the outbox, and can do about it.

use crate::support::{
    Draft, call, chain, command, eventually, invoke, keeper, now, on_chain, settlement_of,
    settlements, sound, stack, tally, through,
};
use alloy::primitives::B256;
use keeper::{
    chain::BlockTag,
    lifecycle::{KeeperState, Status},
};
use sandbox::{AnvilOptions, Daemon, PRICE_MICRO, Stack, StackOptions};
use serde_json::{Value, json};

/// Micro-USDC of every test's payer.
const FUNDS: u64 = 1_000_000;

/// A hub whose blocks are mined by hand, with a pull in the node's pool.
async fn with_a_pull_in_the_pool(name: &str) -> (Stack, Daemon, Draft) {
    let anvil = AnvilOptions { block_time: None, ..AnvilOptions::default() };
    let options = StackOptions { anvil, settle_timeout: "1s", ..StackOptions::default() };
    let stack = stack(name, options).await;
    let daemon = stack.daemon(&keeper(), &stack.sqlite()).await.unwrap();
    let mut draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    draft.authorization.valid_before = now() + 600;
    stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
    let pending = invoke(&daemon.url, &call(name), Some(&draft.header())).await;
    assert!(pending.body["error"]["details"]["tx_hash"].is_string(), "{pending:?}");
    (stack, daemon, draft)
}

/// Runs a command that must succeed.
async fn run(daemon: &Daemon, stack: &Stack, arguments: &[&str]) -> String {
    let output = command(&daemon.config, stack, arguments).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What is in the node's pool of the puller, by account nonce.
async fn pooled(stack: &Stack) -> Value {
    let pool = stack.anvil.rpc("txpool_content", json!([])).await.unwrap();
    let puller = format!("{:#x}", stack.puller.1);
    let of = pool["pending"].as_object().unwrap();
    of.iter()
        .find(|(sender, _)| sender.to_lowercase() == puller)
        .map_or(Value::Null, |(_, transactions)| transactions.clone())
}

/// Listed and shown, handed over again when the node has lost it, and paid more for.
#[tokio::test]
async fn a_stuck_transaction_is_shown_sent_again_and_paid_more_for() {
    let (stack, daemon, _) = with_a_pull_in_the_pool("stuck").await;
    let database = stack.sqlite();
    let listed: Value =
        serde_json::from_str(&run(&daemon, &stack, &["list", "--json"]).await).unwrap();
    let puller = listed.as_array().unwrap().iter().find(|one| one["role"] == "puller").unwrap();
    let transaction = &puller["transactions"][0];
    assert_eq!(transaction["kind"], "pull");
    assert_eq!(transaction["attempts"].as_array().unwrap().len(), 1);
    let hash: B256 = serde_json::from_value(transaction["attempts"][0]["hash"].clone()).unwrap();
    let shown = run(&daemon, &stack, &["show", "0", "--signer", "puller"]).await;
    assert!(shown.contains(&hash.to_string()), "{shown}");
    let table = run(&daemon, &stack, &["list"]).await;
    assert!(table.contains("puller") && table.contains("pull of"), "{table}");

    stack.anvil.rpc("anvil_dropTransaction", json!([hash])).await.unwrap();
    assert!(pooled(&stack).await.is_null());
    let order = ["rebroadcast", "0", "--signer", "puller", "--reason", "the node lost it"];
    run(&daemon, &stack, &order).await;
    assert_eq!(pooled(&stack).await["0"]["hash"], json!(hash), "the same bytes");

    let order = ["bump", "0", "--signer", "puller", "--reason", "it takes too long"];
    run(&daemon, &stack, &order).await;
    assert_ne!(pooled(&stack).await["0"]["hash"], json!(hash), "replaced");
    assert_eq!(tally(&database, "attempts", "kind").await.get("bump"), Some(&1));
    stack.anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
    through(&stack, &database, 1).await;
    let late = ["bump", "0", "--signer", "puller", "--reason", "too late"];
    let late = command(&daemon.config, &stack, &late).await;
    assert_eq!(late.status.code(), Some(1), "{late:?}");
}

/// A cancelled pull is given up: a no-op takes its account nonce, the payer keeps the money, and
/// the next payment goes through.
#[tokio::test]
async fn a_cancelled_pull_leaves_the_money_where_it_is() {
    let (stack, daemon, draft) = with_a_pull_in_the_pool("cancelled").await;
    let database = stack.sqlite();
    let order = ["cancel", "0", "--signer", "puller", "--reason", "by mistake"];
    run(&daemon, &stack, &order).await;
    stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
    assert_eq!(on_chain(&stack, &draft.authorization).await, (FUNDS, false));
    stack.anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
    eventually("its work is given up", || async {
        tally(&database, "intents", "state").await.get("cancelled") == Some(&1)
    })
    .await;
    let next = Draft::new(&draft.payer, stack.contracts.splitter);
    eventually("the next one is served", || async {
        invoke(&daemon.url, &call("next"), Some(&next.header())).await.status == 200
    })
    .await;
    sound(&stack, &database, 1).await;
    assert_eq!(on_chain(&stack, &draft.authorization).await.0, FUNDS - PRICE_MICRO);
}

/// Somebody else sends with our key, and takes an account nonce that we gave to a record: it is
/// parked, an operator shows what took it, and the record gets another account nonce.
#[tokio::test]
async fn a_parked_record_is_resolved_by_what_took_its_account_nonce() {
    let anvil = AnvilOptions { block_time: None, ..AnvilOptions::default() };
    let options = StackOptions { anvil, settle_timeout: "1s", ..StackOptions::default() };
    let stack = stack("parked", options).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let mut draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    draft.authorization.valid_before = now() + 600;
    stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
    invoke(&daemon.url, &call("parked"), Some(&draft.header())).await;
    stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
    let settler = stack.settler.1;
    eventually("its record is in the pool", || async {
        let pending = BlockTag::Pending;
        chain(&stack).transaction_count(settler, pending).await.unwrap() == 1
    })
    .await;
    // The thief is faster, with another transaction at that account nonce.
    stack.anvil.rpc("anvil_dropAllTransactions", json!([])).await.unwrap();
    stack.anvil.rpc("anvil_impersonateAccount", json!([settler])).await.unwrap();
    let theft = json!({"from": settler, "to": settler, "value": "0x1", "nonce": "0x0"});
    let taker = stack.anvil.rpc("eth_sendTransaction", json!([theft])).await.unwrap();
    stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
    stack.anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
    eventually("it is parked", || async { daemon.logged().contains("the transaction is parked") })
        .await;
    eventually("and the payment held", || async {
        settlements(&stack, &database).await[0].keeper_state == KeeperState::Held
    })
    .await;
    let payment = settlements(&stack, &database).await[0].id.to_string();
    let early = ["release", payment.as_str(), "--reason", "too early"];
    let early = command(&daemon.config, &stack, &early).await;
    assert!(String::from_utf8_lossy(&early.stderr).contains("resolve that first"), "{early:?}");

    let pull = settlement_of(&database, &draft.authorization).await.unwrap().pull.unwrap();
    let wrong = pull.tx_hash.to_string();
    let wrong = ["resolve", "0", "--tx-hash", wrong.as_str(), "--reason", "a guess"];
    let wrong = command(&daemon.config, &stack, &wrong).await;
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("refused"), "{wrong:?}");
    let taker = taker.as_str().unwrap();
    run(&daemon, &stack, &["resolve", "0", "--tx-hash", taker, "--reason", "the thief's"]).await;
    run(&daemon, &stack, &["release", payment.as_str(), "--reason", "key rotated"]).await;
    sound(&stack, &database, 1).await;
    let settlement = settlement_of(&database, &draft.authorization).await.unwrap();
    assert_eq!(
        (settlement.status, settlement.keeper_state),
        (Status::ChainConfirmed, KeeperState::Split)
    );
}

/// A cancelled record gets another account nonce once the no-op in its place is final, and is made
/// once.
#[tokio::test]
async fn a_cancelled_record_is_made_with_another_account_nonce() {
    let (stack, daemon, draft) = with_a_pull_in_the_pool("again").await;
    let database = stack.sqlite();
    stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
    eventually("its record is in the pool", || async {
        let pending = BlockTag::Pending;
        chain(&stack).transaction_count(stack.settler.1, pending).await.unwrap() == 1
    })
    .await;
    run(&daemon, &stack, &["cancel", "0", "--reason", "to see it"]).await;
    stack.anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
    sound(&stack, &database, 1).await;
    let settlement = settlement_of(&database, &draft.authorization).await.unwrap();
    let record = settlement.record.unwrap().tx_hash;
    let record = chain(&stack).transaction(record).await.unwrap().unwrap();
    assert_eq!(record.account_nonce(), 1);
    let settled = BlockTag::Latest;
    let settled = chain(&stack).transaction_count(stack.settler.1, settled).await.unwrap();
    assert_eq!(settled, 3, "the no-op, the record, the split");
    let newest = run(&daemon, &stack, &["list", "--newest", "3", "--json"]).await;
    assert!(newest.contains("\"superseded\"") && newest.contains("\"noop\""), "{newest}");
}
