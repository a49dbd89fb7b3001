//! Payments that are refused by what they say of themselves, and how a repeated call is known.

use super::{FUNDS, Gate, call};
use crate::support::{Answer, Draft, HERE, encode, new_settlement, on_chain, settlement_of};
use alloy::primitives::{Address, U256, keccak256};
use base64::{Engine, prelude::BASE64_STANDARD};
use keeper::{
    eip3009::{domain, sign},
    ledger::{Ledger, Reservation},
    lifecycle::StatusEvent,
    splitter::SplitTerms,
    x402::Network,
};
use sandbox::PRICE_MICRO;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A payment in x402 v2, for what the challenge of demo/echo asked.
async fn v2(gate: &Gate, draft: &Draft, change: impl Fn(&mut Value)) -> String {
    let challenge = gate.call(&call("challenge-1", "echo", json!({})), &[]).await;
    let header = challenge.header("payment-required");
    let decoded = BASE64_STANDARD.decode(header).unwrap();
    let required: Value = serde_json::from_slice(&decoded).unwrap();
    let mut accepted = required["accepts"][0].clone();
    change(&mut accepted);
    encode(&json!({
        "x402Version": 2,
        "resource": required["resource"],
        "accepted": accepted,
        "payload": draft.json()["payload"],
    }))
}

/// Sends a payment for demo/echo and asserts that nothing came of it.
async fn refused(
    name: &str,
    draft: &Draft,
    header: (&str, &str),
    code: &str,
    subcause: &str,
) -> Answer {
    let gate = Gate::get().await;
    let answer = gate.call(&call("refused-1", "echo", json!({})), &[header]).await;
    let told = (answer.status, answer.code(), answer.subcause());
    assert_eq!(told, (422, code, subcause), "{name}: {answer:?}");
    let link = answer.body["error"]["details"]["documentation_url"].as_str().unwrap();
    assert!(link.ends_with(&format!("{}#{subcause}", code.to_lowercase())), "{name}: {link}");
    assert_eq!(answer.header("x-payment-response"), "", "{name}");
    assert_eq!(answer.header("payment-response"), "", "{name}");
    assert!(settlement_of(&gate.database, &draft.authorization).await.is_none(), "{name}: a row");
    assert_eq!(on_chain(&gate.stack, &draft.authorization).await, (FUNDS, false), "{name}: money");
    answer
}

