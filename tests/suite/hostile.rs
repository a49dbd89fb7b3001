//! What strangers, payers and providers can do to a hub, and that it costs nobody but themselves.

use crate::support::{
    Draft, call, chain, encode, eventually, invoke, keeper, now, on_chain, send_as, settlement_of,
    settlements, smuggle, sound, stack, tally, tamper, through,
};
use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    signers::SignerSync,
    sol,
    sol_types::{SolCall, SolStruct},
};
use keeper::{
    chain::BlockTag,
    eip3009::domain,
    lifecycle::{KeeperState, Status},
    splitter::{JecpSplitter, capability_id},
    x402::Network,
};
use sandbox::{AnvilOptions, PRICE_MICRO, Stack, StackOptions};
use serde_json::json;

/// Micro-USDC of every test's payer.
const FUNDS: u64 = 1_000_000;
/// Confirmations after which a test is long over.
const LATE: u64 = 200;

sol! {
    struct CancelAuthorization {
        address authorizer;
        bytes32 nonce;
    }

    function cancelAuthorization(address authorizer, bytes32 nonce, bytes signature);
    function blacklist(address account);
    function unBlacklist(address account);
    function transfer(address to, uint256 value);
    function transferFrom(address from, address to, uint256 value);
    function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes signature);
}

/// The pull of a draft as anybody can submit it.
fn pull(draft: &Draft) -> transferWithAuthorizationCall {
    let authorization = &draft.authorization;
    transferWithAuthorizationCall {
        from: authorization.from,
        to: authorization.to,
        value: authorization.value,
        validAfter: U256::from(authorization.valid_after),
        validBefore: U256::from(authorization.valid_before),
        nonce: authorization.nonce,
        signature: draft.signature().into(),
    }
}

/// Pays for a call of the daemon at `url` and asserts that it is served.
async fn pay(stack: &Stack, url: &str, id: &str) -> Draft {
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let answer = invoke(url, &call(id), Some(&draft.header())).await;
    assert_eq!(answer.status, 200, "{id}: {answer:?}");
    draft
}

/// What an account has, micro-USDC.
async fn balance(stack: &Stack, account: Address) -> U256 {
    let call = keeper::eip3009::FiatToken::balanceOfCall { account };
    chain(stack).call(stack.contracts.usdc, &call, BlockTag::Latest).await.unwrap()
}

// ------------------------------------------------------------------------------ the Splitter's logs

