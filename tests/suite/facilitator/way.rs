//! The good way, and who may go it.

use super::{Api, FUNDS, OTHER, RARE, SHOP, body, databases, network};
use crate::support::{audited, hub, on_chain, sound, tally};
use keeper::lifecycle::{KeeperState, Status};
use sandbox::PRICE_MICRO;
use serde_json::json;

/// Both versions are verified, settled, recorded and split; the resource server serves, so that there is
/// no delivery of ours.
#[tokio::test]
async fn a_payment_to_the_splitter_is_settled_recorded_and_split() {
    for database in databases().await {
        let api = Api::start("facilitator", database).await;
        for version in [1, 2] {
            let draft = api.draft().await;
            let payer = json!(draft.authorization.from);
            let verified = api.post("/verify", SHOP, &body(version, &draft)).await;
            assert_eq!(verified.body, json!({"isValid": true, "payer": payer}), "{verified:?}");
            assert_eq!(on_chain(&api.stack, &draft.authorization).await, (FUNDS, false));
            let settled = api.settle(version, &draft).await;
            assert_eq!(
                (settled.status, &settled.body["success"]),
                (200, &json!(true)),
                "{settled:?}"
            );
            assert_eq!(settled.body["payer"], payer);
            assert_eq!(settled.body["network"], network(version));
            assert_eq!(settled.body["replayed"], false);
            assert_eq!(settled.header("cache-control"), "no-store");
            if version == 2 {
                assert_eq!(settled.body["amount"], PRICE_MICRO.to_string());
                assert_eq!(settled.body["extra"], json!({"replayed": false}));
            }
            let left = FUNDS - PRICE_MICRO;
            assert_eq!(on_chain(&api.stack, &draft.authorization).await, (left, true));
            let settlement = crate::support::settlement_of(&api.database, &draft.authorization);
            let settlement = settlement.await.unwrap();
            assert_eq!(settled.body["transaction"], json!(settlement.pull.unwrap().tx_hash));
            assert_eq!(settlement.agent_id.as_deref(), Some("caller:shop"));
            assert_eq!(settlement.capability_id.as_deref(), Some("demo/echo"));
            // A settled authorization verifies no more.
            let again = api.post("/verify", SHOP, &body(version, &draft)).await;
            let word = ["invalid_payment", "invalid_exact_evm_nonce_already_used"];
            assert_eq!(again.body["invalidReason"], word[usize::from(version == 2)], "{again:?}");
            assert_eq!(again.body["transaction"], settled.body["transaction"]);
        }
        sound(&api.stack, &api.database, 2).await;
        for settlement in crate::support::settlements(&api.stack, &api.database).await {
            assert_eq!(settlement.status, Status::ChainConfirmed);
            assert_eq!(settlement.keeper_state, KeeperState::Split);
        }
        assert_eq!(api.stack.provider.calls(), 0, "the resource server serves");
        assert!(tally(&api.database, "deliveries", "state").await.is_empty());
        audited(&api.daemon.config, &api.database).await;
    }
}

#[tokio::test]
async fn supported_says_what_is_settled_here_to_everybody() {
    let hub = hub().await;
    let supported = reqwest::get(format!("{}/supported", hub.daemon.url)).await.unwrap();
    let supported: serde_json::Value = supported.json().await.unwrap();
    assert_eq!(
        supported,
        json!({
            "kinds": [
                {"x402Version": 1, "scheme": "exact", "network": "base-sepolia"},
                {"x402Version": 2, "scheme": "exact", "network": "eip155:84532"},
            ],
            "extensions": [],
            "signers": {"eip155:84532": [hub.stack.puller.1]},
        })
    );
    // Nobody is configured: there is nothing else to find.
    for path in ["/verify", "/settle"] {
        let answer = super::post(&hub.daemon.url, path, SHOP, &json!({})).await;
        assert_eq!((answer.status, answer.code()), (404, "NOT_FOUND"), "{path}");
    }
}

#[tokio::test]
async fn a_caller_has_a_token_and_calls_no_more_often_than_it_may() {
    let api = Api::start("callers", None).await;
    let draft = api.draft().await;
    let body = body(1, &draft);
    for path in ["/verify", "/settle"] {
        for token in ["", "shop-token-of-a-test-0002", "Bearer"] {
            let answer = api.post(path, token, &body).await;
            assert_eq!((answer.status, answer.code()), (401, "UNAUTHORIZED"), "{path} {token}");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    let basic = reqwest::Client::new().post(format!("{}/settle", api.daemon.url)).json(&body);
    let basic = basic.header("authorization", format!("Basic {SHOP}")).send().await.unwrap();
    assert_eq!(basic.status().as_u16(), 401);
    for _ in 0..2 {
        assert_eq!(api.post("/verify", RARE, &body).await.body["isValid"], true);
    }
    let refused = api.post("/verify", RARE, &body).await;
    assert_eq!((refused.status, refused.code()), (429, "RATE_LIMITED"));
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=31).contains(&seconds), "{seconds}");
    assert_eq!(api.post("/verify", OTHER, &body).await.body["isValid"], true, "each has its own");
    assert!(!api.daemon.logged().contains(SHOP), "tokens are not logged");
}
