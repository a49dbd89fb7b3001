//! Clients and servers as others wrote them pay here and have paid here, changed in nothing: npm's
//! x402-fetch, x402-axios, @x402/fetch, and a resource server of @x402/core.

use crate::{
    facilitator::{Api, FUNDS, PAYEE, SHOP, balance},
    support::{audited, eventually, hub, settlements, sound, tools},
};
use alloy::{
    hex,
    primitives::{Address, U256},
    signers::local::PrivateKeySigner,
};
use keeper::lifecycle::Status;
use sandbox::PRICE_MICRO;
use serde_json::Value;
use std::{process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// A client buys twice; what it saw of each call.
async fn buy(client: &str, payer: &PrivateKeySigner, url: &str) -> Vec<Value> {
    let prefix = client.replace(['@', '/'], "");
    let output = Command::new("node")
        .arg(tools().root().join("tests/clients/pay.mjs"))
        .args([client, url, "2", &prefix])
        .env("PAYER_KEY", hex::encode_prefixed(payer.to_bytes()))
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let seen: Vec<Value> =
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(seen.len(), 2, "{printed}");
    for call in &seen {
        assert_eq!((&call["unpaid"], &call["status"]), (&402.into(), &200.into()), "{call}");
        assert_eq!(call["receipt"]["success"], true, "{call}");
        let paid: Address = serde_json::from_value(call["receipt"]["payer"].clone()).unwrap();
        assert_eq!(paid, payer.address(), "{call}");
        assert!(call["answer"]["result"]["echo"].is_object(), "{call}");
    }
    assert_ne!(seen[0]["receipt"]["transaction"], seen[1]["receipt"]["transaction"]);
    seen
}

/// Buys from the hub itself; the money is gone from the payer, and only that.
async fn pays_the_hub(client: &str) {
    let hub = hub().await;
    let payer = hub.stack.agent(FUNDS).await.unwrap();
    for call in buy(client, &payer, &format!("{}/v1/invoke", hub.daemon.url)).await {
        let receipt = &call["receipt"];
        assert_eq!(call["answer"]["billing"]["x402"]["settlement_tx"], receipt["transaction"]);
    }
    let left = balance(&hub.stack, payer.address()).await;
    assert_eq!(left, U256::from(FUNDS - 2 * PRICE_MICRO), "{client}");
}

/// npm x402-fetch 1.2.0, x402 v1.
#[tokio::test]
async fn x402_fetch_pays() {
    pays_the_hub("x402-fetch").await;
}

/// npm x402-axios 0.7.2, x402 v1.
#[tokio::test]
async fn x402_axios_pays() {
    pays_the_hub("x402-axios").await;
}

/// npm @x402/fetch 2.27.0, x402 v2.
#[tokio::test]
async fn x402_fetch_of_version_2_pays() {
    pays_the_hub("@x402/fetch").await;
}

/// A shop; it ends with the first value.
async fn shop(api: &Api, pay_to: impl ToString) -> (Child, String) {
    let mut child = Command::new("node")
        .arg(tools().root().join("tests/clients/shop.mjs"))
        .args([api.daemon.url.clone(), pay_to.to_string()])
        .env("SHOP_TOKEN", SHOP)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await;
    let line = line.expect("the shop does not start").unwrap().expect("the shop has ended");
    let port = line.strip_prefix("Listening on ").unwrap_or_else(|| panic!("{line}"));
    (child, format!("http://127.0.0.1:{port}/thing"))
}

/// A resource server of @x402/core has its payments verified and settled here: those to the Splitter are
/// recorded and split, the others pass through.
#[tokio::test]
async fn a_resource_server_of_x402_core_settles_here() {
    let api = Api::start("shop", None).await;
    let splitter = api.stack.contracts.splitter;
    let (_recorded, to_splitter) = shop(&api, splitter).await;
    let (_passing, past_it) = shop(&api, PAYEE).await;
    let payer = api.stack.agent(FUNDS).await.unwrap();
    for url in [&to_splitter, &past_it] {
        for call in buy("@x402/fetch", &payer, url).await {
            assert_eq!(call["receipt"]["network"], "eip155:84532");
            let hash = call["receipt"]["transaction"].as_str().unwrap();
            let payment = api.get(&format!("/v1/payments/{hash}"), Some(SHOP)).await;
            assert_eq!((payment.status, &payment.body["success"]), (200, &true.into()));
        }
    }
    assert_eq!(balance(&api.stack, PAYEE).await, U256::from(2 * PRICE_MICRO));
    let left = balance(&api.stack, payer.address()).await;
    assert_eq!(left, U256::from(FUNDS - 4 * PRICE_MICRO));
    sound(&api.stack, &api.database, 2).await;
    eventually("all four are confirmed", || async {
        let all = settlements(&api.stack, &api.database).await;
        all.len() == 4 && all.iter().all(|one| one.status == Status::ChainConfirmed)
    })
    .await;
    audited(&api.daemon.config, &api.database).await;
}