/// Transfers of nothing, which cost nothing but gas, donations, and splits by strangers: the books
/// go on and agree.
#[tokio::test]
async fn noise_at_the_splitter_stops_nothing() {
    let stack = stack("noise", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let (usdc, splitter) = (stack.contracts.usdc, stack.contracts.splitter);
    let stranger = stack.agent(FUNDS).await.unwrap().address();
    send_as(&stack, stranger, usdc, transferCall { to: splitter, value: U256::ZERO }).await;
    let nothing = transferFromCall { from: splitter, to: stranger, value: U256::ZERO };
    send_as(&stack, stranger, usdc, nothing).await;
    send_as(&stack, stranger, usdc, transferCall { to: splitter, value: U256::from(5) }).await;

    pay(&stack, &daemon.url, "noise-1").await;
    // A stranger splits whenever something is recorded, in the same block if he can.
    let split =
        JecpSplitter::splitForCall { capabilityId: capability_id("demo", "echo"), payer: stranger };
    let meddling = {
        let (url, input) = (stack.anvil.url().to_owned(), Bytes::from(split.abi_encode()));
        tokio::spawn(async move {
            let client = reqwest::Client::new();
            loop {
                let transaction =
                    json!({"from": stranger, "to": splitter, "input": input, "gas": "0x493e0"});
                let request = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_sendTransaction", "params": [transaction]});
                let _ = client.post(&url).json(&request).send().await;
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            }
        })
    };
    for id in ["noise-2", "noise-3", "noise-4"] {
        pay(&stack, &daemon.url, id).await;
    }
    sound(&stack, &database, 4).await;
    meddling.abort();
    let journals = tally(&database, "journals", "kind").await;
    assert_eq!(journals.get("unattributed_inflow"), Some(&1), "the donation: {journals:?}");
    assert_eq!((journals["pull"], journals["record"]), (4, 4));
    assert_eq!(journals.get("unexplained"), None);
    assert_eq!(balance(&stack, splitter).await, U256::from(5), "the donation stays");
}

/// Hours without a payment: more blocks than are booked at once.
#[tokio::test]
async fn a_quiet_time_does_not_stop_the_books() {
    let stack = stack("quiet", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    pay(&stack, &daemon.url, "quiet-1").await;
    stack.anvil.rpc("anvil_mine", json!(["0x960", "0x0"])).await.unwrap();
    let mut draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let head = chain(&stack).head(BlockTag::Latest).await.unwrap();
    draft.authorization.valid_before = head.timestamp() + 120;
    eventually("it sells again", || async {
        invoke(&daemon.url, &call("quiet-2"), Some(&draft.header())).await.status == 200
    })
    .await;
    through(&stack, &database, 2).await;
}

/// A provider whom the token bars gets his share into escrow, and out of it when he may.
#[tokio::test]
async fn escrow_is_booked_in_and_out() {
    let stack = stack("escrow", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let admin = stack.anvil.first_account().await.unwrap();
    let (usdc, account) = (stack.contracts.usdc, stack.provider_account);
    send_as(&stack, admin, usdc, blacklistCall { account }).await;
    pay(&stack, &daemon.url, "escrow-1").await;
    through(&stack, &database, 1).await;
    assert_eq!(tally(&database, "journals", "kind").await.get("escrow"), Some(&1));
    assert_eq!(balance(&stack, account).await, U256::ZERO);

    send_as(&stack, admin, usdc, unBlacklistCall { account }).await;
    send_as(&stack, account, stack.contracts.splitter, JecpSplitter::withdrawCall {}).await;
    eventually("the withdrawal is booked", || async {
        tally(&database, "journals", "kind").await.contains_key("withdrawal")
    })
    .await;
    sound(&stack, &database, 1).await;
    assert_eq!(balance(&stack, account).await, U256::from(170_000));
}

/// The settler's key alone can record; what it records past the ledger is shown, not hidden.
#[tokio::test]
async fn a_record_past_the_ledger_shows() {
    let stack = stack("past", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let (usdc, splitter) = (stack.contracts.usdc, stack.contracts.splitter);
    let donor = stack.agent(FUNDS).await.unwrap().address();
    send_as(&stack, donor, usdc, transferCall { to: splitter, value: U256::from(7) }).await;
    pay(&stack, &daemon.url, "past-1").await;
    through(&stack, &database, 1).await;
    drop(daemon);

    let record = JecpSplitter::recordSettlementCall {
        capabilityId: capability_id("demo", "echo"),
        amount: U256::from(7),
    };
    send_as(&stack, stack.settler.1, splitter, record).await;
    let daemon = stack.spawn(&keeper(), &database, &[], |config| config).await.unwrap();
    // One transaction of the key is not the ledger's: nothing is signed before its fate is known.
    eventually("its fate is known", || async { daemon.logged().contains("quarantine is over") })
        .await;
    assert!(daemon.logged().contains("another program uses the key: quarantine"));
    let report = crate::support::reconciled(&stack, &database).await;
    assert!(!report.is_sound());
    // And what is sold next would be recorded into doubt: the Splitter is closed (drift.rs).
    eventually("it is closed for drift", || async {
        tally(&database, "closures", "reason").await.contains_key("drift")
    })
    .await;
}

// ------------------------------------------------------------------------------ payers

/// Cancelled by the payer: looks used, is refused, and no transaction is named.
#[tokio::test]
async fn a_cancelled_authorization_is_refused() {
    let stack = stack("cancel", StackOptions::default()).await;
    let daemon = stack.daemon(&keeper(), &stack.sqlite()).await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let (authorizer, nonce) = (draft.authorization.from, draft.authorization.nonce);
    let hash = CancelAuthorization { authorizer, nonce }
        .eip712_signing_hash(&domain(&Network::BaseSepolia.usdc(), 84_532));
    let signature = draft.payer.sign_hash_sync(&hash).unwrap().as_bytes().into();
    let stranger = stack.anvil.first_account().await.unwrap();
    let cancel = cancelAuthorizationCall { authorizer, nonce, signature };
    send_as(&stack, stranger, stack.contracts.usdc, cancel).await;
    let answer = invoke(&daemon.url, &call("cancel-1"), Some(&draft.header())).await;
    assert_eq!((answer.status, answer.subcause()), (422, "nonce_reused"), "{answer:?}");
    assert!(answer.body["error"]["details"]["tx_hash"].is_null());
    assert_eq!(on_chain(&stack, &draft.authorization).await, (FUNDS, true));
    assert_eq!(stack.provider.calls(), 0);
}

/// Whoever holds an authorization can submit it; once it is reserved that is as good as our pull.
#[tokio::test]
async fn a_stranger_who_submits_first_settles_the_payment() {
    let stack = stack("stranger", StackOptions::default()).await;
    let database = stack.sqlite();
    let _daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    smuggle(&stack, &database, &draft, false).await;
    let stranger = stack.anvil.first_account().await.unwrap();
    send_as(&stack, stranger, stack.contracts.usdc, pull(&draft)).await;
    sound(&stack, &database, 1).await;
    assert_eq!(on_chain(&stack, &draft.authorization).await.0, FUNDS - PRICE_MICRO);
    let settlement = settlement_of(&database, &draft.authorization).await.unwrap();
    assert_eq!(
        (settlement.status, settlement.keeper_state),
        (Status::ChainConfirmed, KeeperState::Split)
    );
}

/// Two authorizations with one nonce: the one that was not shown to us is held, nobody is served
/// for it, and the books go on.
#[tokio::test]
async fn one_nonce_signed_for_two_amounts_is_held() {
    let stack = stack("nonce", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let mut draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    smuggle(&stack, &database, &draft, false).await;
    draft.authorization.value = U256::from(1);
    let stranger = stack.anvil.first_account().await.unwrap();
    send_as(&stack, stranger, stack.contracts.usdc, pull(&draft)).await;
    eventually("it is held", || async {
        let settlement = settlement_of(&database, &draft.authorization).await.unwrap();
        settlement.status == Status::Mismatched
    })
    .await;
    assert!(daemon.logged().contains("ALARM: the pull disagrees"), "{}", daemon.tail());
    pay(&stack, &daemon.url, "nonce-1").await;
    sound(&stack, &database, 1).await;
    let journals = tally(&database, "journals", "kind").await;
    assert_eq!((journals["pull"], journals["unattributed_inflow"]), (1, 1));
}

/// A payer who empties his account after forty reservations holds up nobody but himself.
#[tokio::test]
async fn a_payer_without_money_holds_up_nobody() {
    let stack = stack("empty", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let payer = stack.agent(0).await.unwrap();
    for _ in 0..40 {
        let draft = Draft::new(&payer, stack.contracts.splitter);
        smuggle(&stack, &database, &draft, true).await;
    }
    for id in ["empty-1", "empty-2", "empty-3"] {
        pay(&stack, &daemon.url, id).await;
    }
    sound(&stack, &database, 3).await;
    let puller = chain(&stack).transaction_count(stack.puller.1, BlockTag::Latest).await.unwrap();
    assert_eq!(puller, 3, "nothing that would revert was sent");
}

/// A payer whose code answers with anything but an answer.
#[tokio::test]
async fn a_payer_with_code_holds_up_nobody() {
    let stack = stack("code", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    // JUMPDEST PUSH1 0 JUMP: burns whatever gas it is given.
    let burner = Bytes::from_static(&[0x5b, 0x60, 0x00, 0x56]);
    stack.anvil.set_code(draft.authorization.from, &burner).await.unwrap();
    let answer = invoke(&daemon.url, &call("code-1"), Some(&draft.header())).await;
    assert_eq!((answer.status, answer.subcause()), (422, "signature_invalid"), "{answer:?}");
    // He delegated only after the reservation.
    smuggle(&stack, &database, &draft, true).await;
    pay(&stack, &daemon.url, "code-2").await;
    sound(&stack, &database, 1).await;
    assert_eq!(on_chain(&stack, &draft.authorization).await, (FUNDS, false));
}

/// The simulation passes, the chain says no: the pull reverts on chain, nothing is lost, and
/// the identity is free when its window is over.
#[tokio::test]
async fn a_pull_that_reverts_on_chain_is_released() {
    let stack = stack(
        "revert",
        StackOptions {
            anvil: AnvilOptions { block_time: None, ..AnvilOptions::default() },
            settle_timeout: "1s",
            ..StackOptions::default()
        },
    )
    .await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let payer = draft.authorization.from;
    stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
    let pending = invoke(&daemon.url, &call("revert-1"), Some(&draft.header())).await;
    assert_eq!(pending.status, 503, "{pending:?}");
    stack.anvil.set_code(payer, &Bytes::from_static(&[0x00])).await.unwrap();
    stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
    eventually("the pull reverted", || async { daemon.logged().contains("a pull reverted") }).await;
    assert_eq!(on_chain(&stack, &draft.authorization).await, (FUNDS, false));

    stack.anvil.set_code(payer, &Bytes::new()).await.unwrap();
    stack.anvil.rpc("evm_increaseTime", json!([120])).await.unwrap();
    stack.anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
    eventually("it is released", || async {
        settlement_of(&database, &draft.authorization).await.unwrap().status == Status::Released
    })
    .await;
    let answer = invoke(&daemon.url, &call("revert-1"), Some(&draft.header())).await;
    assert_eq!((answer.status, answer.subcause()), (422, "expired"), "{answer:?}");
    assert_eq!(stack.provider.calls(), 0);
}

/// Ten at once with money for two: two are served, and no pull is sent that cannot succeed.
#[tokio::test]
async fn nobody_reserves_beyond_his_balance() {
    let stack = stack("beyond", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let payer = stack.agent(2 * PRICE_MICRO).await.unwrap();
    let calls = (0..10).map(|n| {
        let (url, splitter) = (daemon.url.clone(), stack.contracts.splitter);
        let draft = Draft::new(&payer, splitter);
        tokio::spawn(async move {
            invoke(&url, &call(&format!("beyond-{n}")), Some(&draft.header())).await
        })
    });
    let mut statuses = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        let answer = call.await.unwrap();
        assert!([200, 422].contains(&answer.status), "{answer:?}");
        statuses.push(answer.status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 2);
    through(&stack, &database, 2).await;
}

/// An authorization that stays usable for long is not taken on.
#[tokio::test]
async fn a_window_that_ends_too_late_is_refused() {
    let stack = stack("window", StackOptions::default()).await;
    let daemon = stack.daemon(&keeper(), &stack.sqlite()).await.unwrap();
    let mut draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    draft.authorization.valid_before = now() + 3_600;
    let answer = invoke(&daemon.url, &call("window-1"), Some(&draft.header())).await;
    assert_eq!((answer.status, answer.subcause()), (422, "expired"), "{answer:?}");
}

// ------------------------------------------------------------------------------ agents

/// Paid, served, and asked for again when window and price are long over: the same answer. A
/// stranger who saw the header but cannot sign gets nothing.
#[tokio::test]
async fn a_paid_call_is_answered_for_ever() {
    let stack = stack("late", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let draft = pay(&stack, &daemon.url, "late-1").await;
    through(&stack, &database, 1).await;
    drop(daemon);
    stack.anvil.rpc("evm_increaseTime", json!([700])).await.unwrap();
    let dearer = |config: String| {
        let path = stack.folder.join("catalogue.toml");
        let catalogue = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, catalogue.replace("$0.20", "$0.30")).unwrap();
        config
    };
    let mut daemon = stack.spawn(&keeper(), &database, &[], dearer).await.unwrap();
    daemon.ready().await.unwrap();
    let again = invoke(&daemon.url, &call("late-1"), Some(&draft.header())).await;
    assert_eq!((again.status, &again.body["replayed"]), (200, &json!(true)), "{again:?}");
    assert_eq!(again.body["result"]["echo"]["id"], "late-1");
    let other = invoke(&daemon.url, &call("late-2"), Some(&draft.header())).await;
    assert_eq!((other.status, other.code()), (409, "X402_SETTLEMENT_REUSED"));
    let mut forged = draft.signature();
    forged[40] ^= 1;
    let forged = encode(&draft.json_signed(&forged));
    let answer = invoke(&daemon.url, &call("late-1"), Some(&forged)).await;
    assert_eq!(answer.status, 422, "{answer:?}");
    assert_eq!(stack.provider.calls(), 1);
}

/// The agent hangs up at once: it is served all the same, and the answer waits for it.
#[tokio::test]
async fn an_agent_that_hangs_up_is_served() {
    let stack = stack("hangs-up", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let request = reqwest::Client::new()
        .post(format!("{}/v1/invoke", daemon.url))
        .json(&call("hangs-up-1"))
        .header("x-payment", draft.header())
        .timeout(std::time::Duration::from_millis(300));
    assert!(request.send().await.is_err(), "nothing is settled so fast");
    eventually("it is served", || async {
        tally(&database, "deliveries", "state").await.get("delivered") == Some(&1)
    })
    .await;
    let again = invoke(&daemon.url, &call("hangs-up-1"), Some(&draft.header())).await;
    assert_eq!((again.status, &again.body["replayed"]), (200, &json!(true)), "{again:?}");
    assert_eq!(stack.provider.calls(), 1);
    through(&stack, &database, 1).await;
}

/// Paid, and nobody ever asked for the result: a refund is due, somebody is told, and a human decides:
/// the provider has its share of what was pulled late on purpose, too.
#[tokio::test]
async fn what_was_paid_and_never_served_is_flagged() {
    let stack = stack("never", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    smuggle(&stack, &database, &draft, true).await;
    sound(&stack, &database, 1).await;
    assert!(tally(&database, "deliveries", "state").await.is_empty());
    let long_ago = "UPDATE x402_settlements SET settled_at = '2020-01-01T00:00:00+00:00'";
    tamper(&database, long_ago).await.unwrap();
    eventually("a refund is due", || async {
        tally(&database, "deliveries", "failure").await.contains_key("forgone")
    })
    .await;
    assert!(daemon.logged().contains("ALARM: paid and not served"), "{}", daemon.tail());
    eventually("its refund is held", || async {
        let held = tally(&database, "x402_refund_log", "hold_reason").await;
        held.get("forgone") == Some(&1)
    })
    .await;
    assert_eq!(tally(&database, "x402_refund_log", "state").await["held"], 1);
}

// ------------------------------------------------------------------------------ providers

/// The provider ends his registration while a payment is on its way and registers again, all for
/// himself: nothing more is recorded to him.
#[tokio::test]
async fn a_capability_that_changes_hands_in_flight_is_not_recorded() {
    let stack = stack("hands", StackOptions { confirmations: 30, ..StackOptions::default() }).await;
    let database = stack.sqlite();
    let slow = |config: String| {
        config.replace("confirmations = 30", "confirmations = 30\nrecord_confirmations = 12")
    };
    let mut daemon = stack.spawn(&keeper(), &database, &[], slow).await.unwrap();
    daemon.ready().await.unwrap();
    let draft = pay(&stack, &daemon.url, "hands-1").await;

    let (splitter, provider) = (stack.contracts.splitter, stack.provider_account);
    let capability_id = capability_id("demo", "echo");
    let deactivate = JecpSplitter::deactivateCall { capabilityId: capability_id };
    send_as(&stack, provider, splitter, deactivate).await;
    let terms = stack
        .registration(|registration| {
            registration.provider_bps = 10_000;
            registration.hub_bps = 0;
            registration.reserve_bps = 0;
        })
        .unwrap();
    let register = JecpSplitter::registerCall {
        capabilityId: terms.capability_id,
        provider: terms.provider,
        providerBps: terms.provider_bps,
        hubBps: terms.hub_bps,
        reserveBps: terms.reserve_bps,
        nonce: terms.nonce,
        deadline: U256::from(terms.deadline),
        providerSig: terms.signature,
    };
    send_as(&stack, provider, splitter, register).await;
    eventually("it is held", || async {
        let settlement = settlement_of(&database, &draft.authorization).await.unwrap();
        settlement.keeper_state == KeeperState::Held
    })
    .await;
    assert!(daemon.logged().contains("not registered any more as it was sold"));
    let count = chain(&stack).transaction_count(stack.settler.1, BlockTag::Latest).await.unwrap();
    assert_eq!(count, 0, "the settler has signed nothing");
    assert_eq!(balance(&stack, provider).await, U256::ZERO);
    assert_eq!(balance(&stack, splitter).await, U256::from(PRICE_MICRO));
    // And it is not sold any more.
    eventually("it is off the shelf", || async {
        invoke(&daemon.url, &call("hands-2"), None).await.status == 503
    })
    .await;
}

/// R-143, C-30: a record that keeps reverting: somebody is told, it holds up nobody, and it is made when it can
/// be.
#[tokio::test]
async fn a_record_that_cannot_be_made_is_alarmed() {
    // What nobody's log explains would be drift as soon as it is booked: it is over before.
    let options = StackOptions { confirmations: LATE, ..StackOptions::default() };
    let stack = stack("stuck", options).await;
    let database = stack.sqlite();
    let slow = |config: String| {
        let late = format!("confirmations = {LATE}");
        config.replace(&late, &format!("{late}\nrecord_confirmations = 4"))
    };
    let mut daemon = stack.spawn(&keeper(), &database, &[], slow).await.unwrap();
    daemon.ready().await.unwrap();
    pay(&stack, &daemon.url, "stuck-1").await;
    // The token takes the money back out of the Splitter: an upgrade could. No log says so.
    let slot = B256::with_last_byte(balance_slot(&stack).await);
    let slot = keccak256([stack.contracts.splitter.into_word().0, slot.0].concat());
    let take = |value: u64| {
        let value = B256::from(U256::from(value));
        stack.anvil.rpc("anvil_setStorageAt", json!([stack.contracts.usdc, slot, value]))
    };
    take(0).await.unwrap();
    assert_eq!(balance(&stack, stack.contracts.splitter).await, U256::ZERO);
    eventually("somebody is told", || async {
        daemon.logged().contains("ALARM: X402_RECONCILER_MISMATCH_FLAGGED")
    })
    .await;
    assert_eq!(settlements(&stack, &database).await[0].keeper_state, KeeperState::Recording);
    let actions = tally(&database, "audit_log", "action").await;
    assert_eq!(actions["x402.record_retry_exhausted"], 1, "{actions:?}");
    // It is tried more and more rarely; the next one must not pay for it.
    eventually("it is put off for half a minute", || async {
        let deferrals = tally(&database, "intents", "CAST(deferrals AS TEXT)").await;
        deferrals.contains_key("6")
    })
    .await;
    pay(&stack, &daemon.url, "stuck-2").await;
    eventually("the next one is recorded and split", || async {
        settlements(&stack, &database).await[1].keeper_state == KeeperState::Split
    })
    .await;
    take(PRICE_MICRO).await.unwrap();
    eventually("both are split", || async {
        let all = settlements(&stack, &database).await;
        all.iter().all(|one| one.keeper_state == KeeperState::Split)
    })
    .await;
    stack.anvil.rpc("anvil_mine", json!([LATE, "0x1"])).await.unwrap();
    through(&stack, &database, 2).await;
    assert!(tally(&database, "closures", "reason").await.is_empty());
}

/// In which of its slots the USDC double keeps balances: where writing changes what it answers.
async fn balance_slot(stack: &Stack) -> u8 {
    let account = Address::repeat_byte(0x5a);
    for slot in 0..32 {
        let key = keccak256([account.into_word().0, B256::with_last_byte(slot).0].concat());
        let (usdc, one) = (stack.contracts.usdc, B256::with_last_byte(1));
        let write = |value: B256| stack.anvil.rpc("anvil_setStorageAt", json!([usdc, key, value]));
        write(one).await.unwrap();
        let found = balance(stack, account).await == U256::ONE;
        write(B256::ZERO).await.unwrap();
        if found {
            return slot;
        }
    }
    panic!("the double keeps no balances");
}

// ------------------------------------------------------------------------------ the database

/// A journal that somebody took out of the database is missed.
#[tokio::test]
async fn a_missing_journal_is_found() {
    let stack = stack("missing", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    pay(&stack, &daemon.url, "missing-1").await;
    through(&stack, &database, 1).await;
    let config = daemon.config.clone();
    drop(daemon);
    let reconcile = || {
        let output = std::process::Command::new(keeper())
            .args(["reconcile", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(reconcile().0, Some(0));
    for sql in [
        "DROP TRIGGER journals_no_delete",
        "DROP TRIGGER postings_no_delete",
        "DELETE FROM postings",
        "DELETE FROM journals",
        "UPDATE accounts SET debits_micro = 0, credits_micro = 0",
    ] {
        tamper(&database, sql).await.unwrap();
    }
    let (code, table) = reconcile();
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains("DIFFERS"), "{table}");
}