/// x402 v2: what a client says that it accepted is what was offered, field by field.
#[tokio::test]
async fn what_was_accepted_must_be_what_was_offered() {
    type Case = (&'static str, fn(&mut Value), &'static str, &'static str);
    let cases: [Case; 9] = [
        ("scheme", |it| it["scheme"] = "upto".into(), "X402_PAYMENT_INVALID", "unsupported_scheme"),
        (
            "network",
            |it| it["network"] = "eip155:8453".into(),
            "X402_NOT_ACCEPTED",
            "network_unsupported",
        ),
        (
            "v1 name",
            |it| it["network"] = "base-sepolia".into(),
            "X402_PAYMENT_INVALID",
            "network_mismatch",
        ),
        ("amount", |it| it["amount"] = "1".into(), "X402_PAYMENT_INVALID", "amount_mismatch"),
        (
            "asset",
            |it| it["asset"] = json!(Address::repeat_byte(1)),
            "X402_PAYMENT_INVALID",
            "asset_mismatch",
        ),
        (
            "payTo",
            |it| it["payTo"] = json!(Address::repeat_byte(1)),
            "X402_PAYMENT_INVALID",
            "payto_mismatch",
        ),
        ("window", |it| it["maxTimeoutSeconds"] = 600.into(), "X402_PAYMENT_INVALID", "expired"),
        (
            "extra",
            |it| it["extra"]["name"] = "USD Coin".into(),
            "X402_PAYMENT_INVALID",
            "asset_mismatch",
        ),
        (
            "no extra",
            |it| drop(it.as_object_mut().unwrap().remove("extra")),
            "X402_PAYMENT_INVALID",
            "asset_mismatch",
        ),
    ];
    let gate = Gate::get().await;
    let draft = gate.draft().await;
    for (name, change, code, subcause) in cases {
        let header = v2(gate, &draft, change).await;
        refused(name, &draft, ("payment-signature", &header), code, subcause).await;
    }
    let header = v2(gate, &draft, |_| {}).await;
    // In the other version's header it is no payment.
    refused(
        "v1 header",
        &draft,
        ("x-payment", &header),
        "X402_PAYMENT_INVALID",
        "unsupported_scheme",
    )
    .await;
    let answer =
        gate.call(&call("accepted-1", "echo", json!({})), &[("payment-signature", &header)]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("x-payment-response"), "", "answered in kind");
    let receipt = answer.header("payment-response");
    let receipt = BASE64_STANDARD.decode(receipt).unwrap();
    let receipt: Value = serde_json::from_slice(&receipt).unwrap();
    assert_eq!(receipt["network"], "eip155:84532");
    assert_eq!(receipt["networkId"], 84_532);
    assert_eq!(receipt["txHash"], receipt["transaction"]);
}

/// another network than is sold on, and a signature for another than is named.
#[tokio::test]
async fn of_another_network() {
    let gate = Gate::get().await;
    let mut draft = gate.draft().await;
    for network in ["base", "solana", "eip155:1"] {
        draft.network = network;
        let header = draft.header();
        let header = ("x-payment", header.as_str());
        let answer =
            refused(network, &draft, header, "X402_NOT_ACCEPTED", "network_unsupported").await;
        let details = &answer.body["error"]["details"];
        assert_eq!(
            (&details["accepted"], &details["received"]),
            (&json!(["x402"]), &json!("x402"))
        );
    }
    draft.network = "base-sepolia";
    let mainnet = domain(&Network::Base.usdc(), 8_453);
    let signature = sign(&draft.payer, &draft.authorization, &mainnet).unwrap();
    let header = encode(&draft.json_signed(&signature));
    refused("signed", &draft, ("x-payment", &header), "X402_PAYMENT_INVALID", "network_mismatch")
        .await;
}

/// twice is once too often, in whatever casing, and neither is looked at.
#[tokio::test]
async fn sent_twice() {
    let gate = Gate::get().await;
    let draft = gate.draft().await;
    let header = draft.header();
    let body = call("twice-1", "echo", json!({})).to_string();
    let address = gate.daemon.url.strip_prefix("http://").unwrap();
    for (first, second) in [
        ("X-Payment", "x-payment"),
        ("X-PAYMENT", "X-PAYMENT"),
        ("X-Payment", "Payment-Signature"),
        ("PAYMENT-SIGNATURE", "payment-signature"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "POST /v1/invoke HTTP/1.1\r\nHost: hub\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n{first}: {header}\r\n{second}: {header}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 422"), "{first} {second}: {answer}");
        assert!(answer.contains("duplicate_payment_header"), "{first} {second}: {answer}");
        assert!(answer.contains("cache-control: no-store"), "{first} {second}: {answer}");
    }
    let folded = format!("{header},{header}");
    let invalid = "X402_PAYMENT_INVALID";
    refused("folded", &draft, ("x-payment", &folded), invalid, "duplicate_payment_header").await;
}

/// C-35: base64 of one spelling.
#[tokio::test]
async fn encoded_in_another_way() {
    let gate = Gate::get().await;
    let draft = gate.draft().await;
    let mut json = draft.json();
    // A length that needs padding, and bytes that have other letters in the other alphabet.
    json["note"] = json!("???>>>");
    while json.to_string().len() % 3 != 1 {
        json["note"] = json!(format!("{}~", json["note"].as_str().unwrap()));
    }
    let good = encode(&json);
    let invalid = "X402_PAYMENT_INVALID";
    for (name, header) in [
        ("unpadded", good.trim_end_matches('=').to_owned()),
        ("one pad short", good[..good.len() - 1].to_owned()),
        ("of URLs", good.replace('/', "_").replace('+', "-")),
        ("with a blank", format!("{} {}", &good[..8], &good[8..])),
        ("with a mark before it", BASE64_STANDARD.encode(format!("\u{feff}{json}"))),
    ] {
        assert_ne!(header, good, "{name}");
        let header = ("x-payment", header.as_str());
        refused(name, &draft, header, invalid, "payload_decode_error").await;
    }
}

/// C-46: given for another capability and not settled there, it is no payment here.
#[tokio::test]
async fn given_for_another_capability() {
    let gate = Gate::get().await;
    let draft = gate.draft().await;
    let terms = SplitTerms { provider: gate.stack.provider_account, bps: [8_500, 1_000, 500] };
    let mut new = new_settlement(&draft, terms, "bound-1", 1);
    let sale = new.sale.as_mut().unwrap();
    sale.capability_id = "demo/twin".to_owned();
    sale.splitter_capability_id = keccak256("demo:twin");
    let ledger = Ledger::open_beside(&gate.database).await.unwrap();
    let mut tx = ledger.begin().await.unwrap();
    let Reservation::Reserved(known) = tx.reserve(&new).await.unwrap() else { panic!("reserved") };
    tx.step_status(&known, StatusEvent::Lapse, &json!({})).await.unwrap();
    tx.commit(HERE).await.unwrap();

    let header = draft.header();
    let answer = gate.call(&call("bound-2", "echo", json!({})), &[("x-payment", &header)]).await;
    assert_eq!(
        (answer.status, answer.subcause()),
        (422, "payment_capability_binding_violation"),
        "{answer:?}"
    );
    assert_eq!(on_chain(&gate.stack, &draft.authorization).await, (FUNDS, false));
}

