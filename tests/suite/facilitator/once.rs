//! One authorization is one settlement, whoever asks how often.

use super::{Api, FUNDS, OTHER, PAYEE, SHOP, balance, body, databases, post, with_callers};
use crate::support::{
    Draft, audited, eventually, keeper, on_chain, settlement_of, settlements, sound, stack, tally,
};
use alloy::primitives::U256;
use keeper::lifecycle::Status;
use sandbox::{PRICE_MICRO, StackOptions};
use serde_json::json;

/// The figure of the design: 1 transaction, 10 equal answers, 9 marked replayed.
#[tokio::test]
async fn ten_identical_requests_are_one_transaction() {
    for database in databases().await {
        let api = Api::start("ten", database).await;
        for (version, draft) in [(1, api.draft().await), (2, api.passing().await)] {
            let body = body(version, &draft);
            let asked: Vec<_> = (0..10)
                .map(|_| {
                    let (url, body) = (api.daemon.url.clone(), body.clone());
                    tokio::spawn(async move { post(&url, "/settle", SHOP, &body).await })
                })
                .collect();
            let mut answers = Vec::new();
            for one in asked {
                answers.push(one.await.unwrap());
            }
            let hashes: Vec<_> = answers.iter().map(|it| it.body["transaction"].clone()).collect();
            assert!(answers.iter().all(|it| it.body["success"] == true), "{answers:?}");
            assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
            let replayed = answers.iter().filter(|it| it.body["replayed"] == true).count();
            assert_eq!(replayed, 9);
            // And a day later, so to speak.
            let again = api.post("/settle", SHOP, &body).await;
            assert_eq!(again.body["transaction"], hashes[0]);
            assert_eq!(again.body["replayed"], true);
        }
        let pulls = tally(&api.database, "intents WHERE kind = 'pull'", "kind").await;
        assert_eq!(pulls["pull"], 2);
        let first = tally(&api.database, "transactions WHERE signer <> ''", "state").await;
        assert!(!first.contains_key("reverted"), "{first:?}");
        sound(&api.stack, &api.database, 1).await;
        assert_eq!(balance(&api.stack, PAYEE).await, U256::from(PRICE_MICRO));
    }
}

#[tokio::test]
async fn any_other_use_of_an_authorization_is_a_duplicate() {
    let api = Api::start("duplicate", None).await;
    for version in [1, 2] {
        let draft = api.passing().await;
        let good = body(version, &draft);
        let settled = api.post("/settle", SHOP, &good).await;
        assert_eq!(settled.body["success"], true, "{settled:?}");
        let mut others = vec![(OTHER, good.clone()), (SHOP, body(3 - version, &draft))];
        let mut longer = good.clone();
        longer["paymentRequirements"]["maxTimeoutSeconds"] = json!(601);
        if version == 2 {
            longer["paymentPayload"]["accepted"]["maxTimeoutSeconds"] = json!(601);
        }
        others.push((SHOP, longer));
        let mut resource = good.clone();
        let of = if version == 1 { "paymentRequirements" } else { "paymentPayload" };
        resource[of]["resource"] = json!("https://shop.example/another");
        others.push((SHOP, resource));
        for (token, other) in others {
            let answer = api.post("/settle", token, &other).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.body["success"], false, "{answer:?}");
            assert_eq!(answer.body["errorReason"], "duplicate_settlement", "{answer:?}");
            assert_eq!(answer.body["payer"], json!(draft.authorization.from));
            assert_eq!(answer.body["network"], other["paymentRequirements"]["network"]);
            assert_eq!(answer.body["transaction"], settled.body["transaction"]);
        }
        assert_eq!(on_chain(&api.stack, &draft.authorization).await.0, FUNDS - PRICE_MICRO);
    }
    // An agent of the gateway has no better luck.
    let draft = api.draft().await;
    assert_eq!(api.settle(1, &draft).await.body["success"], true);
    let call = crate::support::call("duplicate-1");
    let bought = crate::support::invoke(&api.daemon.url, &call, Some(&draft.header())).await;
    assert_eq!((bought.status, bought.code()), (409, "X402_SETTLEMENT_REUSED"), "{bought:?}");
    assert_eq!(api.stack.provider.calls(), 0);
}

/// Killed right after the reservation: the caller's repetition joins it, and money moves once.
#[tokio::test]
async fn a_crash_between_reservation_and_answer_settles_once() {
    for database in databases().await {
        let stack = stack("crashed", StackOptions::default()).await;
        let database = database.unwrap_or_else(|| stack.sqlite());
        let change = |config: String| with_callers(&config);
        let armed = "after:reserve:1:kill";
        let mut daemon = stack.spawn_armed(&keeper(), &database, armed, change).await.unwrap();
        daemon.ready().await.unwrap();
        let payer = stack.agent(FUNDS).await.unwrap();
        let mut draft = Draft::new(&payer, PAYEE);
        draft.authorization.valid_before += 500;
        let body = body(2, &draft);
        let client = reqwest::Client::new().post(format!("{}/settle", daemon.url));
        assert!(client.bearer_auth(SHOP).json(&body).send().await.is_err(), "the daemon died");
        assert_eq!(daemon.wait().await.unwrap(), 128 + 9);
        let reserved = settlement_of(&database, &draft.authorization).await.unwrap();
        assert_eq!(reserved.status, Status::SettlePending);

        let mut daemon = stack.spawn(&keeper(), &database, &[], change).await.unwrap();
        daemon.ready().await.unwrap();
        let answer = post(&daemon.url, "/settle", SHOP, &body).await;
        assert_eq!(answer.body["success"], true, "{answer:?}");
        assert_eq!(answer.body["replayed"], true, "it came before");
        assert_eq!(balance(&stack, PAYEE).await, U256::from(PRICE_MICRO));
        eventually("it is confirmed", || async {
            settlements(&stack, &database).await[0].status == Status::ChainConfirmed
        })
        .await;
        assert_eq!(settlements(&stack, &database).await.len(), 1);
        audited(&daemon.config, &database).await;
    }
}
