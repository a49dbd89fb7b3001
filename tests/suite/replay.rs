//! The mirror is the chain's word: what it lacks is read again, what an endpoint keeps to itself is
//! found by asking another, and who cancelled does not wait.

use crate::rig::Rig;
use crate::support::{
    BOOKED, Draft, HERE, call, chain, eventually, invoke, keeper, now, postgres, reconciled,
    settlement_of, settlements, smuggle, sound, stack, tally, tamper, through,
};
use alloy::{
    rpc::types::Filter,
    signers::{SignerSync, local::PrivateKeySigner},
    sol,
    sol_types::{SolCall, SolEvent, SolStruct},
};
use keeper::{
    chain::BlockTag,
    eip3009::{FiatToken, domain},
    ledger::{ClosureReason, Ledger},
    lifecycle::{KeeperState, Status},
    splitter::JecpSplitter,
    x402::Network,
};
use sandbox::{Daemon, Fault, PRICE_MICRO, RpcProxy, Rule, Stack, StackOptions};
use serde_json::{Value, json};
use std::process::Output;

sol! {
    struct CancelAuthorization {
        address authorizer;
        bytes32 nonce;
    }
    function cancelAuthorization(address authorizer, bytes32 nonce, uint8 v, bytes32 r, bytes32 s);
}

/// A node that shows nothing of what came in.
const HIDE_INFLOWS: Fault = Fault::Changed(|params, result| {
    if params[0]["topics"][2].is_string() {
        *result = json!([]);
    }
});

/// A node that shows the payouts of a split, and not the split.
const HIDE_SPLITS: Fault = Fault::Changed(|_, result| {
    let split = JecpSplitter::PaymentSplit::SIGNATURE_HASH.to_string();
    if let Some(logs) = result.as_array_mut() {
        logs.retain(|log| log["topics"][0] != split);
    }
});

/// Somebody gives the Splitter so much, unasked; the place of that log.
async fn donate(stack: &Stack, micro: u64) -> (String, u64) {
    let splitter = stack.contracts.splitter;
    let node = chain(stack);
    let before = node.head(BlockTag::Latest).await.unwrap().number();
    stack.contracts.mint(&stack.anvil, splitter, micro).await.unwrap();
    let filter = Filter::new()
        .address(stack.contracts.usdc)
        .event_signature(FiatToken::Transfer::SIGNATURE_HASH)
        .topic2(splitter);
    let head = node.head(BlockTag::Latest).await.unwrap().number();
    let log = node.logs(&filter, before + 1, head).await.unwrap().remove(0);
    (log.transaction_hash.unwrap().to_string(), log.log_index.unwrap())
}

/// Buries what is there deeper than the window that is read again by itself.
async fn bury(stack: &Stack, database: &str) {
    stack.anvil.rpc("anvil_mine", json!(["0x28", "0x0"])).await.unwrap();
    let head = chain(stack).head(BlockTag::Latest).await.unwrap().number();
    eventually("the mirror is there", || async { cursor(database, "mirror").await > head }).await;
}

/// The next block of a stream.
async fn cursor(database: &str, stream: &str) -> u64 {
    let table = format!("cursors WHERE stream = '{stream}'");
    let found = tally(database, &table, "CAST(next_block AS TEXT)").await;
    found.keys().next().map_or(0, |next| next.parse().unwrap())
}

/// Runs `keeper replay` with a daemon's configuration.
async fn replay(daemon: &Daemon, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(keeper());
    command.args(["replay", "--json", "--config"]).arg(&daemon.config).args(arguments);
    command.output().await.unwrap()
}

fn told(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{error}"))
}

/// How often each kind of log is booked.
async fn booked(database: &str) -> std::collections::BTreeMap<String, i64> {
    tally(database, BOOKED, "kind").await
}

