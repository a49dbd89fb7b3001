//! What the reconciler concludes of a payment, on which evidence, and what it never concludes.

use crate::refunds::cli;
use crate::support::{
    Draft, call, chain, eventually, invoke, keeper, on_chain, postgres, send_as, settlement_of,
    smuggle, sound, stack, tally, tamper, through,
};
use alloy::{
    primitives::{Address, B256, U256},
    sol,
};
use keeper::{
    chain::BlockTag,
    ledger::{Action, ActionRecord, Ledger, TraceEvent},
    lifecycle::{KeeperState, Status},
};
use sandbox::{Daemon, Fault, PRICE_MICRO, RpcProxy, Rule, Stack, StackOptions};
use serde_json::{Value, json};

/// Micro-USDC of every test's payer.
const FUNDS: u64 = 1_000_000;

sol! {
    function transfer(address to, uint256 value);
    function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes signature);
}

async fn draft(stack: &Stack) -> Draft {
    Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter)
}

/// A hub that asks its node through a proxy, and a payment that it was served.
async fn paid_behind_a_proxy(name: &str, confirmations: u64) -> (Stack, RpcProxy, Daemon, Draft) {
    let options = StackOptions { confirmations, ..StackOptions::default() };
    let stack = stack(name, options).await;
    let proxy = RpcProxy::start(stack.anvil.url()).await.unwrap();
    let through_proxy = |config: String| config.replace(stack.anvil.url(), proxy.url());
    let mut daemon = stack.spawn(&keeper(), &stack.sqlite(), &[], through_proxy).await.unwrap();
    daemon.ready().await.unwrap();
    let draft = draft(&stack).await;
    let paid = invoke(&daemon.url, &call(name), Some(&draft.header())).await;
    assert_eq!(paid.status, 200, "{paid:?}");
    (stack, proxy, daemon, draft)
}

/// Anybody submits an authorization.
async fn submit(stack: &Stack, draft: &Draft) {
    let authorization = &draft.authorization;
    let pull = transferWithAuthorizationCall {
        from: authorization.from,
        to: authorization.to,
        value: authorization.value,
        validAfter: U256::from(authorization.valid_after),
        validBefore: U256::from(authorization.valid_before),
        nonce: authorization.nonce,
        signature: draft.signature().into(),
    };
    let stranger = stack.anvil.first_account().await.unwrap();
    send_as(stack, stranger, stack.contracts.usdc, pull).await;
}

/// What was stored with the only step of this kind of a payment.
async fn evidence(database: &str, draft: &Draft, kind: &str) -> Value {
    let settlement = settlement_of(database, &draft.authorization).await.unwrap();
    let ledger = Ledger::open_beside(database).await.unwrap();
    let events = ledger.read().await.unwrap().events(settlement.id).await.unwrap();
    let found: Vec<&TraceEvent> = events.iter().filter(|event| event.kind == kind).collect();
    let [event] = found[..] else { panic!("{kind}: {found:?}") };
    serde_json::from_str(&event.body).unwrap()
}

/// Lines of the audit log.
async fn actions(database: &str, action: Action) -> Vec<ActionRecord> {
    let ledger = Ledger::open_beside(database).await.unwrap();
    ledger.read().await.unwrap().actions(action).await.unwrap()
}

/// Waits until a payment is in a status.
async fn becomes(database: &str, draft: &Draft, status: Status) {
    eventually(&format!("it is {status}"), || async {
        settlement_of(database, &draft.authorization).await.is_some_and(|one| one.status == status)
    })
    .await;
}

/// How many transactions the settler has sent.
async fn settled(stack: &Stack) -> u64 {
    chain(stack).transaction_count(stack.settler.1, BlockTag::Latest).await.unwrap()
}

/// Makes a payment older than the ten minutes after which it is orphaned.
async fn age(database: &str) {
    let sql = "UPDATE x402_settlements SET reserved_at = '2020-01-01T00:00:00+00:00'
        WHERE status = 'settle_pending'";
    tamper(database, sql).await.unwrap();
}

