//! Payments to others than the Splitter: pulled, confirmed, booked, and nothing more.

use super::{Api, FUNDS, PAYEE, balance, databases};
use crate::support::{
    BOOKED, Draft, audited, eventually, on_chain, reconciled, send_as, settlement_of, tally,
};
use alloy::{primitives::U256, sol};
use keeper::lifecycle::{KeeperState, Status};
use sandbox::{AnvilOptions, PRICE_MICRO, StackOptions};
use serde_json::json;

sol! {
    function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes signature);
}

/// A draft's pull as anybody can submit it.
fn pull(draft: &Draft) -> transferWithAuthorizationCall {
    let signed = &draft.authorization;
    transferWithAuthorizationCall {
        from: signed.from,
        to: signed.to,
        value: signed.value,
        validAfter: U256::from(signed.valid_after),
        validBefore: U256::from(signed.valid_before),
        nonce: signed.nonce,
        signature: draft.signature().into(),
    }
}

/// Waits until a payment is confirmed and its pull booked.
async fn confirmed(api: &Api, draft: &Draft, journals: i64) {
    eventually("it is confirmed and booked", || async {
        let settlement = settlement_of(&api.database, &draft.authorization).await.unwrap();
        let booked = tally(&api.database, BOOKED, "kind").await;
        settlement.status == Status::ChainConfirmed
            && booked.get("pull").copied().unwrap_or(0) == journals
    })
    .await;
}

/// What an account of the books has been credited.
async fn credited(api: &Api, account: &str) -> i64 {
    let table = format!("accounts WHERE code = '{account}' AND credits_micro > 0");
    let found = tally(&api.database, &table, "CAST(credits_micro AS TEXT)").await;
    found.keys().next().map_or(0, |credits| credits.parse().unwrap())
}

/// It is booked beside the Splitter's accounts, and reconcile and audit know it.
#[tokio::test]
async fn a_payment_past_the_splitter_is_confirmed_and_booked() {
    for database in databases().await {
        let mut api = Api::start("passing", database).await;
        for (round, version) in [(1_u64, 1), (2, 2)] {
            let draft = api.passing().await;
            let settled = api.settle(version, &draft).await;
            assert_eq!(settled.body["success"], true, "{settled:?}");
            assert_eq!(balance(&api.stack, PAYEE).await, U256::from(round * PRICE_MICRO));
            confirmed(&api, &draft, i64::try_from(round).unwrap()).await;
            let settlement = settlement_of(&api.database, &draft.authorization).await.unwrap();
            assert_eq!(settlement.keeper_state, KeeperState::None, "nothing is recorded");
            assert!(settlement.passes_through());
            assert_eq!(settled.body["transaction"], json!(settlement.pull.unwrap().tx_hash));
        }
        let splitter = balance(&api.stack, api.stack.contracts.splitter).await;
        assert_eq!(splitter, U256::ZERO);
        let account = format!("passed:{}", PAYEE.to_string().to_lowercase());
        assert_eq!(credited(&api, &account).await, i64::try_from(2 * PRICE_MICRO).unwrap());
        assert_eq!(tally(&api.database, BOOKED, "kind").await.len(), 1, "pulls and no more");
        assert!(tally(&api.database, "deliveries", "state").await.is_empty());
        eventually("ledger and chain agree", || async {
            reconciled(&api.stack, &api.database).await.is_sound()
        })
        .await;
        audited(&api.daemon.config, &api.database).await;
        assert!(tally(&api.database, "closures", "reason").await.is_empty(), "nothing drifted");
        let output = tokio::process::Command::new(crate::support::keeper())
            .args(["reconcile", "--json", "--config"])
            .arg(&api.daemon.config)
            .output()
            .await
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{told}");
        // What is not what the ledger says is found. The daemon would put it right.
        api.daemon.signal("TERM").await.unwrap();
        assert_eq!(api.daemon.wait().await.unwrap(), 0);
        let forged = "UPDATE passed_events SET amount_micro = amount_micro + 1";
        crate::support::tamper(&api.database, forged).await.unwrap();
        let audit = tokio::process::Command::new(crate::support::keeper())
            .args(["audit", "--config"])
            .arg(&api.daemon.config)
            .output()
            .await
            .unwrap();
        let told = String::from_utf8_lossy(&audit.stdout).into_owned();
        assert_eq!(audit.status.code(), Some(1), "{told}");
        assert!(told.contains("mirror.passed"), "{told}");
    }
}

