//! `GET /v1/traces/{trace_id}`: one payment, for the operator.

use crate::support::{Draft, call, eventually, invoke, keeper, settlement_of, stack, through};
use alloy::primitives::B256;
use reqwest::{Response, header::HeaderName};
use sandbox::{PRICE_MICRO, StackOptions};
use serde_json::Value;

const TOKEN: &str = "an operator's token of enough letters";

async fn get(url: &str, trace: &str, header: Option<(&str, &str)>) -> Response {
    let mut request = reqwest::Client::new().get(format!("{url}/v1/traces/{trace}"));
    if let Some((name, value)) = header {
        request = request.header(HeaderName::try_from(name).unwrap(), value);
    }
    request.send().await.unwrap()
}

/// C-88: either header opens it. Nobody else learns anything.
#[tokio::test]
async fn a_payment_is_told_to_the_operator_alone() {
    let stack = stack("trace", StackOptions::default()).await;
    let database = stack.sqlite();
    let change = |config: String| {
        config.replace("auth = \"payer\"", &format!("auth = \"payer\"\nadmin_token = \"{TOKEN}\""))
    };
    let mut daemon = stack.spawn(&keeper(), &database, &[], change).await.unwrap();
    daemon.ready().await.unwrap();
    let draft = Draft::new(&stack.agent(PRICE_MICRO).await.unwrap(), stack.contracts.splitter);
    eventually("the call is served", || async {
        invoke(&daemon.url, &call("traced"), Some(&draft.header())).await.status == 200
    })
    .await;
    through(&stack, &database, 1).await;
    let known = settlement_of(&database, &draft.authorization).await.unwrap();
    let trace = known.trace_id.to_string();

    assert_eq!(get(&daemon.url, &trace, None).await.status(), 401);
    let wrong = get(&daemon.url, &trace, Some(("x-admin-token", "something else"))).await;
    assert_eq!(wrong.status(), 401);
    assert!(!wrong.text().await.unwrap().contains("settlement"));
    let bearer = format!("Bearer {TOKEN}");
    for header in [("authorization", bearer.as_str()), ("x-admin-token", TOKEN)] {
        let answer = get(&daemon.url, &trace, Some(header)).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let told: Value = answer.json().await.unwrap();
        assert_eq!(told["trace_id"], trace);
        assert_eq!(told["settlement"]["amount_micro"], PRICE_MICRO);
        assert_eq!(told["settlement"]["status"], "chain_confirmed");
        assert_eq!(told["settlement"]["pull"]["tx_hash"], known.pull.unwrap().tx_hash.to_string());
        assert_eq!(told["events_follow"], true);
        assert_eq!(told["events"][0]["prev_hash"], trace);
        assert!(told["events"].as_array().unwrap().len() > 6);
        let purposes: Vec<_> = told["transactions"].as_array().unwrap().iter().collect();
        for purpose in ["pull", "record", "split"] {
            let one = purposes.iter().find(|it| it["purpose"] == purpose).unwrap();
            assert_eq!(one["envelope"], one["mined_hash"]);
        }
        let lines = told["journal"].as_array().unwrap();
        for kind in ["pull", "record", "split"] {
            assert!(lines.iter().any(|line| line["kind"] == kind), "{kind}: {lines:?}");
        }
    }
    let operator = Some(("x-admin-token", TOKEN));
    let unknown = B256::repeat_byte(1).to_string();
    assert_eq!(get(&daemon.url, &unknown, operator).await.status(), 404);
    assert_eq!(get(&daemon.url, "something", operator).await.status(), 400);
    assert!(!daemon.logged().contains(TOKEN));
}

/// Where no token is configured there is nothing to find, and nothing to guess.
#[tokio::test]
async fn without_a_token_there_are_no_traces() {
    let hub = crate::support::hub().await;
    let unknown = B256::repeat_byte(1).to_string();
    assert_eq!(get(&hub.daemon.url, &unknown, None).await.status(), 404);
    let guess = Some(("x-admin-token", ""));
    assert_eq!(get(&hub.daemon.url, &unknown, guess).await.status(), 404);
}

/// The token need not stand in a file: the environment's goes before it, and is looked at as well.
#[tokio::test]
async fn a_token_of_the_environment_is_taken() {
    let refused = tokio::process::Command::new(keeper())
        .args(["db", "migrate", "--config"])
        .arg(&crate::support::hub().await.daemon.config)
        .env("KEEPER_ADMIN_TOKEN", "guess")
        .output()
        .await
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("at least 20 characters") && !text.contains("guess"), "{text}");
}
