//! Spans reach a collector under the caller's trace, the trace is found on the payment's row, and the
//! log tells no secret.

use crate::support::{Draft, call, eventually, invoke, keeper, stack, tally, through};
use sandbox::{Inbox, PRICE_MICRO, StackOptions};
use serde_json::Value;

/// The trace that the caller names.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// A call and its settlement are spans of the caller's trace, both with the settlement's id; another
/// call has a trace of its own; the ledger has both.
#[tokio::test]
async fn a_payment_is_found_by_its_callers_trace() {
    let stack = stack("spans", StackOptions::default()).await;
    let database = stack.sqlite();
    let collector = Inbox::start().await.unwrap();
    let url = collector.url.clone();
    let change = |config| format!("{config}\n[telemetry]\notlp_endpoint = \"{url}\"\n");
    let mut daemon = stack.spawn(&keeper(), &database, &[], change).await.unwrap();
    daemon.ready().await.unwrap();
    let payer = stack.agent(2 * PRICE_MICRO).await.unwrap();
    let draft = Draft::new(&payer, stack.contracts.splitter);
    let request = reqwest::Client::new().post(format!("{}/v1/invoke", daemon.url));
    let answer = request
        .json(&call("spans-1"))
        .header("x-payment", draft.header())
        .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    let settlement = answer["billing"]["transaction_id"].as_str().unwrap().to_owned();
    let other = Draft::new(&payer, stack.contracts.splitter);
    assert_eq!(invoke(&daemon.url, &call("spans-2"), Some(&other.header())).await.status, 200);

    let trace = alloy::hex::decode(TRACE).unwrap();
    eventually("the spans are there", || async {
        let letters = collector.letters();
        assert!(letters.iter().all(|letter| letter.path == "/v1/traces"));
        let batch: Vec<u8> = letters.into_iter().flat_map(|letter| letter.body).collect();
        contains(&batch, &trace)
            && contains(&batch, b"invoke")
            && contains(&batch, b"settlement")
            && contains(&batch, settlement.as_bytes())
    })
    .await;
    let kept = tally(&database, "x402_settlements", "otel_trace_id").await;
    assert_eq!((kept.len(), kept.get(TRACE)), (2, Some(&1)), "{kept:?}");
    let secret = draft.signature();
    for letter in collector.letters() {
        assert!(!contains(&letter.body, &secret));
        assert!(!contains(&letter.body, alloy::hex::encode(&secret).as_bytes()));
    }
}

/// Neither the payer's signature nor any key or secret stands in the log of a paid call, whoever reads
/// it; and without a collector no trace is made up.
#[tokio::test]
async fn the_log_of_a_paid_call_tells_no_secret() {
    let stack = stack("secrets", StackOptions::default()).await;
    let database = stack.sqlite();
    let token = "the token of an operator in a test";
    let change = |config: String| {
        config.replacen("[http]", &format!("[http]\nadmin_token = \"{token}\""), 1)
    };
    let mut daemon = stack.spawn(&keeper(), &database, &["--json-log"], change).await.unwrap();
    daemon.ready().await.unwrap();
    let draft = Draft::new(&stack.agent(PRICE_MICRO).await.unwrap(), stack.contracts.splitter);
    let served = invoke(&daemon.url, &call("secrets-1"), Some(&draft.header())).await;
    assert_eq!(served.status, 200, "{served:?}");
    let status = reqwest::Client::new().get(format!("{}/v1/status/x402", daemon.url));
    assert_eq!(status.bearer_auth(token).send().await.unwrap().status(), 200);
    through(&stack, &database, 1).await;
    let log = daemon.logged().to_lowercase();
    assert!(log.lines().count() > 10 && log.contains("reserved"), "there is a log");
    let signature = alloy::hex::encode(draft.signature());
    let secrets = [
        // Half of it is enough to recognise it by.
        &signature[..64],
        &signature[64..128],
        &draft.header()[..64],
        stack.provider.secret(),
        token,
    ];
    for secret in secrets {
        assert!(!log.contains(&secret.to_lowercase()), "{secret}");
    }
    for (name, value) in stack.kms.credentials().environment() {
        let is_secret = name.contains("SECRET");
        assert!(!is_secret || !log.contains(&value.to_lowercase()), "{name}");
    }
    let traces = tally(&database, "x402_settlements", "coalesce(otel_trace_id, 'none')").await;
    assert_eq!(traces["none"], 1);
}
