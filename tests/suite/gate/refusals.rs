//! Calls that are refused before anybody looks at their payment, and whatever they bring along.

use super::{FUNDS, Gate, call, send};
use crate::support::{on_chain, settlement_of};
use serde_json::{Value, json};

/// Whatever is wrong with a call, its payment is left alone.
async fn refused(body: &Value, status: u16, code: &str) -> crate::support::Answer {
    let gate = Gate::get().await;
    let draft = gate.draft().await;
    let unpaid = gate.call(body, &[]).await;
    assert_eq!((unpaid.status, unpaid.code()), (status, code), "{unpaid:?}");
    let paid = gate.call(body, &[("x-payment", &draft.header())]).await;
    assert_eq!((paid.status, paid.code()), (status, code), "{paid:?}");
    assert_eq!(paid.body["error"], unpaid.body["error"]);
    assert!(settlement_of(&gate.database, &draft.authorization).await.is_none(), "a row");
    assert_eq!(on_chain(&gate.stack, &draft.authorization).await, (FUNDS, false), "money");
    paid
}

/// R-305: nothing is missing, nothing is more, and names are names.
#[tokio::test]
async fn an_envelope_has_its_form() {
    let good = call("form-1", "echo", json!({}));
    for (key, value, code) in [
        ("jecp", json!("1.1"), "UNSUPPORTED_VERSION"),
        ("jecp", json!(1), "INVALID_REQUEST"),
        ("id", json!("abc"), "INVALID_REQUEST"),
        ("id", json!("x".repeat(65)), "INVALID_REQUEST"),
        ("id", json!("a/b/c"), "INVALID_REQUEST"),
        ("capability", json!("Demo"), "INVALID_REQUEST"),
        ("capability", json!("demo/echo/more"), "INVALID_REQUEST"),
        ("action", json!("e_cho"), "INVALID_REQUEST"),
        ("metadata", json!([1]), "INVALID_REQUEST"),
        ("extra", json!(1), "INVALID_REQUEST"),
    ] {
        let mut body = good.clone();
        body[key] = value;
        refused(&body, 400, code).await;
    }
    for key in ["jecp", "id", "capability", "action", "input"] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(key);
        refused(&body, 400, "INVALID_REQUEST").await;
    }
}

