//! Settlements that outlive their caller's patience, and how they are looked up.

use super::{Api, FUNDS, OTHER, SHOP, databases};
use crate::support::{call, eventually, invoke, on_chain, settlement_of};
use keeper::lifecycle::Status;
use sandbox::{AnvilOptions, PRICE_MICRO, StackOptions};
use serde_json::json;

/// it is told as pending with its hash, and looked up by hash or authorization by whom it
/// concerns.
#[tokio::test]
async fn what_outlives_a_callers_patience_is_pending_and_looked_up() {
    for database in databases().await {
        let anvil = AnvilOptions { block_time: None, ..AnvilOptions::default() };
        let options = StackOptions { anvil, ..StackOptions::default() };
        // The callers' tables begin with their names.
        let hasty = |config: String| {
            config.replace("name = \"shop\"", "name = \"shop\"\nsettle_timeout = \"3s\"")
        };
        let api = Api::start_with("pending", database, options, hasty).await;
        api.stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
        let drafts = [(1, api.draft_to_splitter().await), (2, api.to_payee().await)];
        let mut hashes = Vec::new();
        for (version, draft) in &drafts {
            let answer = api.settle(*version, draft).await;
            let words = ["invalid_transaction_state", "settlement_pending"];
            let word = words[usize::from(*version == 2)];
            assert_eq!(answer.status, 200);
            assert_eq!(answer.body["success"], false);
            assert_eq!(answer.body["errorReason"], word, "{answer:?}");
            assert_eq!(answer.body["payer"], json!(draft.authorization.from));
            assert_eq!(answer.header("retry-after"), "2");
            let hash = answer.body["transaction"].as_str().unwrap().to_owned();
            assert_eq!(hash.len(), 66, "the hash is never lost: {answer:?}");
            let by_hash = api.get(&format!("/v1/payments/{hash}"), Some(SHOP)).await;
            assert_eq!(by_hash.body["status"], "settle_pending", "{by_hash:?}");
            assert_eq!(by_hash.body["tx_hash"], json!(hash));
            assert_eq!(by_hash.body["success"], false);
            hashes.push(hash);
        }
        api.stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
        api.stack.anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
        for ((version, draft), hash) in drafts.iter().zip(&hashes) {
            let again = api.settle(*version, draft).await;
            assert_eq!(again.body["success"], true, "{again:?}");
            assert_eq!(again.body["transaction"], json!(hash));
            assert_eq!(again.body["replayed"], true);
            let signed = &draft.authorization;
            let query = format!("/v1/payments?payer={}&nonce={}", signed.from, signed.nonce);
            eventually("it is confirmed", || async {
                api.get(&query, Some(SHOP)).await.body["status"] == "chain_confirmed"
            })
            .await;
            let found = api.get(&query, Some(SHOP)).await;
            assert_eq!(found.body["tx_hash"], json!(hash));
            assert_eq!(found.body["amount"], PRICE_MICRO.to_string());
            assert_eq!(found.body["pay_to"], json!(signed.to));
            assert!(found.body["chain_confirmed_at"].is_string(), "{found:?}");
            // Nobody else is told of it.
            for path in [&query, &format!("/v1/payments/{hash}")] {
                for token in [Some(OTHER), None] {
                    let other = api.get(path, token).await;
                    assert_eq!((other.status, other.code()), (404, "UNKNOWN_PAYMENT"), "{path}");
                }
                assert_eq!(api.get(path, Some("nobodys-token-at-all-00")).await.status, 401);
            }
            assert_eq!(on_chain(&api.stack, signed).await, (FUNDS - PRICE_MICRO, true));
        }
    }
}

/// without accounts, whoever knows an agent's payment is told what the chain shows of it.
#[tokio::test]
async fn an_agents_payment_is_looked_up_by_who_knows_it() {
    let api = Api::start("lookup", None).await;
    let draft = api.draft().await;
    let paid = invoke(&api.daemon.url, &call("lookup-1"), Some(&draft.header())).await;
    assert_eq!(paid.status, 200, "{paid:?}");
    let hash = paid.receipt()["transaction"].as_str().unwrap().to_owned();
    let path = format!("/v1/payments/{hash}");
    eventually("it is confirmed", || async {
        api.get(&path, None).await.body["status"] == "chain_confirmed"
    })
    .await;
    let found = api.get(&path, None).await;
    assert_eq!(found.body["tx_hash"], json!(hash));
    assert!(found.body["chain_confirmed_at"].is_string());
    assert!(found.body.get("request_id").is_none() && found.body.get("result").is_none());
    let settlement = settlement_of(&api.database, &draft.authorization).await.unwrap();
    assert_eq!(settlement.status, Status::ChainConfirmed);
    assert_eq!(api.get(&path, Some(SHOP)).await.status, 404, "it is not the caller's");
    for (path, status) in [
        ("/v1/payments/0x12", 400),
        ("/v1/payments", 400),
        ("/v1/payments?payer=0x12&nonce=0x34", 400),
        (&*format!("/v1/payments/0x{}", "ab".repeat(32)), 404),
    ] {
        assert_eq!(api.get(path, None).await.status, status, "{path}");
    }
}

impl Api {
    async fn draft_to_splitter(&self) -> crate::support::Draft {
        self.mined(false).await
    }

    async fn to_payee(&self) -> crate::support::Draft {
        self.mined(true).await
    }

    /// A payment of a payer whose money is there, though nothing is mined by itself.
    async fn mined(&self, passes: bool) -> crate::support::Draft {
        self.stack.anvil.rpc("evm_setAutomine", json!([true])).await.unwrap();
        let draft = if passes { self.passing().await } else { self.draft().await };
        self.stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
        draft
    }
}
