//! An agent asks over HTTP for what it paid for nothing.

use super::Broken;
use crate::support::{Draft, eventually};
use keeper::lifecycle::{HoldReason, RefundState};
use sandbox::PRICE_MICRO;
use serde_json::{Value, json};

/// Asks for a payment back, showing a payment's header or none.
async fn ask(hub: &Broken, tx_hash: &str, shown: Option<&Draft>) -> (u16, Value) {
    let url = format!("{}/v1/refunds/request", hub.daemon.url);
    let mut request = reqwest::Client::new()
        .post(url)
        .json(&json!({"tx_hash": tx_hash, "reason": "nothing came back"}));
    if let Some(draft) = shown {
        request = request.header("x-payment", draft.header());
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-store");
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// what came to nothing is due, once, to its payer, who alone is told of it; what was
/// served is not given back; beyond the limit of a day it is written down and a human looks at it.
#[tokio::test]
async fn an_agent_is_told_how_its_refund_stands() {
    let hub = Broken::start("asked", false, "agent_day = 1").await;
    let payer = hub.stack.agent(3 * PRICE_MICRO).await.unwrap();
    hub.stack.provider.set_failing(false);
    let (served, _, answer) = hub.call(&payer).await;
    assert_eq!(answer.status, 200);
    let served_tx = answer.receipt()["transaction"].as_str().unwrap().to_owned();
    hub.stack.provider.set_failing(true);
    let (first, _, failed) = hub.call(&payer).await;
    assert_eq!((failed.status, failed.code()), (502, "PROVIDER_ERROR"), "R-075: as it failed");
    assert_eq!(failed.body["error"]["details"]["refund"], "due");
    let tx_hash = failed.body["error"]["details"]["tx_hash"].as_str().unwrap().to_owned();

    let stranger =
        Draft::new(&hub.stack.agent(PRICE_MICRO).await.unwrap(), hub.stack.contracts.splitter);
    for (name, shown) in
        [("nobody", None), ("a stranger", Some(&stranger)), ("of another payment", Some(&served))]
    {
        let (status, body) = ask(&hub, &tx_hash, shown).await;
        assert_eq!(
            (status, &body["error"]["code"]),
            (404, &json!("TRANSACTION_NOT_FOUND")),
            "{name}"
        );
    }
    let (status, body) = ask(&hub, &served_tx, Some(&served)).await;
    assert_eq!((status, &body["error"]["code"]), (422, &json!("REFUND_NOT_DUE")), "{body}");

    eventually("it is owed", || async { ask(&hub, &tx_hash, Some(&first)).await.0 == 202 }).await;
    let (_, body) = ask(&hub, &tx_hash, Some(&first)).await;
    assert_eq!(body["refund"]["state"], "approved");
    assert_eq!(body["refund"]["amount_usdc_micro"], PRICE_MICRO.to_string());
    assert_eq!(hub.refunds().await.len(), 1, "asked for again and again, there is one");

    let (second, _, failed) = hub.call(&payer).await;
    let tx_hash = failed.body["error"]["details"]["tx_hash"].as_str().unwrap().to_owned();
    eventually("the next one is held", || async {
        let (status, body) = ask(&hub, &tx_hash, Some(&second)).await;
        status == 422 && body["error"]["code"] == "REFUND_INVESTIGATION_REQUIRED"
    })
    .await;
    let (_, body) = ask(&hub, &tx_hash, Some(&second)).await;
    assert_eq!(body["error"]["details"]["threshold"], 1);
    assert_eq!(body["error"]["details"]["window"], "24h");
    let refunds = hub.refunds().await;
    assert_eq!(refunds[1].state, RefundState::Held);
    assert_eq!(refunds[1].hold_reason, Some(HoldReason::AgentDayLimit));
    assert_eq!(hub.balance("refund:").await, 200_000, "one is owed, and one is not");
    let agent = payer.address().to_string().to_lowercase();
    let log = hub.daemon.logged();
    let alarm = log.lines().find(|line| line.contains("ALARM: a refund is held for a human"));
    assert!(alarm.unwrap().contains(&agent));
    let counted =
        crate::support::metric(&hub.daemon, "x402_refunds_total{state=\"approved\"}").await;
    assert_eq!(counted, 1);
}
