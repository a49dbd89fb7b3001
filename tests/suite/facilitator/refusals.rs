//! What is refused, in the words of each version, with payer and network, and without a trace.

use super::{Api, FUNDS, PAYEE, RARE, SHOP, body, network};
use crate::support::{Draft, now, on_chain, settlement_of, tools};
use alloy::{
    hex,
    primitives::{Address, B256, Signature, U256},
    signers::local::PrivateKeySigner,
};
use serde_json::{Value, json};
use std::fs;

/// The closed enum of npm's x402 1.2.0: a stock server of version 1 throws at any other word.
fn words_of_npm() -> Vec<String> {
    let file = tools().root().join("node_modules/x402/dist/cjs/types/index.js");
    let text = fs::read_to_string(file).unwrap();
    let (_, list) = text.split_once("var ErrorReasons = [").unwrap();
    let (list, _) = list.split_once("];").unwrap();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// A spoilt request, and the words that it is refused with.
struct Case {
    name: &'static str,
    words: [&'static str; 2],
    spoil: fn(&mut Draft),
    change: fn(&mut Value, u64),
}

const fn case(
    name: &'static str,
    words: [&'static str; 2],
    spoil: fn(&mut Draft),
    change: fn(&mut Value, u64),
) -> Case {
    Case { name, words, spoil, change }
}

/// Sets a field of the requirements, and in version 2 of what was accepted.
fn require(body: &mut Value, version: u64, field: &str, value: Value) {
    let field = if version == 1 && field == "amount" { "maxAmountRequired" } else { field };
    body["paymentRequirements"][field] = value;
    if version == 2 {
        body["paymentPayload"]["accepted"] = body["paymentRequirements"].clone();
    }
}

fn sign_with(body: &mut Value, signature: &[u8]) {
    body["paymentPayload"]["payload"]["signature"] = json!(hex::encode_prefixed(signature));
}

fn signature_of(body: &Value) -> Signature {
    let text = body["paymentPayload"]["payload"]["signature"].as_str().unwrap();
    Signature::from_raw(&hex::decode(text).unwrap()).unwrap()
}

const REQUIREMENTS: [&str; 2] = ["invalid_payment_requirements", "invalid_payment_requirements"];
const SIGNATURE: [&str; 2] = ["invalid_exact_evm_payload_signature", "invalid_exact_evm_signature"];
const VALUE: [&str; 2] = [
    "invalid_exact_evm_payload_authorization_value",
    "invalid_exact_evm_payload_authorization_value_mismatch",
];
const BEFORE: [&str; 2] = [
    "invalid_exact_evm_payload_authorization_valid_before",
    "invalid_exact_evm_payload_authorization_valid_before",
];

fn cases() -> Vec<Case> {
    let keep: fn(&mut Draft) = |_| {};
    let same: fn(&mut Value, u64) = |_, _| {};
    vec![
        case(
            "scheme",
            ["unsupported_scheme", "invalid_exact_evm_scheme"],
            keep,
            |body, version| {
                require(body, version, "scheme", json!("upto"));
            },
        ),
        case("network", ["invalid_network", "invalid_network"], keep, |body, version| {
            let other = if version == 1 { "polygon" } else { "eip155:137" };
            require(body, version, "network", json!(other));
        }),
        case("Base", ["invalid_network", "invalid_network"], keep, |body, version| {
            let other = if version == 1 { "base" } else { "eip155:8453" };
            require(body, version, "network", json!(other));
            if version == 1 {
                body["paymentPayload"]["network"] = json!(other);
            }
        }),
        case(
            "networks differ",
            ["invalid_network", "invalid_exact_evm_network_mismatch"],
            keep,
            |body, version| {
                let (other, of) = if version == 1 {
                    ("base", &mut body["paymentPayload"]["network"])
                } else {
                    ("eip155:8453", &mut body["paymentPayload"]["accepted"]["network"])
                };
                *of = json!(other);
            },
        ),
        case("asset", REQUIREMENTS, keep, |body, version| {
            require(body, version, "asset", json!(Address::repeat_byte(9)));
        }),
        case(
            "payee not on the list",
            REQUIREMENTS,
            |draft| {
                draft.authorization.to = Address::repeat_byte(0x66);
            },
            same,
        ),
        case(
            "amount of nothing",
            REQUIREMENTS,
            |draft| draft.authorization.value = U256::ZERO,
            same,
        ),
        case("amount in words", REQUIREMENTS, keep, |body, version| {
            require(body, version, "amount", json!("0.2"));
        }),
        case("no time", REQUIREMENTS, keep, |body, version| {
            require(body, version, "maxTimeoutSeconds", json!(0));
        }),
        case(
            "token's name",
            [REQUIREMENTS[0], "invalid_exact_evm_token_name_mismatch"],
            keep,
            |body, version| {
                require(body, version, "extra", json!({"name": "USD Coin", "version": "2"}));
            },
        ),
        case(
            "token's version",
            [REQUIREMENTS[0], "invalid_exact_evm_token_version_mismatch"],
            keep,
            |body, version| {
                require(body, version, "extra", json!({"name": "USDC", "version": "1"}));
            },
        ),
        case("permit2", ["invalid_payload", "unsupported_payload_type"], keep, |body, _| {
            body["paymentPayload"]["payload"] =
                json!({"signature": "0x", "permit2Authorization": {}});
        }),
        case(
            "another payee than asked for",
            [
                "invalid_exact_evm_payload_recipient_mismatch",
                "invalid_exact_evm_recipient_mismatch",
            ],
            keep,
            |body, version| require(body, version, "payTo", json!(PAYEE)),
        ),
        case("less than asked for", VALUE, keep, |body, version| {
            require(body, version, "amount", json!("200001"));
        }),
        case("more than asked for", VALUE, keep, |body, version| {
            require(body, version, "amount", json!("199999"));
        }),
        case(
            "not valid yet",
            [
                "invalid_exact_evm_payload_authorization_valid_after",
                "invalid_exact_evm_payload_authorization_valid_after",
            ],
            |draft| draft.authorization.valid_after = now() + 300,
            same,
        ),
        case(
            "not valid any more",
            BEFORE,
            |draft| draft.authorization.valid_before = now() - 1,
            same,
        ),
        case(
            "for too long",
            BEFORE,
            |draft| draft.authorization.valid_before = now() + 9_999,
            same,
        ),
        case(
            "a stranger's signature",
            SIGNATURE,
            |draft| {
                draft.payer = PrivateKeySigner::random();
            },
            same,
        ),
        case("a high s", SIGNATURE, keep, |body, _| {
            let signature = signature_of(body);
            let order = U256::from_str_radix(
                "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
                16,
            );
            let high =
                Signature::new(signature.r(), order.unwrap() - signature.s(), !signature.v());
            sign_with(body, &high.as_bytes());
        }),
        case("half a signature", SIGNATURE, keep, |body, _| {
            let half = signature_of(body).as_bytes();
            sign_with(body, &half[..64]);
        }),
        case(
            "too little money",
            ["insufficient_funds", "invalid_exact_evm_insufficient_balance"],
            |draft| draft.authorization.value = U256::from(FUNDS + 1),
            same,
        ),
        case(
            "another cap than the Splitter's",
            REQUIREMENTS,
            |draft| {
                draft.authorization.value = U256::from(u64::MAX);
            },
            same,
        ),
    ]
}

#[tokio::test]
async fn every_refusal_has_its_word_payer_and_network_and_leaves_nothing() {
    let api = Api::start("refusals", None).await;
    let known = words_of_npm();
    for Case { name, words, spoil, change } in cases() {
        for version in [1, 2] {
            let mut draft = api.draft().await;
            spoil(&mut draft);
            let mut body = body(version, &draft);
            change(&mut body, version);
            let word = words[usize::from(version == 2)];
            let told = body["paymentRequirements"]["network"].clone();
            for (path, key, good) in
                [("/verify", "invalidReason", "isValid"), ("/settle", "errorReason", "success")]
            {
                let answer = api.post(path, SHOP, &body).await;
                let case = format!("{name}, v{version} {path}: {answer:?}");
                assert_eq!(answer.status, 200, "{case}");
                assert_eq!(answer.body[good], false, "{case}");
                assert_eq!(answer.body[key], word, "{case}");
                assert_eq!(answer.body["network"], told, "{case}");
                if name != "permit2" {
                    assert_eq!(answer.body["payer"], json!(draft.authorization.from), "{case}");
                }
                assert_eq!(answer.body["transaction"], "", "{case}");
                assert!(version == 2 || known.contains(&word.to_owned()), "{case}");
            }
            let row = settlement_of(&api.database, &draft.authorization).await;
            assert!(row.is_none(), "{name}: a row");
            let held = on_chain(&api.stack, &draft.authorization).await;
            assert_eq!(held, (FUNDS, false), "{name}: money");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_none_is_400() {
    let api = Api::start("bodies", None).await;
    let draft = api.draft().await;
    let spoilt = |path: &str, value: Value| {
        let mut body = body(1, &draft);
        *body.pointer_mut(path).unwrap() = value;
        body
    };
    for (name, body, word) in [
        ("no object", json!("x"), "invalid_x402_version"),
        ("nothing", json!({}), "invalid_x402_version"),
        ("version 3", spoilt("/x402Version", json!(3)), "invalid_x402_version"),
        ("two versions", spoilt("/paymentPayload/x402Version", json!(2)), "invalid_x402_version"),
        (
            "a number",
            spoilt("/paymentPayload/payload/authorization/value", json!(5)),
            "invalid_payload",
        ),
        (
            "half a nonce",
            spoilt("/paymentPayload/payload/authorization/nonce", json!("0x12")),
            "invalid_payload",
        ),
        ("too long", json!({"x402Version": 1, "x": "y".repeat(70_000)}), "invalid_payload"),
    ] {
        for path in ["/verify", "/settle"] {
            let answer = api.post(path, SHOP, &body).await;
            assert_eq!(answer.status, 400, "{name}: {answer:?}");
            let reason = [&answer.body["invalidReason"], &answer.body["errorReason"]];
            assert!(reason.iter().any(|reason| **reason == word), "{name}: {answer:?}");
        }
    }
    let raw = reqwest::Client::new().post(format!("{}/settle", api.daemon.url)).bearer_auth(SHOP);
    let raw = raw.body("{\"x402Version\":1,").send().await.unwrap();
    assert_eq!(raw.status().as_u16(), 400);
    let raw: Value = raw.json().await.unwrap();
    assert_eq!(raw["errorReason"], "invalid_payload");
    assert_eq!(raw["network"], network(2));
}

/// A capability belongs to the caller's token, and so does each payee.
#[tokio::test]
async fn a_caller_has_settled_what_is_on_its_list_and_no_more() {
    let api = Api::start("lists", None).await;
    let passing = api.passing().await;
    let refused = api.post("/settle", RARE, &body(2, &passing)).await;
    assert_eq!(refused.body["errorReason"], "invalid_payment_requirements", "{refused:?}");
    let draft = api.draft().await;
    let mut other = body(2, &draft);
    require(&mut other, 2, "extra", json!({"name": "USDC", "version": "2", "capability": "a/b"}));
    let refused = api.post("/settle", SHOP, &other).await;
    assert_eq!(refused.body["errorReason"], "invalid_payment_requirements", "{refused:?}");
    require(
        &mut other,
        2,
        "extra",
        json!({"name": "USDC", "version": "2", "capability": "demo/echo"}),
    );
    let settled = api.post("/settle", SHOP, &other).await;
    assert_eq!(settled.body["success"], true, "{settled:?}");
    assert_ne!(settled.body["transaction"], json!(B256::ZERO));
    assert_eq!(on_chain(&api.stack, &passing.authorization).await, (FUNDS, false));
}
