//! Calls that a wallet pays: what goes to the hub behind ours, what comes back, and what is asked for
//! when the wallet is short.

use super::{FUNDS, Gate, call};
use crate::support::{eventually, flags, on_chain, settlement_of, settlements};
use alloy::primitives::Address;
use serde_json::{Value, json};

/// Credentials of somebody with a wallet, and what else a client may send.
const AGENT: [(&str, &str); 6] = [
    ("x-agent-id", "jdb_ag_0123456789abcdef01234567"),
    ("x-api-key", "jdb_ak_0123456789abcdef"),
    ("x-request-id", "request-7"),
    ("x-idempotency-key", "order-7"),
    ("cookie", "session=secret"),
    ("x-forwarded-for", "192.0.2.1"),
];

/// The schemes in a list of `accepts`.
fn schemes(accepts: &Value) -> Vec<&str> {
    accepts.as_array().into_iter().flatten().map(|it| it["scheme"].as_str().unwrap()).collect()
}

/// R-053, R-054, R-083: what goes there and comes back is listed by name, and no x402 is touched.
#[tokio::test]
async fn a_wallet_pays_at_the_hub_behind_ours() {
    let gate = Gate::get().await;
    for action in ["wallet", "both"] {
        let id = format!("passed-{action}");
        let body = call(&id, action, json!({"wallet": "pays"}));
        let answer = gate.call(&body, &AGENT).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body["billing"]["method"], "wallet");
        assert_eq!(answer.header("x-request-id"), "request-7");
        assert_eq!(answer.header("retry-after"), "7");
        for name in ["x-payment-response", "payment-response", "set-cookie", "server"] {
            assert_eq!(answer.header(name), "", "{name}");
        }
        let passed = gate.wallets.of(&id);
        assert_eq!(passed.len(), 1);
        assert_eq!(passed[0].body, body, "as it came");
        for (name, value) in &AGENT[..4] {
            assert_eq!(passed[0].headers[*name], *value);
        }
        for name in ["cookie", "x-forwarded-for", "x-payment"] {
            assert!(!passed[0].headers.contains_key(name), "{name}");
        }
    }
}

/// R-005, R-009, R-019, R-033, R-001, R-003, R-004, R-017, R-018, R-020, R-021, R-034, R-035,
/// R-054: one row each of who asks for what.
#[tokio::test]
async fn what_is_asked_for() {
    let gate = Gate::get().await;
    let agent = &AGENT[..2];
    let (wallet, exact) = ("stripe-wallet", "exact");
    let x402 = r#"x402, scheme="exact", network="base-sepolia""#;
    for (action, headers, block, root, scheme, next) in [
        ("wallet", agent, vec![wallet], Vec::new(), "Bearer", "topup"),
        ("wallet", &[], vec![wallet], Vec::new(), "Bearer", "topup"),
        ("both", agent, vec![wallet, exact], vec![exact], "x402, Bearer", "topup"),
        ("both", &[], vec![wallet, exact], vec![exact], "x402, Bearer", "topup"),
        ("echo", agent, vec![exact], vec![exact], x402, "x402_settle"),
        ("echo", &[], vec![exact], vec![exact], x402, "x402_settle"),
    ] {
        let name = format!("asked-{action}-{}", headers.len());
        let answer = gate.call(&call(&name, action, json!({"wallet": "short"})), headers).await;
        assert_eq!(answer.status, 402, "{name}: {answer:?}");
        assert_eq!(schemes(&answer.body["payment"]["accepts"]), block, "{name}");
        assert_eq!(schemes(&answer.body["accepts"]), root, "{name}");
        assert_eq!(answer.header("www-authenticate"), scheme, "{name}");
        assert_eq!(answer.header("retry-after"), "30", "{name}");
        assert_eq!(answer.body["next_action"]["type"], next, "{name}");
        assert_eq!(!answer.header("payment-required").is_empty(), action != "wallet", "{name}");
        // docs/decisions/0002.
        let stock = headers.is_empty() && action != "wallet";
        assert_eq!(answer.body["error"].is_string(), stock, "{name}");
        let envelope = if stock { &answer.body } else { &answer.body["error"] };
        assert_eq!(envelope["code"], "PAYMENT_REQUIRED", "{name}");
        assert_eq!(envelope["details"]["subcause"], "x402_or_wallet", "{name}");
        // A wallet was asked where there is one.
        let asked = !gate.wallets.of(&name).is_empty();
        assert_eq!(asked, action == "wallet" || (action == "both" && !stock), "{name}");
        let remaining = if asked { json!(0.05) } else { json!(0.0) };
        assert_eq!(envelope["details"]["remaining_usdc"], remaining, "{name}");
        if let Some(entry) = answer.body["accepts"].as_array().map(|entries| &entries[0]) {
            let pay_to: Address = serde_json::from_value(entry["payTo"].clone()).unwrap();
            assert_eq!(pay_to, gate.stack.contracts.splitter, "{name}");
        }
        if block_has_wallet(&answer.body) {
            let entry = &answer.body["payment"]["accepts"][0];
            assert_eq!(entry["amount_usd"].to_string(), "0.2");
            let topup = format!("https://wallets.example/topup?return={name}");
            assert_eq!(entry["topup_url"], topup);
            assert_eq!(answer.body["next_action"]["ui"], topup);
        }
    }
    let known = settlements(&gate.stack, &gate.database).await;
    let asked =
        |request: &Option<String>| request.as_ref().is_some_and(|id| id.starts_with("asked-"));
    assert!(!known.iter().any(|settlement| asked(&settlement.request_id)), "nothing was reserved");
}