/// a log that was ingested is not ingested twice, whoever asks for it; one that the
/// mirror has lost is put back where it was, and booked once.
async fn a_log_is_ingested_once(stack: &Stack, database: &str) {
    let daemon = stack.daemon(&keeper(), database).await.unwrap();
    let draft = Draft::new(&stack.agent(PRICE_MICRO).await.unwrap(), stack.contracts.splitter);
    let paid = invoke(&daemon.url, &call("replay-1"), Some(&draft.header())).await;
    assert_eq!(paid.status, 200, "{paid:?}");
    through(stack, database, 1).await;
    let (gift, gift_index) = donate(stack, 7).await;
    eventually("it is in suspense", || async {
        booked(database).await.get("unattributed_inflow") == Some(&1)
    })
    .await;
    bury(stack, database).await;

    let pull = settlements(stack, database).await[0].pull.unwrap();
    let index = pull.log_index.to_string();
    for _ in 0..2 {
        let output =
            replay(&daemon, &["--tx", &pull.tx_hash.to_string(), "--log-index", &index]).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let told = told(&output);
        assert_eq!(told["outcome"], "already ingested: nothing to do");
        assert_eq!(
            (&told["status"], &told["keeper_state"], &told["booked"], &told["mirrored"]),
            (&json!("chain_confirmed"), &json!("split"), &json!(["pull"]), &json!(true))
        );
        assert!(String::from_utf8_lossy(&output.stderr).contains("x402.keeper.duplicate_ignored"));
    }
    let actions = tally(database, "audit_log", "action").await;
    assert_eq!(actions.get("x402.replay_skipped"), Some(&1), "once per payment");

    for table in ["x402_pull_events", "payout_events"] {
        tamper(database, &format!("DELETE FROM {table}")).await.unwrap();
    }
    let range = format!("{}", pull.block_number);
    let gift_index = gift_index.to_string();
    let output = replay(&daemon, &["--tx", &gift, "--log-index", &gift_index]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(told(&output)["outcome"], "logs added: 1, removed: 0");
    eventually("it is booked again", || async {
        let output = replay(&daemon, &["--tx", &gift, "--log-index", &gift_index]).await;
        told(&output)["booked"] == json!(["unattributed_inflow"])
    })
    .await;
    let end = cursor(database, "mirror").await.to_string();
    let output = replay(&daemon, &["--from", &range, "--to", &end]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(told(&output)["outcome"], "logs added: 4, removed: 0", "a pull and three shares");
    let output = replay(&daemon, &["--from", "0", "--to", &end]).await;
    assert_eq!(told(&output)["outcome"], "nothing new");
    eventually("the daemon has counted it", || async {
        let text = reqwest::get(format!("{}/metrics", daemon.url)).await.unwrap();
        text.text().await.unwrap().contains("x402_replay_skipped_total 1")
    })
    .await;

    eventually("the journal has looked again", || async {
        let head = chain(stack).head(BlockTag::Latest).await.unwrap().number();
        cursor(database, "journal").await + 5 > head
    })
    .await;
    let journals = booked(database).await;
    assert_eq!((journals["pull"], journals["unattributed_inflow"]), (1, 1), "booked once");
    eventually("everything agrees", || async { reconciled(stack, database).await.is_sound() })
        .await;
    let settlement = settlements(stack, database).await.remove(0);
    assert_eq!(
        (settlement.status, settlement.keeper_state),
        (Status::ChainConfirmed, KeeperState::Split)
    );
    assert!(daemon.logged().contains("one rpc endpoint: what it says of final blocks"));

    let output = replay(&daemon, &["--tx", &gift, "--log-index", "99"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    for arguments in [&["--tx", &gift][..], &["--from", "2", "--to", "1"], &[]] {
        assert_eq!(replay(&daemon, arguments).await.status.code(), Some(2), "{arguments:?}");
    }
}

///
#[tokio::test]
async fn a_log_is_ingested_once_whoever_asks() {
    let stack = stack("replay", StackOptions::default()).await;
    a_log_is_ingested_once(&stack, &stack.sqlite()).await;
}

///
#[tokio::test]
async fn a_log_is_ingested_once_whoever_asks_on_postgres() {
    let stack = stack("replay-pg", StackOptions::default()).await;
    a_log_is_ingested_once(&stack, &postgres().await).await;
}

/// money that nobody signed for is mirrored and booked into suspense, whoever sends it;
/// it is never recorded, nobody is called, and the books stay sound.
#[tokio::test]
async fn money_that_nobody_signed_for_is_never_recorded() {
    let stack = stack("dust", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    donate(&stack, 1).await;
    donate(&stack, 2 * PRICE_MICRO).await;
    eventually("it is in suspense", || async {
        booked(&database).await.get("unattributed_inflow") == Some(&2)
    })
    .await;
    let pulls = tally(&database, "x402_pull_events", "coalesce(settlement_id, 'none')").await;
    assert_eq!(pulls.get("none"), Some(&2), "{pulls:?}");
    bury(&stack, &database).await;
    eventually("everything agrees", || async { reconciled(&stack, &database).await.is_sound() })
        .await;
    assert!(tally(&database, "intents", "kind").await.is_empty(), "nothing is asked for");
    let settler = chain(&stack).transaction_count(stack.settler.1, BlockTag::Latest).await.unwrap();
    assert_eq!(settler, 0, "nothing is recorded");
    assert!(!daemon.logged().contains("ALARM"), "{}", daemon.tail());
}

async fn cancel(stack: &Stack, payer: &PrivateKeySigner, draft: &Draft) {
    let (authorizer, nonce) = (payer.address(), draft.authorization.nonce);
    let domain = domain(&Network::BaseSepolia.usdc(), 84_532);
    let hash = CancelAuthorization { authorizer, nonce }.eip712_signing_hash(&domain);
    let signature = payer.sign_hash_sync(&hash).unwrap();
    let input = cancelAuthorizationCall {
        authorizer,
        nonce,
        v: 27 + u8::from(signature.v()),
        r: signature.r().into(),
        s: signature.s().into(),
    };
    let anybody = stack.anvil.first_account().await.unwrap();
    stack.anvil.send(anybody, stack.contracts.usdc, &input.abi_encode().into()).await.unwrap();
}

/// A payer who cancelled does not hold his reservation until its window closes: the token's own log
/// ends it as soon as that is final, and is the evidence.
async fn who_cancelled_is_let_go(stack: &Stack, database: &str) {
    let _daemon = stack.daemon(&keeper(), database).await.unwrap();
    let payer = stack.agent(PRICE_MICRO).await.unwrap();
    let mut draft = Draft::new(&payer, stack.contracts.splitter);
    draft.authorization.valid_before = now() + 600;
    cancel(stack, &payer, &draft).await;
    smuggle(stack, database, &draft, true).await;
    eventually("it is over", || async {
        let settlement = settlement_of(database, &draft.authorization).await.unwrap();
        settlement.status == Status::Failed
    })
    .await;
    assert!(now() < draft.authorization.valid_before, "long before its window");
    assert_eq!(tally(database, "intents", "state").await.get("cancelled"), Some(&1));
    let ended = "settlement_events WHERE kind = 'status.consumed'";
    let evidence = tally(database, ended, "CAST(body AS TEXT)").await;
    let evidence: Value = serde_json::from_str(evidence.keys().next().unwrap()).unwrap();
    assert!(evidence["cancelled"]["tx_hash"].is_string(), "{evidence}");
    let sent = chain(stack).transaction_count(stack.puller.1, BlockTag::Latest).await.unwrap();
    assert_eq!(sent, 0, "nothing was sent for it");
}

#[tokio::test]
async fn who_cancelled_does_not_wait_for_the_window() {
    let stack = stack("cancelled", StackOptions::default()).await;
    who_cancelled_is_let_go(&stack, &stack.sqlite()).await;
}

#[tokio::test]
async fn who_cancelled_does_not_wait_for_the_window_on_postgres() {
    let stack = stack("cancelled-pg", StackOptions::default()).await;
    who_cancelled_is_let_go(&stack, &postgres().await).await;
}

/// The second endpoint leaves out an inflow that is final: nothing is sold until somebody has looked,
/// and what is final is compared on from there.
#[tokio::test]
async fn an_endpoint_that_keeps_a_payment_to_itself_is_found_out() {
    let stack = stack("sources", StackOptions::default()).await;
    let database = stack.sqlite();
    let proxy = RpcProxy::start(stack.anvil.url()).await.unwrap();
    let node = format!("\"{}\"", stack.anvil.url());
    let both = format!("{node}, \"{}\"", proxy.url());
    let change = |config: String| config.replace(&node, &both);
    let mut daemon = stack.spawn(&keeper(), &database, &[], change).await.unwrap();
    daemon.ready().await.unwrap();
    eventually("what is final is compared", || async { cursor(&database, "verified").await > 3 })
        .await;
    proxy.add(Rule::new("eth_getLogs", HIDE_INFLOWS));
    donate(&stack, 7).await;
    let closures = || async {
        let ledger = Ledger::open_beside(&database).await.unwrap();
        let mut tx = ledger.read().await.unwrap();
        tx.closures(84_532, stack.contracts.splitter).await.unwrap()
    };
    eventually("it is closed", || async { !closures().await.is_empty() }).await;
    let closure = closures().await.remove(0);
    assert_eq!(closure.reason, ClosureReason::SourcesDiffer);
    let endpoint = proxy.url().trim_start_matches("http://");
    let words = format!("{endpoint} and the mirror differ in inflows");
    assert!(closure.detail.contains(&words), "{}", closure.detail);
    assert!(daemon.logged().contains("ALARM: two endpoints disagree"), "{}", daemon.tail());
    assert_eq!(tally(&database, "audit_log", "action").await.get("x402.closed"), Some(&1));
    let stuck = cursor(&database, "verified").await;

    proxy.heal();
    let ledger = Ledger::open_beside(&database).await.unwrap();
    let mut tx = ledger.begin().await.unwrap();
    let (splitter, reason) = (stack.contracts.splitter, ClosureReason::SourcesDiffer);
    assert!(tx.lift(84_532, splitter, reason, "the proxy is healed").await.unwrap());
    tx.commit(HERE).await.unwrap();
    eventually("it is compared on", || async { cursor(&database, "verified").await > stuck }).await;
    assert!(closures().await.is_empty());
}

/// A node that keeps an inflow to itself although its block stands: reading again changes nothing, and
/// whoever asked for it is told.
#[tokio::test]
async fn a_log_that_a_node_keeps_to_itself_stays() {
    let mut rig = Rig::start("hides", StackOptions::default()).await;
    rig.pay(1).await;
    rig.through().await;
    bury(&rig.stack, &rig.database).await;
    rig.proxy.add(Rule::new("eth_getLogs", HIDE_INFLOWS));
    let pull = settlements(&rig.stack, &rig.database).await[0].pull.unwrap();
    // The mirror has lost it, too; the payment's own evidence is left.
    tamper(&rig.database, "DELETE FROM x402_pull_events").await.unwrap();
    let block = pull.block_number.to_string();
    let output = replay(&rig.daemon, &["--from", &block, "--to", &block]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the node contradicts itself, nothing was changed"), "{said}");
    assert_eq!(settlements(&rig.stack, &rig.database).await[0].pull, Some(pull));
    rig.proxy.heal();
    let output = replay(&rig.daemon, &["--from", &block, "--to", &block]).await;
    assert_eq!(told(&output)["outcome"], "logs added: 1, removed: 0");
    // The books that lack it were noticed, and are whole again.
    sound(&rig.stack, &rig.database, 1).await;
}

/// A split that the mirror gets when its payouts are booked already, as what nobody can explain: they
/// are taken back, and all of it is booked in its order.
#[tokio::test]
async fn a_split_that_is_found_after_its_payouts_is_booked_before_them() {
    let mut rig = Rig::start("late-split", StackOptions::default()).await;
    rig.proxy.add(Rule::new("eth_getLogs", HIDE_SPLITS));
    rig.pay(1).await;
    eventually("its payouts are in suspense", || async {
        booked(&rig.database).await.get("unexplained") == Some(&3)
    })
    .await;
    bury(&rig.stack, &rig.database).await;
    rig.proxy.heal();
    let end = cursor(&rig.database, "mirror").await.to_string();
    let output = replay(&rig.daemon, &["--from", "0", "--to", &end]).await;
    assert_eq!(told(&output)["outcome"], "logs added: 1, removed: 0");
    eventually("everything agrees", || async {
        reconciled(&rig.stack, &rig.database).await.is_sound()
    })
    .await;
    let journals = booked(&rig.database).await;
    assert_eq!((journals["split"], journals["payout"]), (1, 3));
    assert_eq!(tally(&rig.database, "journals", "kind").await["reversal"], 3);
    assert_eq!(settlements(&rig.stack, &rig.database).await[0].keeper_state, KeeperState::Split);
}