/// paid with for one capability, it is refused at another of the same price.
#[tokio::test]
async fn spent_on_another_capability() {
    let gate = Gate::get().await;
    let draft = gate.draft().await;
    let header = draft.header();
    let header = [("x-payment", header.as_str())];
    assert_eq!(gate.call(&call("spent-1", "echo", json!({})), &header).await.status, 200);
    let again = gate.call(&call("spent-2", "twin", json!({})), &header).await;
    assert_eq!((again.status, again.code()), (409, "X402_SETTLEMENT_REUSED"), "{again:?}");
    assert_eq!(again.subcause(), "nonce_reused");
    assert_eq!(on_chain(&gate.stack, &draft.authorization).await.0, FUNDS - PRICE_MICRO);
}

/// a key in the header names the call, whatever its id.
#[tokio::test]
async fn a_key_in_the_header_names_the_call() {
    let gate = Gate::get().await;
    let draft = gate.draft().await;
    let header = draft.header();
    let key = format!("order:{}", draft.authorization.nonce);
    let headers = [("x-payment", header.as_str()), ("x-idempotency-key", key.as_str())];
    let first = gate.call(&call("keyed-1", "echo", json!({"a": 1})), &headers).await;
    assert_eq!((first.status, &first.body["replayed"]), (200, &json!(false)), "{first:?}");
    let again = gate.call(&call("keyed-2", "echo", json!({"a": 1})), &headers).await;
    assert_eq!((again.status, &again.body["replayed"]), (200, &json!(true)), "{again:?}");
    assert_eq!(again.body["id"], "keyed-2");
    assert_eq!(again.body["result"], first.body["result"]);
    // Without it the same call is another one.
    let other = gate.call(&call("keyed-1", "echo", json!({"a": 1})), &headers[..1]).await;
    assert_eq!((other.status, other.code()), (409, "X402_SETTLEMENT_REUSED"), "{other:?}");
    assert_eq!(on_chain(&gate.stack, &draft.authorization).await.0, FUNDS - PRICE_MICRO);
    let bad = [("x-idempotency-key", "two words")];
    let bad = gate.call(&call("keyed-3", "echo", json!({})), &bad).await;
    assert_eq!((bad.status, bad.code()), (400, "INVALID_REQUEST"));
}

/// What was taken is answered, also when the same call would be refused by now: here by what it says
/// that it accepted, elsewhere by a new price or the end of the action.
#[tokio::test]
async fn a_refusal_does_not_hide_what_was_taken() {
    let gate = Gate::get().await;
    let draft = gate.draft().await;
    let other = v2(gate, &draft, |it| it["maxTimeoutSeconds"] = 600.into()).await;
    let good = v2(gate, &draft, |_| {}).await;
    let body = call("taken-1", "echo", json!({}));
    let paid = gate.call(&body, &[("payment-signature", &good)]).await;
    assert_eq!(paid.status, 200, "{paid:?}");
    // Other bytes are another payment, but the authorization is known to be used here.
    let refused = gate.call(&body, &[("payment-signature", &other)]).await;
    assert_eq!((refused.status, refused.code()), (409, "X402_SETTLEMENT_REUSED"), "{refused:?}");
    assert_eq!(refused.body["error"]["details"]["original_request_id"], "taken-1");
    let stranger = gate.draft().await;
    let mut stolen = draft.json();
    stolen["payload"]["signature"] = stranger.json()["payload"]["signature"].clone();
    stolen["network"] = json!("base-sepolia");
    stolen["payload"]["authorization"]["value"] = json!(U256::from(1).to_string());
    let nothing = gate.call(&body, &[("x-payment", &encode(&stolen))]).await;
    assert_eq!((nothing.status, nothing.subcause()), (422, "amount_mismatch"), "{nothing:?}");
    assert!(nothing.body["error"]["details"]["original_request_id"].is_null(), "{nothing:?}");
}