/// R-316: body, input and metadata have their bounds.
#[tokio::test]
async fn what_is_too_large_is_refused() {
    let gate = Gate::get().await;
    let mut noted = call("large-1", "echo", json!({}));
    noted["metadata"] = json!({"note": "x".repeat(4 * 1024)});
    refused(&noted, 413, "INPUT_TOO_LARGE").await;
    noted["metadata"] = json!({"note": "x".repeat(4 * 1024 - r#"{"note":""}"#.len())});
    assert_eq!(gate.call(&noted, &[]).await.status, 402);
    let large = call("large-2", "echo", json!("x".repeat(5 * 1024 * 1024)));
    assert_eq!(gate.call(&large, &[]).await.status, 413);
    let fits = call("large-3", "echo", json!("x".repeat(5 * 1024 * 1024 - 2)));
    assert_eq!(gate.call(&fits, &[]).await.status, 402);
}

/// R-307: nothing but JSON, and nothing said is JSON; under both names.
#[tokio::test]
async fn a_body_is_json() {
    let gate = Gate::get().await;
    let client = reqwest::Client::new();
    for path in ["v1/invoke", "v1/jecp"] {
        for (kind, status) in [
            (Some("text/plain"), 415),
            (Some("application/x-www-form-urlencoded"), 415),
            (Some("application/json; charset=utf-8"), 402),
            (None, 402),
        ] {
            let mut request = client.post(format!("{}/{path}", gate.daemon.url));
            if let Some(kind) = kind {
                request = request.header("content-type", kind);
            }
            let answer = request.body(call("kind-1", "echo", json!({})).to_string()).send().await;
            assert_eq!(answer.unwrap().status().as_u16(), status, "{path} {kind:?}");
        }
    }
}

/// R-314: an input that is not what the capability asks for, wherever it would be paid.
#[tokio::test]
async fn an_input_is_held_against_its_schema_first() {
    let gate = Gate::get().await;
    let wrong = call("strict-1", "strict", json!({"size": 0, "colour": "red"}));
    let answer = refused(&wrong, 400, "INPUT_SCHEMA_VIOLATION").await;
    let errors = answer.body["error"]["details"]["errors"].as_array().unwrap();
    assert!(errors.iter().any(|error| error["instance_path"] == "/size"), "{errors:?}");
    assert!(errors.iter().all(|error| error["reason"].is_string()));
    assert!(errors.iter().all(|error| error["schema_path"].is_string()));
    let wallet = [("x-agent-id", "jdb_ag_1"), ("x-api-key", "jdb_ak_1")];
    assert_eq!(gate.call(&wrong, &wallet).await.status, 400);
    assert!(gate.wallets.of("strict-1").is_empty(), "no wallet was asked");
    let right = call("strict-2", "strict", json!({"size": 1}));
    assert_eq!(gate.call(&right, &[]).await.status, 402);
}

/// R-076, R-315: what has ended is not sold; what ends soon says so.
#[tokio::test]
async fn an_action_ends() {
    let gate = Gate::get().await;
    let over = refused(&call("old-1", "old", json!({})), 410, "CAPABILITY_DEPRECATED").await;
    let details = &over.body["error"]["details"];
    assert_eq!(details["capability"], "demo/old");
    assert_eq!(details["sunset_at"], "2026-01-31T00:00:00Z");
    assert_eq!(details["successor"], "demo/echo");
    assert_eq!(over.header("sunset"), "Sat, 31 Jan 2026 00:00:00 GMT");
    assert_eq!(over.header("deprecation"), "true");
    let links: Vec<_> =
        over.headers.get_all("link").iter().map(|link| link.to_str().unwrap()).collect();
    assert!(links.iter().any(|link| link.ends_with("rel=\"deprecation\"")), "{links:?}");
    let successor =
        format!("{}/v1/capabilities/demo/echo>; rel=\"successor-version\"", gate.daemon.url);
    assert!(links.iter().any(|link| link.ends_with(&successor)), "{links:?}");
    let wallet = [("x-agent-id", "jdb_ag_1"), ("x-api-key", "jdb_ak_1")];
    assert_eq!(gate.call(&call("old-2", "old", json!({})), &wallet).await.status, 410);
    assert!(gate.wallets.of("old-2").is_empty());

    let draft = gate.draft().await;
    let body = call("ending-1", "ending", json!({}));
    for headers in [&[][..], &[("x-payment", draft.header().as_str())]] {
        let answer = gate.call(&body, headers).await;
        assert_eq!(answer.status, if headers.is_empty() { 402 } else { 200 }, "{answer:?}");
        assert_eq!(answer.header("deprecation"), "true");
        assert!(answer.header("sunset").ends_with(" GMT"), "{answer:?}");
    }
    let lasting = gate.call(&call("lasting-1", "echo", json!({})), &[]).await;
    assert_eq!((lasting.header("sunset"), lasting.header("deprecation")), ("", ""));
}

/// R-056, R-306: the first gate that is shut answers.
#[tokio::test]
async fn gates_stand_in_their_order() {
    let gate = Gate::get().await;
    let url = format!("{}/v1/invoke", gate.daemon.url);
    let garbage = [("x-payment", "***")];
    let text = reqwest::Client::new().post(&url).header("content-type", "text/plain").body("{");
    assert_eq!(text.send().await.unwrap().status().as_u16(), 415, "media type before JSON");
    let mut body = call("order-1", "nothing", json!({}));
    body["more"] = json!(1);
    assert_eq!(send(&url, &body, &garbage).await.code(), "INVALID_REQUEST", "form before routing");
    body.as_object_mut().unwrap().remove("more");
    assert_eq!(send(&url, &body, &garbage).await.code(), "ACTION_NOT_FOUND");
    body["action"] = json!("strict");
    let schema = send(&url, &body, &garbage).await;
    assert_eq!(schema.code(), "INPUT_SCHEMA_VIOLATION", "the input before its payment");
    body["action"] = json!("echo");
    assert_eq!(send(&url, &body, &garbage).await.subcause(), "payload_decode_error");
}
