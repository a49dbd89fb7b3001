//! Headers that stand on every answer, whatever its status.

use super::{Gate, call, send};
use serde_json::{Value, json};

/// Status, body, and headers of a call.
type Case<'a> = (u16, Value, &'a [(&'a str, &'a str)]);

/// each status once, under both names.
#[tokio::test]
async fn every_status_has_its_headers() {
    let gate = Gate::get().await;
    for path in ["v1/invoke", "v1/jecp"] {
        let url = format!("{}/{path}", gate.daemon.url);
        let draft = gate.draft().await;
        let payment = draft.header();
        let payment = payment.as_str();
        let id = |name: &str| format!("{name}-{}", path.replace('/', "-"));
        let paid = call(&id("paid"), "echo", json!({}));
        let cases: [Case<'_>; 9] = [
            (200, paid.clone(), &[("x-payment", payment)]),
            (409, call(&id("other"), "echo", json!({})), &[("x-payment", payment)]),
            (400, json!({}), &[]),
            (402, call(&id("price"), "echo", json!({})), &[]),
            (404, call(&id("none"), "none", json!({})), &[]),
            (410, call(&id("old"), "old", json!({})), &[]),
            (422, paid, &[("x-payment", "***")]),
            (503, call(&id("unknown"), "unknown", json!({})), &[]),
            (200, call(&id("wallet"), "wallet", json!({})), &[]),
        ];
        for (status, body, headers) in cases {
            let mut headers = headers.to_vec();
            headers.push(("x-request-id", "my request"));
            headers.push(("origin", "https://agent.example"));
            let answer = send(&url, &body, &headers).await;
            assert_eq!(answer.status, status, "{path}: {answer:?}");
            assert_eq!(answer.header("x-request-id"), "my request");
            assert_eq!(answer.header("access-control-allow-origin"), "*");
            alias(path, &answer.headers, status);
        }
        let preflight = reqwest::Client::new()
            .request(reqwest::Method::OPTIONS, &url)
            .header("origin", "https://agent.example")
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "X-Agent-ID, X-API-Key, X-Payment, Content-Type",
            )
            .send()
            .await
            .unwrap();
        assert!(preflight.status().is_success());
        let allowed = preflight.headers()["access-control-allow-headers"].to_str().unwrap();
        assert!(allowed.to_lowercase().contains("x-idempotency-key"), "{allowed}");
        alias(path, preflight.headers(), 0);
        let get = reqwest::get(&url).await.unwrap();
        assert_eq!(get.status().as_u16(), 405);
        assert_eq!(get.headers()["cache-control"], "no-store");
        alias(path, get.headers(), 0);
    }
}

/// The alias says that it ends; the name itself does not, but for an action that does.
fn alias(path: &str, headers: &reqwest::header::HeaderMap, status: u16) {
    if path == "v1/jecp" {
        assert_eq!(headers["deprecation"], "true");
        assert_eq!(headers["sunset"], "Sat, 01 Jan 2028 00:00:00 GMT");
        let link =
            "<https://jecp.dev/spec/v1.0/01-protocol.md#21-legacy-alias>; rel=\"deprecation\"";
        assert!(headers.get_all("link").iter().any(|value| value == link), "{headers:?}");
    } else if status != 410 {
        assert!(!headers.contains_key("deprecation") && !headers.contains_key("sunset"));
    }
}

/// R-043, C-68: the bound of a payment's header, in the words of the protocol.
#[tokio::test]
async fn a_header_of_eight_kilobytes_is_read() {
    let gate = Gate::get().await;
    for (size, subcause) in
        [(8_192, "payload_decode_error"), (8_193, "header_too_large"), (30_000, "header_too_large")]
    {
        for name in ["x-payment", "payment-signature"] {
            let header = "A".repeat(size);
            let body = call("size-1", "echo", json!({}));
            let answer = gate.call(&body, &[(name, &header)]).await;
            assert_eq!((answer.status, answer.subcause()), (422, subcause), "{name} {size}");
        }
    }
}