/// a payment is confirmed by its receipt, and what that said is stored with the step.
#[tokio::test]
async fn a_payment_is_confirmed_by_its_receipt() {
    let stack = stack("receipt", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let draft = draft(&stack).await;
    let paid = invoke(&daemon.url, &call("receipt-1"), Some(&draft.header())).await;
    assert_eq!(paid.status, 200, "{paid:?}");
    through(&stack, &database, 1).await;
    let known = settlement_of(&database, &draft.authorization).await.unwrap();
    let seen = evidence(&database, &draft, "status.pull_seen").await;
    let confirmed = evidence(&database, &draft, "status.confirm").await;
    let receipt = chain(&stack).receipt(known.pull.unwrap().tx_hash).await.unwrap().unwrap();
    for at in [&seen, &confirmed["at"]] {
        assert_eq!(at["tx_hash"], json!(receipt.transaction_hash), "{at}");
        assert_eq!(at["block_hash"], json!(receipt.block_hash), "{at}");
        assert_eq!(at["block_number"], json!(receipt.block_number()), "{at}");
        assert_eq!(at["log_index"], json!(receipt.logs[1].log_index.unwrap()), "{at}");
    }
    assert_eq!(seen["amount_micro"], json!(PRICE_MICRO));
    assert_eq!(confirmed["amount"], json!(PRICE_MICRO.to_string()));
    assert_eq!(confirmed["nonce"], json!(draft.authorization.nonce));
    assert_eq!(confirmed["payer"], json!(draft.authorization.from));
    assert_eq!(confirmed["success"], json!(true));
}

/// a payment whose receipt the node does not have is not confirmed, however deep it lies.
#[tokio::test]
async fn without_its_receipt_a_payment_is_not_confirmed() {
    let (stack, proxy, _daemon, draft) = paid_behind_a_proxy("no-receipt", 4).await;
    let database = stack.sqlite();
    proxy.add(Rule::new("eth_getTransactionReceipt", Fault::NULL));
    let before = proxy.struck("eth_getTransactionReceipt");
    eventually("it lies deep, and was asked for again and again", || async {
        let pull = settlement_of(&database, &draft.authorization).await.unwrap().pull.unwrap();
        let head = chain(&stack).head(BlockTag::Latest).await.unwrap().number();
        head > pull.block_number + 10 && proxy.struck("eth_getTransactionReceipt") > before + 10
    })
    .await;
    let known = settlement_of(&database, &draft.authorization).await.unwrap();
    assert_eq!(known.status, Status::FacilitatorAttested);
    proxy.heal();
    through(&stack, &database, 1).await;
}

/// R-122, C-33a: only a final block makes a payment `failed`: its authorization was consumed, and
/// nothing came of it. Somebody is told; no refund is due for what never came in.
#[tokio::test]
async fn a_consumed_authorization_fails_at_a_final_block() {
    let stack = stack("consumed", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let draft = draft(&stack).await;
    smuggle(&stack, &database, &draft, false).await;
    // The payer signs the same nonce for somebody else, and that is pulled.
    let stranger = stack.anvil.first_account().await.unwrap();
    let mut elsewhere = Draft::new(&draft.payer, stranger);
    elsewhere.authorization.nonce = draft.authorization.nonce;
    submit(&stack, &elsewhere).await;
    // Used, as the chain says; but its window is open, and nothing is concluded.
    let head = chain(&stack).head(BlockTag::Latest).await.unwrap().number();
    eventually("blocks pass", || async {
        chain(&stack).head(BlockTag::Finalized).await.unwrap().number() > head
    })
    .await;
    let known = settlement_of(&database, &draft.authorization).await.unwrap();
    assert_eq!(known.status, Status::SettlePending);
    stack.anvil.rpc("evm_increaseTime", json!([120])).await.unwrap();
    becomes(&database, &draft, Status::Failed).await;
    let why = evidence(&database, &draft, "status.consumed").await;
    assert_eq!(why["authorization_state"], json!(true), "{why}");
    let number = why["finalized_block"].as_u64().unwrap();
    let block = chain(&stack).head(BlockTag::Number(number)).await.unwrap();
    assert_eq!(why["finalized_hash"], json!(block.hash));
    assert!(block.timestamp() >= draft.authorization.valid_before);
    eventually("somebody is told", || async {
        daemon.logged().contains("ALARM: the authorization was consumed without paying us")
    })
    .await;
    assert!(tally(&database, "deliveries", "state").await.is_empty(), "nothing is refunded");
    assert_eq!(on_chain(&stack, &draft.authorization).await.0, FUNDS - PRICE_MICRO);
}

/// C-33b: no outcome for ten minutes orphans a payment that has no transaction,
/// once and with an alarm. It holds up nobody, is not recorded, and may still be confirmed.
async fn orphan(stack: Stack, database: String) {
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let orphan = draft(&stack).await;
    smuggle(&stack, &database, &orphan, false).await;
    let before = settlement_of(&database, &orphan.authorization).await.unwrap();
    assert!(before.pull.is_none());
    age(&database).await;
    becomes(&database, &orphan, Status::Orphaned).await;
    assert!(daemon.logged().contains("ALARM: no outcome for ten minutes: orphaned"));
    let [line] = &actions(&database, Action::OrphanDetected).await[..] else { panic!("one line") };
    assert_eq!(line.settlement, Some(before.id));

    let other = draft(&stack).await;
    let served = invoke(&daemon.url, &call("orphan-2"), Some(&other.header())).await;
    assert_eq!(served.status, 200, "{served:?}");
    sound(&stack, &database, 1).await;
    assert_eq!(settled(&stack).await, 2, "the other's record and split");
    submit(&stack, &orphan).await;
    sound(&stack, &database, 2).await;
    let after = settlement_of(&database, &orphan.authorization).await.unwrap();
    let states = (after.status, after.keeper_state);
    assert_eq!(states, (Status::ChainConfirmed, KeeperState::Split));
    assert_eq!(actions(&database, Action::OrphanDetected).await.len(), 1, "logged once");
}

///
#[tokio::test]
async fn an_orphan_is_told_of_and_may_still_be_confirmed() {
    let one = stack("orphan", StackOptions::default()).await;
    let database = one.sqlite();
    orphan(one, database).await;
    let other = stack("orphan", StackOptions::default()).await;
    orphan(other, postgres().await).await;
}

/// C-17: a pull of another amount than was agreed is held: never recorded, in suspense,
/// with an alarm and a line in the audit log.
async fn mismatch(stack: Stack, database: String) {
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let mut draft = draft(&stack).await;
    smuggle(&stack, &database, &draft, false).await;
    draft.authorization.value = U256::from(PRICE_MICRO / 10);
    submit(&stack, &draft).await;
    becomes(&database, &draft, Status::Mismatched).await;
    assert!(daemon.logged().contains("ALARM: the pull disagrees"), "{}", daemon.tail());
    let why = evidence(&database, &draft, "status.disagree").await;
    assert_eq!(why["amount_micro"], json!(PRICE_MICRO / 10), "{why}");
    assert!(why["at"]["block_hash"].is_string() && why["at"]["tx_hash"].is_string(), "{why}");
    let [line] = &actions(&database, Action::MismatchFlagged).await[..] else { panic!("one line") };
    let known = settlement_of(&database, &draft.authorization).await.unwrap();
    assert_eq!(line.settlement, Some(known.id));
    eventually("its money is in suspense", || async {
        tally(&database, "journals", "kind").await.contains_key("unattributed_inflow")
    })
    .await;
    assert_eq!((known.keeper_state, settled(&stack).await), (KeeperState::None, 0));
    assert!(tally(&database, "intents", "kind").await.is_empty());
    // Anybody who pays can do that: it is shown, and ledger and chain agree about it.
    eventually("it is shown, and is no difference", || async {
        let told = cli("reconcile", &daemon.config, &stack, &[]).await;
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        told.status.success() && text.contains("was used for another amount")
    })
    .await;
}

///
#[tokio::test]
async fn a_mismatched_payment_is_never_recorded() {
    let one = stack("mismatch", StackOptions::default()).await;
    let database = one.sqlite();
    mismatch(one, database).await;
    let other = stack("mismatch", StackOptions::default()).await;
    mismatch(other, postgres().await).await;
}

/// the receipt that confirms a payment must say what its log said when it was seen.
#[tokio::test]
async fn a_receipt_that_says_something_else_holds_the_payment() {
    let (stack, proxy, daemon, draft) = paid_behind_a_proxy("receipts", 8).await;
    let database = stack.sqlite();
    // From now on every receipt has another sum in its last log.
    let lie = Fault::Changed(|_, receipt| {
        if let Some(log) = receipt["logs"].as_array_mut().and_then(|logs| logs.last_mut()) {
            log["data"] = json!(B256::with_last_byte(1));
        }
    });
    proxy.add(Rule::new("eth_getTransactionReceipt", lie));
    becomes(&database, &draft, Status::Mismatched).await;
    let why = evidence(&database, &draft, "status.disagree").await;
    assert_eq!((&why["amount"], &why["success"]), (&json!("1"), &json!(true)), "{why}");
    assert!(daemon.logged().contains("ALARM: the receipt disagrees with the ledger"));
    assert_eq!(actions(&database, Action::MismatchFlagged).await.len(), 1);
}

/// a service that panics is started again, in the same process, and goes on.
#[tokio::test]
async fn a_service_that_panics_is_restarted() {
    let stack = stack("panics", StackOptions::default()).await;
    let database = stack.sqlite();
    let same = |config: String| config;
    let armed = stack.spawn_armed(&keeper(), &database, "before:confirm:1:panic", same).await;
    let mut daemon = armed.unwrap();
    daemon.ready().await.unwrap();
    let draft = draft(&stack).await;
    let paid = invoke(&daemon.url, &call("panics-1"), Some(&draft.header())).await;
    assert_eq!(paid.status, 200, "{paid:?}");
    through(&stack, &database, 1).await;
    let log = daemon.logged();
    assert_eq!(log.matches("ALARM: service panicked: restarting").count(), 1, "{log}");
    assert_eq!(log.matches("leading").count(), 1, "the lease was kept: {log}");
}

/// money that no payment asked for is mirrored, booked into suspense and told of, and
/// that is all: no alarm, no record, no closure.
async fn dust(stack: Stack, database: String) {
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let stranger: Address = stack.agent(FUNDS).await.unwrap().address();
    let dust = transferCall { to: stack.contracts.splitter, value: U256::from(3) };
    send_as(&stack, stranger, stack.contracts.usdc, dust).await;
    eventually("it is booked", || async {
        tally(&database, "journals", "kind").await.get("unattributed_inflow") == Some(&1)
    })
    .await;
    let whose = "payer || ' ' || amount_micro || ' ' || coalesce(settlement_id, 'nobody''s')";
    let mirrored = tally(&database, "x402_pull_events", whose).await;
    assert_eq!(mirrored, [(format!("{stranger:#x} 3 nobody's"), 1)].into());
    let [line] = &actions(&database, Action::UnattributedBalance).await[..] else {
        panic!("one line")
    };
    assert!(line.settlement.is_none() && line.detail.contains("\"amount_micro\":3"), "{line:?}");
    assert!(daemon.logged().contains("money came in that no payment asked for"));
    sound(&stack, &database, 0).await;
    assert_eq!(settled(&stack).await, 0);
    assert!(tally(&database, "closures", "reason").await.is_empty());
    assert!(!daemon.logged().contains("ALARM"), "{}", daemon.tail());
}

///
#[tokio::test]
async fn dust_is_told_of_and_nothing_more() {
    let one = stack("dust", StackOptions::default()).await;
    let database = one.sqlite();
    dust(one, database).await;
    let other = stack("dust", StackOptions::default()).await;
    dust(other, postgres().await).await;
}