/// A stranger who has submitted it before anybody asked us has settled nothing of ours.
#[tokio::test]
async fn what_a_stranger_settled_before_is_refused() {
    let api = Api::start("before", None).await;
    let stranger = api.stack.anvil.first_account().await.unwrap();
    for draft in [api.draft().await, api.passing().await] {
        send_as(&api.stack, stranger, api.stack.contracts.usdc, pull(&draft)).await;
        for (version, word) in [(1, "invalid_payment"), (2, "invalid_exact_evm_nonce_already_used")]
        {
            let answer = api.settle(version, &draft).await;
            assert_eq!((answer.status, &answer.body["success"]), (200, &json!(false)));
            assert_eq!(answer.body["errorReason"], word, "{answer:?}");
            assert_eq!(answer.body["payer"], json!(draft.authorization.from));
        }
        assert!(settlement_of(&api.database, &draft.authorization).await.is_none());
    }
}

/// One who submits it under our reservation has done our work: the events say that the payee was paid.
#[tokio::test]
async fn what_a_stranger_settles_under_our_reservation_counts() {
    for database in databases().await {
        let anvil = AnvilOptions { block_time: None, ..AnvilOptions::default() };
        let options = StackOptions { anvil, ..StackOptions::default() };
        let api = Api::start_with("under", database, options, |config| config).await;
        let draft = api.passing().await;
        api.stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
        let url = api.daemon.url.clone();
        let body = super::body(2, &draft);
        let waiting =
            tokio::spawn(async move { super::post(&url, "/settle", super::SHOP, &body).await });
        eventually("our pull is in the pool", || async {
            let pool = api.stack.anvil.rpc("txpool_status", json!([])).await.unwrap();
            pool["pending"] == "0x1"
        })
        .await;
        // He pays more for it, and comes first.
        let stranger = api.stack.anvil.first_account().await.unwrap();
        let input: alloy::primitives::Bytes =
            alloy::sol_types::SolCall::abi_encode(&pull(&draft)).into();
        let transaction = json!({
            "from": stranger, "to": api.stack.contracts.usdc, "input": input, "gas": "0x40000",
            "maxFeePerGas": "0x174876e800", "maxPriorityFeePerGas": "0x174876e800",
        });
        let hash = api.stack.anvil.rpc("eth_sendTransaction", json!([transaction])).await.unwrap();
        api.stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
        let answer = waiting.await.unwrap();
        assert_eq!(answer.body["success"], true, "{answer:?}");
        assert_eq!(answer.body["transaction"], hash, "{answer:?}");
        assert_eq!(balance(&api.stack, PAYEE).await, U256::from(PRICE_MICRO));
        api.stack.anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
        confirmed(&api, &draft, 1).await;
        assert_eq!(on_chain(&api.stack, &draft.authorization).await, (FUNDS - PRICE_MICRO, true));
        audited(&api.daemon.config, &api.database).await;
    }
}

/// A reorg takes it after it was booked: it is taken back, sent again with the same bytes, booked again.
#[tokio::test]
async fn a_reorg_takes_a_payment_past_the_splitter_and_it_is_followed() {
    let anvil = AnvilOptions { slots_in_an_epoch: 32, ..AnvilOptions::default() };
    let options = StackOptions { anvil, ..StackOptions::default() };
    let api = Api::start_with("passed-reorg", None, options, |config| config).await;
    let draft = api.passing().await;
    let snapshot = api.stack.anvil.rpc("evm_snapshot", json!([])).await.unwrap();
    let settled = api.settle(1, &draft).await;
    assert_eq!(settled.body["success"], true, "{settled:?}");
    confirmed(&api, &draft, 1).await;
    let before = settlement_of(&api.database, &draft.authorization).await.unwrap();
    let reverted = api.stack.anvil.rpc("evm_revert", json!([snapshot])).await.unwrap();
    assert_eq!(reverted, json!(true));
    eventually("it is pulled, confirmed and booked again", || async {
        let after = settlement_of(&api.database, &draft.authorization).await.unwrap();
        let journals = tally(&api.database, "journals", "kind").await;
        let booked = tally(&api.database, BOOKED, "kind").await;
        after.status == Status::ChainConfirmed
            && after.pull.unwrap().block_hash != before.pull.unwrap().block_hash
            && journals.get("reversal") == Some(&1)
            && booked.get("pull") == Some(&1)
    })
    .await;
    let after = settlement_of(&api.database, &draft.authorization).await.unwrap();
    assert_eq!(after.pull.unwrap().tx_hash, before.pull.unwrap().tx_hash, "the same bytes");
    assert_eq!(balance(&api.stack, PAYEE).await, U256::from(PRICE_MICRO));
    audited(&api.daemon.config, &api.database).await;
}
