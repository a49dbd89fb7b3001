//! Without accounts: the payment's own signature is what says who calls.

use super::ground::FUNDS;
use crate::support::{
    Draft, call, encode, hub, invoke, keeper, on_chain, postgres, settlement_of, stack,
};
use alloy::primitives::{B256, U256};
use sandbox::{PRICE_MICRO, StackOptions};
use serde_json::Value;

/// What else is wrong with a payment.
type Change = fn(&mut Draft);

/// A forged copy of a payment: all of it but the signature, one bit of which is another.
fn forged(draft: &Draft) -> String {
    let mut signature = draft.signature();
    signature[40] ^= 1;
    encode(&draft.json_signed(&signature))
}

/// whoever cannot sign for a payment is told the same of one that was settled and of one that
/// never was, whatever else is wrong.
#[tokio::test]
async fn nothing_is_said_of_a_payment_before_its_signature_is_checked() {
    let hub = hub().await;
    let payer = hub.stack.agent(FUNDS).await.unwrap();
    let known = Draft::new(&payer, hub.stack.contracts.splitter);
    let paid = invoke(&hub.daemon.url, &call("signed-for-1"), Some(&known.header())).await;
    assert_eq!(paid.status, 200, "{paid:?}");
    let changes: [(&str, Change); 8] = [
        ("nothing", |_| {}),
        ("amount", |draft| draft.authorization.value = U256::from(1)),
        ("payee", |draft| draft.authorization.to = alloy::primitives::Address::ZERO),
        ("over", |draft| draft.authorization.valid_before = 1_700_000_000),
        ("early", |draft| draft.authorization.valid_after = draft.authorization.valid_before - 1),
        ("too long", |draft| draft.authorization.valid_before += 100_000),
        ("network", |draft| draft.network = "base"),
        ("other payer", |draft| draft.authorization.from = alloy::primitives::Address::ZERO),
    ];
    for (name, change) in changes {
        for id in ["signed-for-1", "signed-for-2"] {
            let mut told = Vec::new();
            for nonce in [known.authorization.nonce, B256::random()] {
                let mut draft = Draft::new(&payer, hub.stack.contracts.splitter);
                draft.authorization = known.authorization.clone();
                draft.authorization.nonce = nonce;
                change(&mut draft);
                let answer = invoke(&hub.daemon.url, &call(id), Some(&forged(&draft))).await;
                assert_eq!(answer.status, 422, "{name}: {answer:?}");
                let text = answer.body.to_string();
                let pull = paid.body["billing"]["x402"]["settlement_tx"].as_str().unwrap();
                assert!(!text.contains(pull), "{name}: {text}");
                assert!(answer.body["error"]["details"].get("tx_hash").is_none(), "{name}");
                told.push(answer.body);
            }
            assert_eq!(told[0], told[1], "{name}");
        }
    }
    // Its payer is told whose it is.
    let other = invoke(&hub.daemon.url, &call("signed-for-2"), Some(&known.header())).await;
    assert_eq!((other.status, other.code()), (409, "X402_SETTLEMENT_REUSED"));
}

/// the same while the hub takes no payments: the switch is not a way around the signature.
#[tokio::test]
async fn nor_while_payments_are_switched_off() {
    let stack = stack("payer_off", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let payer = stack.agent(FUNDS).await.unwrap();
    let known = Draft::new(&payer, stack.contracts.splitter);
    assert_eq!(invoke(&daemon.url, &call("off-1"), Some(&known.header())).await.status, 200);
    let off = ["set", "x402_enabled", "off", "--reason", "a test"];
    assert!(crate::support::flags(&daemon.config, &stack, &off).await.status.success());
    let mut unknown = Draft::new(&payer, stack.contracts.splitter);
    unknown.authorization.nonce = B256::random();
    crate::support::eventually("payments are off", || async {
        let answer = invoke(&daemon.url, &call("off-2"), Some(&forged(&unknown))).await;
        answer.subcause() == "x402_disabled"
    })
    .await;
    let mut told = Vec::new();
    for draft in [&known, &unknown] {
        for id in ["off-1", "off-3"] {
            let mut answer = invoke(&daemon.url, &call(id), Some(&forged(draft))).await;
            assert_eq!(answer.subcause(), "x402_disabled");
            answer.body["id"] = Value::Null;
            told.push(answer.body);
        }
    }
    assert!(told.iter().all(|one| *one == told[0]), "{told:#?}");
    let again = invoke(&daemon.url, &call("off-1"), Some(&known.header())).await;
    assert_eq!((again.status, again.body["replayed"].as_bool()), (200, Some(true)), "{again:?}");
}

/// without accounts the payer is limited: its payments are counted, unpaid calls are nobody's, and
/// a call that is paid is answered again as often as it is asked for.
#[tokio::test]
async fn a_payer_pays_so_often_in_any_minute() {
    let postgres = postgres().await;
    for database in [None, Some(postgres)] {
        let options = StackOptions { settle_timeout: "60s", ..StackOptions::default() };
        let stack = stack("payer_rate", options).await;
        let database = database.unwrap_or_else(|| stack.sqlite());
        let change = |config: String| config.replacen("bronze = 1000000", "bronze = 2", 1);
        let mut daemon = stack.spawn(&keeper(), &database, &[], change).await.unwrap();
        daemon.ready().await.unwrap();
        let payer = stack.agent(FUNDS).await.unwrap();
        let drafts: Vec<_> = (0..3).map(|_| Draft::new(&payer, stack.contracts.splitter)).collect();
        for (n, draft) in drafts[..2].iter().enumerate() {
            let answer =
                invoke(&daemon.url, &call(&format!("rate-{n}")), Some(&draft.header())).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.body["execution"]["trust_tier"], "bronze");
        }
        let third = invoke(&daemon.url, &call("rate-2"), Some(&drafts[2].header())).await;
        assert_eq!((third.status, third.code()), (429, "RATE_LIMITED"), "{third:?}");
        let seconds: u64 = third.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&seconds));
        assert!(settlement_of(&database, &drafts[2].authorization).await.is_none());
        let left = FUNDS - 2 * PRICE_MICRO;
        assert_eq!(on_chain(&stack, &drafts[2].authorization).await, (left, false));
        for n in [0, 1] {
            for _ in 0..2 {
                let id = format!("rate-{n}");
                let again = invoke(&daemon.url, &call(&id), Some(&drafts[n].header())).await;
                assert_eq!((again.status, again.body["replayed"].as_bool()), (200, Some(true)));
            }
        }
        for _ in 0..5 {
            assert_eq!(invoke(&daemon.url, &call("rate-9"), None).await.status, 402);
        }
        let other = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
        let answer = invoke(&daemon.url, &call("rate-2"), Some(&other.header())).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}