/// Whether a wallet comes first in a `payment` block.
fn block_has_wallet(body: &Value) -> bool {
    body["payment"]["accepts"][0]["scheme"] == "stripe-wallet"
}

/// R-052, R-053: a payment is taken where it is sold for, and no wallet is asked beside it.
#[tokio::test]
async fn a_payment_is_the_only_way_that_is_tried() {
    let gate = Gate::get().await;
    let draft = gate.draft().await;
    let header = draft.header();
    let mut headers = AGENT[..2].to_vec();
    headers.push(("x-payment", &header));
    let wallet_only = gate.call(&call("only-1", "wallet", json!({})), &headers).await;
    assert_eq!((wallet_only.status, wallet_only.code()), (422, "X402_NOT_ACCEPTED"));
    assert_eq!(wallet_only.subcause(), "capability_wallet_only");
    let details = &wallet_only.body["error"]["details"];
    assert_eq!((&details["accepted"], &details["received"]), (&json!(["stripe"]), &json!("x402")));
    assert_eq!(wallet_only.body["next_action"]["type"], "topup");
    assert!(settlement_of(&gate.database, &draft.authorization).await.is_none());
    assert_eq!(on_chain(&gate.stack, &draft.authorization).await, (FUNDS, false), "not consumed");
    let garbage = gate.call(&call("only-2", "wallet", json!({})), &[("x-payment", "***")]).await;
    assert_eq!(garbage.subcause(), "capability_wallet_only");

    let paid = gate.call(&call("only-3", "both", json!({})), &headers).await;
    assert_eq!((paid.status, &paid.body["billing"]["method"]), (200, &json!("x402")), "{paid:?}");
    let bad = gate.call(&call("only-4", "both", json!({})), &headers).await;
    assert_eq!(bad.status, 409, "{bad:?}");
    for id in ["only-1", "only-2", "only-3", "only-4"] {
        assert!(gate.wallets.of(id).is_empty(), "{id}");
    }
}

/// R-317: whatever the hub behind ours does, the caller gets words of the protocol, or the truth of
/// it that is his.
#[tokio::test]
async fn a_hub_that_misbehaves_is_not_shown() {
    let gate = Gate::get().await;
    let agent = &AGENT[..2];
    for (what, status, code) in [
        ("html", 503, "SERVICE_DEGRADED"),
        ("elsewhere", 503, "SERVICE_DEGRADED"),
        ("silent", 503, "SERVICE_DEGRADED"),
        // A bound of the caller's own is not an empty wallet: x402 would not help it.
        ("budget", 402, "INSUFFICIENT_BUDGET"),
        ("stranger", 401, "INVALID_API_KEY"),
    ] {
        let body = call(&format!("odd-{what}"), "both", json!({"wallet": what}));
        let answer = gate.call(&body, agent).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{what}: {answer:?}");
        let scheme = if status == 503 { "" } else { "Bearer" };
        assert_eq!(answer.header("www-authenticate"), scheme, "{what}");
        assert_eq!(answer.header("server"), "", "{what}");
    }
}

/// An answer without end is cut off, and is not taken for a whole one.
#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let gate = Gate::get().await;
    let body = call("endless-1", "wallet", json!({"wallet": "endless"}));
    let mut answer = reqwest::Client::new()
        .post(format!("{}/v1/invoke", gate.daemon.url))
        .json(&body)
        .send()
        .await
        .unwrap();
    let mut read = 0;
    let broken = loop {
        match answer.chunk().await {
            Ok(Some(part)) => read += part.len(),
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(broken && read <= 10 * 1024 * 1024, "{read} bytes");
}

/// R-035, R-111, R-112, C-38: payments switched off leave wallets alone, and are not spoken of.
#[tokio::test]
async fn switched_off_payments_leave_wallets_alone() {
    let gate = Gate::start("gate-off").await;
    let reason = ["set", "x402_enabled", "off", "--reason", "test"];
    let set = flags(&gate.daemon.config, &gate.stack, &reason).await;
    assert!(set.status.success(), "{set:?}");
    let agent = &AGENT[..2];
    eventually("it is seen", || async {
        gate.call(&call("off-0", "echo", json!({})), &[]).await.status == 503
    })
    .await;
    let off = gate.call(&call("off-1", "echo", json!({})), agent).await;
    assert_eq!((off.status, off.code()), (503, "SERVICE_DEGRADED"));
    assert_eq!(off.header("retry-after"), "60");
    assert_eq!(off.body["next_action"], json!({"type": "wait", "retry_after_seconds": 60}));
    let served = gate.call(&call("off-2", "both", json!({"wallet": "pays"})), agent).await;
    assert_eq!(served.status, 200, "{served:?}");
    let short = gate.call(&call("off-3", "both", json!({"wallet": "short"})), agent).await;
    assert_eq!(short.status, 402, "{short:?}");
    assert_eq!(schemes(&short.body["payment"]["accepts"]), ["stripe-wallet"]);
    assert!(short.body["accepts"].is_null());
    assert_eq!(short.header("www-authenticate"), "Bearer");
    assert_eq!(short.header("payment-required"), "");
    let draft = gate.draft().await;
    for header in [draft.header(), "***".to_owned()] {
        let refused = gate.call(&call("off-4", "both", json!({})), &[("x-payment", &header)]).await;
        assert_eq!((refused.status, refused.subcause()), (422, "x402_disabled"), "{refused:?}");
        assert_eq!(refused.body["error"]["details"]["accepted"], json!(["stripe"]));
    }
    assert!(settlements(&gate.stack, &gate.database).await.is_empty());
    assert_eq!(on_chain(&gate.stack, &draft.authorization).await, (FUNDS, false));
}
