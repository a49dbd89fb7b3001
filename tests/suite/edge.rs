//! What the edge takes, and what it refuses without moving money. Over real HTTP, on a real chain.

use crate::support::{
    Answer, Draft, call, chain, encode, hub, invoke, keeper, on_chain, settlement_of, stack,
};
use alloy::{
    primitives::{Address, B256, Signature, U256, b256},
    sol,
    sol_types::SolCall,
};
use keeper::{
    chain::BlockTag,
    lifecycle::{KeeperState, Status},
    x402::{Network, PaymentRequired, Version},
};
use sandbox::{AnvilOptions, PRICE_MICRO, StackOptions};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Micro-USDC of every test's payer.
const FUNDS: u64 = 1_000_000;

/// A payer and a good payment of demo/echo, to be spoilt.
async fn draft() -> Draft {
    let hub = hub().await;
    Draft::new(&hub.stack.agent(FUNDS).await.unwrap(), hub.stack.contracts.splitter)
}

/// Sends a payment and asserts that it is refused by name and leaves no row and no money behind.
async fn refused(name: &str, draft: &Draft, header: &str, status: u16, subcause: &str) -> Answer {
    let hub = hub().await;
    let answer = invoke(&hub.daemon.url, &call("refused-1"), Some(header)).await;
    assert_eq!((answer.status, answer.subcause()), (status, subcause), "{name}: {answer:?}");
    assert!(answer.body["next_action"]["type"].is_string(), "{name}: no next_action");
    assert_eq!(answer.header("cache-control"), "no-store", "{name}");
    assert_eq!(answer.header("x-payment-response"), "", "{name}");
    let link = answer.body["error"]["details"]["documentation_url"].as_str().unwrap();
    assert!(link.ends_with(&format!("#{subcause}")), "{name}: {link}");
    assert!(settlement_of(&hub.database, &draft.authorization).await.is_none(), "{name}: a row");
    assert_eq!(on_chain(&hub.stack, &draft.authorization).await, (FUNDS, false), "{name}: money");
    answer
}

// ------------------------------------------------------------------------------ the challenge

/// R-002, R-006, R-007, R-008, R-010, R-011, R-012, R-013, R-014, R-015, R-016, R-020, R-001 to
/// R-017, R-033; x402 v1 in the body, v2 in the header, JECP's block beside them.
#[tokio::test]
async fn an_unpaid_call_is_told_the_price_in_three_languages() {
    let hub = hub().await;
    let answer = invoke(&hub.daemon.url, &call("unpaid-1"), None).await;
    assert_eq!(answer.status, 402);
    assert_eq!(answer.body["x402Version"], 1);
    assert!(answer.body["error"].is_string(), "stock clients parse it as a string");
    let accepts = answer.body["accepts"].as_array().unwrap();
    assert_eq!(accepts.len(), 1);
    assert_eq!(accepts[0]["scheme"], "exact");
    assert_eq!(accepts[0]["network"], "base-sepolia");
    assert_eq!(accepts[0]["maxAmountRequired"], PRICE_MICRO.to_string());
    assert_eq!(accepts[0]["extra"], json!({"name": "USDC", "version": "2"}));
    assert_eq!(accepts[0]["mimeType"], "application/json");
    assert!(accepts[0].get("outputSchema").is_none());
    let pay_to: Address = serde_json::from_value(accepts[0]["payTo"].clone()).unwrap();
    assert_eq!(pay_to, hub.stack.contracts.splitter);

    let header = answer.header("payment-required");
    let challenge: PaymentRequired = serde_json::from_slice(
        &base64::Engine::decode(&base64::prelude::BASE64_STANDARD, header).unwrap(),
    )
    .unwrap();
    assert_eq!(challenge.x402_version, Version::V2);
    assert_eq!(challenge.accepts[0].network, "eip155:84532");
    assert_eq!(challenge.accepts[0].amount, PRICE_MICRO.to_string());

    let block = &answer.body["payment"];
    assert_eq!((&block["x402Version"], &block["ttl_seconds"]), (&json!(1), &json!(30)));
    let jecp = &block["accepts"][0];
    let usdc: Address = serde_json::from_value(jecp["asset"].clone()).unwrap();
    assert_eq!(usdc, Network::BaseSepolia.usdc().address);
    assert_eq!((&jecp["asset_symbol"], &jecp["asset_decimals"]), (&json!("USDC"), &json!(6)));
    assert_eq!(jecp["max_timeout_seconds"], 60);
    assert_eq!(jecp["resource"], format!("{}/v1/invoke", hub.daemon.url));
    assert_eq!((&jecp["extra"]["name"], &jecp["extra"]["version"]), (&json!("USDC"), &json!("2")));
    assert_eq!(jecp["extra"]["facilitator_url"], hub.daemon.url);
    assert_eq!(jecp["max_amount_required"], PRICE_MICRO.to_string());
    assert_eq!(jecp["amount"], jecp["max_amount_required"]);
    assert_eq!(jecp["pay_to"], jecp["payTo"]);
    assert!(jecp["extra"]["splitter_capability_id"].as_str().unwrap().len() == 66);
    assert_eq!(
        answer.header("www-authenticate"),
        r#"x402, scheme="exact", network="base-sepolia""#
    );
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("retry-after"), "30");
    assert!(answer.header("access-control-expose-headers").contains("x-payment-response"));
    assert_eq!(answer.body["documentation_url"], "https://jecp.dev/errors/payment_required");
    assert_eq!(answer.body["details"]["subcause"], "x402_or_wallet");
    assert_eq!(answer.body["details"]["required_usdc"].to_string(), "0.2");
}

/// R-031, R-032: a browser may send what a payment needs and read what it is answered.
#[tokio::test]
async fn browsers_may_pay() {
    let hub = hub().await;
    let preflight = reqwest::Client::new()
        .request(reqwest::Method::OPTIONS, format!("{}/v1/invoke", hub.daemon.url))
        .header("origin", "https://agent.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "X-Agent-ID, X-API-Key, X-Payment, Content-Type")
        .send()
        .await
        .unwrap();
    assert!(preflight.status().is_success());
    let header = |name: &str| {
        preflight.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_lowercase()
    };
    let allowed = header("access-control-allow-headers");
    for name in ["x-agent-id", "x-api-key", "x-payment", "payment-signature", "content-type"] {
        assert!(allowed.contains(name), "{name}: {allowed}");
    }
    let exposed = header("access-control-expose-headers");
    for name in ["x-payment-response", "payment-required", "payment-response", "x-request-id"] {
        assert!(exposed.contains(name), "{name}: {exposed}");
    }
    assert_eq!(header("access-control-allow-origin"), "*");
}

#[tokio::test]
async fn a_call_that_is_none_is_refused_before_payment_is_looked_at() {
    let hub = hub().await;
    let draft = draft().await;
    let header = draft.header();
    let unknown = json!({"jecp": "1.0", "id": "call-1", "capability": "nobody/other",
                         "action": "other", "input": {}});
    let action = json!({"jecp": "1.0", "id": "call-1", "capability": "demo/other",
                        "action": "other", "input": {}});
    for (body, status, code) in [
        (unknown, 404, "CAPABILITY_NOT_FOUND"),
        (action, 404, "ACTION_NOT_FOUND"),
        (json!({"jecp": "1.0"}), 400, "INVALID_REQUEST"),
        (json!([1, 2]), 400, "INVALID_REQUEST"),
    ] {
        let answer = invoke(&hub.daemon.url, &body, Some(&header)).await;
        assert_eq!((answer.status, answer.code()), (status, code));
    }
    let client = reqwest::Client::new();
    let url = format!("{}/v1/invoke", hub.daemon.url);
    let text = client.post(&url).header("content-type", "text/plain").body("x").send().await;
    assert_eq!(text.unwrap().status(), 415);
    let large = vec![b' '; 10 * 1024 * 1024 + 1];
    let large = client.post(&url).header("content-type", "application/json").body(large);
    assert_eq!(large.send().await.unwrap().status(), 413);
    assert_eq!(on_chain(&hub.stack, &draft.authorization).await, (FUNDS, false));
}

// ------------------------------------------------------------------------------ bad payments

/// R-040, R-045.
#[tokio::test]
async fn unreadable() {
    let draft = draft().await;
    let json = draft.json();
    let cut = encode(&json);
    let with = |change: fn(&mut Value)| {
        let mut json = draft.json();
        change(&mut json);
        encode(&json)
    };
    for (name, header) in [
        ("not base64", "***".to_owned()),
        ("cut", cut[..cut.len() - 5].to_owned()),
        ("not JSON", base64::Engine::encode(&base64::prelude::BASE64_STANDARD, "hello")),
        ("empty object", encode(&json!({}))),
        ("no payload", with(|json| drop(json.as_object_mut().unwrap().remove("payload")))),
        ("a number", with(|json| json["payload"]["authorization"]["value"] = 200_000.into())),
        ("a float", with(|json| json["payload"]["authorization"]["value"] = "0.2".into())),
        ("a short nonce", with(|json| json["payload"]["authorization"]["nonce"] = "0x12".into())),
    ] {
        refused(name, &draft, &header, 422, "payload_decode_error").await;
    }
}

/// R-043: S06 3.2: 8192 bytes are read, 8193 are not, and the refusal is JECP's, not the server's.
#[tokio::test]
async fn oversized() {
    let draft = draft().await;
    refused("8193", &draft, &"A".repeat(8_193), 422, "header_too_large").await;
    refused("16 KB", &draft, &"A".repeat(16_384), 422, "header_too_large").await;
    refused("8192", &draft, &"A".repeat(8_192), 422, "payload_decode_error").await;
}

/// R-044: S06 3.3: whatever the casing, repeated or folded into one.
#[tokio::test]
async fn duplicated() {
    let hub = hub().await;
    let draft = draft().await;
    let header = draft.header();
    let body = call("duplicated-1").to_string();
    for (first, second) in
        [("X-Payment", "x-payment"), ("X-PAYMENT", "X-PAYMENT"), ("X-Payment", "Payment-Signature")]
    {
        let address = hub.daemon.url.strip_prefix("http://").unwrap();
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
    }
    let folded = format!("{header}, {header}");
    refused("folded", &draft, &folded, 422, "duplicate_payment_header").await;
}

/// R-048: C-47: the price, neither less nor more.
#[tokio::test]
async fn wrongly_priced() {
    for value in [0, 1, PRICE_MICRO - 1, PRICE_MICRO + 1, FUNDS] {
        let mut draft = draft().await;
        draft.authorization.value = U256::from(value);
        refused(&value.to_string(), &draft, &draft.header(), 422, "amount_mismatch").await;
    }
    let mut draft = draft().await;
    draft.authorization.value = U256::MAX;
    refused("2^256-1", &draft, &draft.header(), 422, "amount_mismatch").await;
}

/// R-047.
#[tokio::test]
async fn for_somebody_or_somewhere_else() {
    let mut draft = draft().await;
    draft.authorization.to = Address::repeat_byte(5);
    refused("payee", &draft, &draft.header(), 422, "payto_mismatch").await;

    let mut draft = self::draft().await;
    draft.network = "base";
    refused("network", &draft, &draft.header(), 422, "network_unsupported").await;
    draft.network = "solana";
    refused("network", &draft, &draft.header(), 422, "network_unsupported").await;

    let mut draft = self::draft().await;
    draft.scheme = "upto";
    refused("scheme", &draft, &draft.header(), 422, "unsupported_scheme").await;
    draft.scheme = "exact";
    draft.version = 2;
    refused("version", &draft, &draft.header(), 422, "unsupported_scheme").await;
}

/// R-049.
#[tokio::test]
async fn outside_its_window() {
    for (after, before) in [(-600, -1), (-600, 0), (-600, 3), (30, 90)] {
        let mut draft = draft().await;
        let now = crate::support::now();
        draft.authorization.valid_after = now.saturating_add_signed(after);
        draft.authorization.valid_before = now.saturating_add_signed(before);
        refused(&format!("{after}..{before}"), &draft, &draft.header(), 422, "expired").await;
    }
}

/// R-050.
#[tokio::test]
async fn badly_signed() {
    let draft = draft().await;
    let good = draft.signature();
    let mut other = good.clone();
    other[10] ^= 1;
    let stranger = Draft {
        payer: self::draft().await.payer,
        authorization: draft.authorization.clone(),
        ..self::draft().await
    };
    for (name, signature) in [
        ("one bit", other),
        ("a stranger's", stranger.signature()),
        ("64 bytes", good[..64].to_vec()),
        ("66 bytes", [good.as_slice(), &[0]].concat()),
        ("nothing", Vec::new()),
        ("zeros", vec![0; 65]),
        ("ones", vec![0xff; 65]),
    ] {
        let header = encode(&draft.json_signed(&signature));
        let hub = hub().await;
        let answer = invoke(&hub.daemon.url, &call("signed-1"), Some(&header)).await;
        assert_eq!(answer.status, 422, "{name}: {answer:?}");
        assert!(
            ["signature_invalid", "signature_malleable"].contains(&answer.subcause()),
            "{name}: {answer:?}"
        );
        assert!(settlement_of(&hub.database, &draft.authorization).await.is_none(), "{name}");
    }
    let good = Signature::from_raw(&good).unwrap();
    let order = U256::from_be_bytes(
        b256!("0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141").0,
    );
    let high = Signature::new(good.r(), order - good.s(), !good.v());
    let header = encode(&draft.json_signed(&high.as_bytes()));
    refused("high s", &draft, &header, 422, "signature_malleable").await;
}

sol! {
    function blacklist(address account);
    function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes signature);
}

#[tokio::test]
async fn unpayable() {
    let hub = hub().await;
    let poor = hub.stack.agent(PRICE_MICRO - 1).await.unwrap();
    let draft = Draft::new(&poor, hub.stack.contracts.splitter);
    let answer = invoke(&hub.daemon.url, &call("poor-1"), Some(&draft.header())).await;
    assert_eq!((answer.status, answer.subcause()), (422, "insufficient_funds"));
    assert!(settlement_of(&hub.database, &draft.authorization).await.is_none());

    let barred = self::draft().await;
    let owner = hub.stack.anvil.first_account().await.unwrap();
    let call_ = blacklistCall { account: barred.authorization.from }.abi_encode().into();
    hub.stack.anvil.send(owner, hub.stack.contracts.usdc, &call_).await.unwrap();
    refused("blacklisted", &barred, &barred.header(), 422, "insufficient_funds").await;
}

/// An authorization that somebody used before we saw it is refused with its hash; its money is in
/// the Splitter and belongs to nobody the ledger knows.
#[tokio::test]
async fn used_before_it_was_shown_to_us() {
    let hub = hub().await;
    let draft = draft().await;
    let authorization = &draft.authorization;
    let stranger = hub.stack.anvil.first_account().await.unwrap();
    let pull = transferWithAuthorizationCall {
        from: authorization.from,
        to: authorization.to,
        value: authorization.value,
        validAfter: U256::from(authorization.valid_after),
        validBefore: U256::from(authorization.valid_before),
        nonce: authorization.nonce,
        signature: draft.signature().into(),
    };
    let input = pull.abi_encode().into();
    hub.stack.anvil.send(stranger, hub.stack.contracts.usdc, &input).await.unwrap();
    crate::support::eventually("the watcher sees it", || async {
        let answer = invoke(&hub.daemon.url, &call("used-1"), Some(&draft.header())).await;
        assert_eq!((answer.status, answer.subcause()), (422, "nonce_reused"), "{answer:?}");
        answer.body["error"]["details"]["tx_hash"].is_string()
    })
    .await;
    assert!(settlement_of(&hub.database, authorization).await.is_none());
}

// ------------------------------------------------------------------------------ good payments

/// R-040, R-080, R-081, R-082, R-084, R-086: the receipt and the bill name the pull that is on the chain.
#[tokio::test]
async fn paid_is_served_with_a_receipt() {
    let hub = hub().await;
    let draft = draft().await;
    let answer = invoke(&hub.daemon.url, &call("paid-1"), Some(&draft.header())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body["result"]["echo"]["id"], "paid-1");
    let receipt = answer.receipt();
    assert_eq!(receipt["success"], true);
    assert_eq!(receipt["network"], "base-sepolia");
    assert_eq!(answer.body["execution"]["trust_tier"], "bronze");
    let payer: Address = serde_json::from_value(receipt["payer"].clone()).unwrap();
    assert_eq!(payer, draft.authorization.from);
    let billing = &answer.body["billing"];
    assert_eq!(billing["method"], "x402");
    assert_eq!(billing["cost_usdc"].to_string(), "0.2");
    assert_eq!(billing["x402"]["settlement_tx"], receipt["transaction"]);

    let hash: B256 = serde_json::from_value(receipt["transaction"].clone()).unwrap();
    let mined = chain(&hub.stack).receipt(hash).await.unwrap().unwrap();
    assert!(mined.success());
    let settlement = settlement_of(&hub.database, &draft.authorization).await.unwrap();
    assert_eq!(billing["transaction_id"], settlement.id.to_string());
    assert_eq!(settlement.pull.unwrap().tx_hash, hash);
    assert_eq!(on_chain(&hub.stack, &draft.authorization).await, (FUNDS - PRICE_MICRO, true));
}

/// R-093: the same call again gets the same answer, marked, and moves nothing.
#[tokio::test]
async fn a_replayed_call_is_answered_again_and_not_served_again() {
    let hub = hub().await;
    let draft = draft().await;
    let header = draft.header();
    let first = invoke(&hub.daemon.url, &call("replay-1"), Some(&header)).await;
    assert_eq!((first.status, &first.body["replayed"]), (200, &json!(false)));
    let again = invoke(&hub.daemon.url, &call("replay-1"), Some(&header)).await;
    assert_eq!((again.status, &again.body["replayed"]), (200, &json!(true)));
    assert_eq!(again.body["result"], first.body["result"], "the provider counts its calls");
    assert_eq!(again.receipt(), first.receipt());
    assert_eq!(on_chain(&hub.stack, &draft.authorization).await.0, FUNDS - PRICE_MICRO);
}

/// R-092, R-095: any other use of an authorization is refused.
#[tokio::test]
async fn an_authorization_pays_for_one_request() {
    let hub = hub().await;
    let draft = draft().await;
    let header = draft.header();
    assert_eq!(invoke(&hub.daemon.url, &call("once-1"), Some(&header)).await.status, 200);

    let other_id = invoke(&hub.daemon.url, &call("once-2"), Some(&header)).await;
    assert_eq!((other_id.status, other_id.code()), (409, "X402_SETTLEMENT_REUSED"));
    let details = &other_id.body["error"]["details"];
    assert_eq!(details["original_request_id"], "once-1");
    assert!(details["tx_hash"].is_string() && details["original_settled_at"].is_string());
    let mut changed = call("once-1");
    changed["input"] = json!({"id": "something else"});
    let other_content = invoke(&hub.daemon.url, &changed, Some(&header)).await;
    assert_eq!((other_content.status, other_content.code()), (409, "X402_SETTLEMENT_REUSED"));
    assert_eq!(on_chain(&hub.stack, &draft.authorization).await.0, FUNDS - PRICE_MICRO);
}

/// R-094: a naive caller that starts over pays with a fresh authorization; it is never pulled.
#[tokio::test]
async fn a_second_authorization_for_a_paid_request_is_not_pulled() {
    let hub = hub().await;
    let first = draft().await;
    let second = Draft::new(&first.payer, hub.stack.contracts.splitter);
    let paid = invoke(&hub.daemon.url, &call("twice-1"), Some(&first.header())).await;
    assert_eq!(paid.status, 200);
    let again = invoke(&hub.daemon.url, &call("twice-1"), Some(&second.header())).await;
    assert_eq!((again.status, &again.body["replayed"]), (200, &json!(true)));
    assert_eq!(again.receipt(), paid.receipt());

    let mut changed = call("twice-1");
    changed["input"] = json!({"id": "something else"});
    let other = invoke(&hub.daemon.url, &changed, Some(&second.header())).await;
    assert_eq!((other.status, other.code()), (409, "DUPLICATE_REQUEST"));
    assert_eq!(on_chain(&hub.stack, &second.authorization).await, (FUNDS - PRICE_MICRO, false));
}

/// R-097, R-100: ten at once: one settlement, one call of the provider, ten equal answers, nine marked.
#[tokio::test]
async fn ten_identical_calls_at_once_are_one() {
    let hub = hub().await;
    let draft = draft().await;
    let header = draft.header();
    let calls = (0..10).map(|_| {
        let header = header.clone();
        tokio::spawn(async move { invoke(&hub.daemon.url, &call("ten-1"), Some(&header)).await })
    });
    let mut answers = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        answers.push(call.await.unwrap());
    }
    let replayed = answers.iter().filter(|answer| answer.body["replayed"] == true).count();
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(replayed, 9);
    assert!(answers.iter().all(|answer| answer.body["result"] == answers[0].body["result"]));
    assert!(answers.iter().all(|answer| answer.receipt() == answers[0].receipt()));
    assert_eq!(on_chain(&hub.stack, &draft.authorization).await.0, FUNDS - PRICE_MICRO);
}

/// The whole way: confirmed, recorded, split, with the shares of 85/10/5.
#[tokio::test]
async fn a_payment_goes_all_the_way() {
    let hub = hub().await;
    let draft = draft().await;
    let answer = invoke(&hub.daemon.url, &call("way-1"), Some(&draft.header())).await;
    assert_eq!(answer.status, 200);
    crate::support::eventually("confirmed and split", || async {
        let settlement = settlement_of(&hub.database, &draft.authorization).await.unwrap();
        settlement.status == Status::ChainConfirmed && settlement.keeper_state == KeeperState::Split
    })
    .await;
    let settlement = settlement_of(&hub.database, &draft.authorization).await.unwrap();
    let shares = settlement.shares.unwrap();
    assert_eq!(
        [shares.provider, shares.hub, shares.reserve].map(|share| share.micro()),
        [170_000, 20_000, 10_000]
    );
}

// ------------------------------------------------------------------------------ when others fail

/// Nothing is mined: the caller is told to wait with the hash to look for, never a fresh 402; when
/// mining goes on, the same call is served.
#[tokio::test]
async fn a_pending_payment_is_answered_with_its_hash() {
    let stack = stack(
        "pending",
        StackOptions {
            anvil: AnvilOptions { block_time: None, ..AnvilOptions::default() },
            settle_timeout: "1s",
            ..StackOptions::default()
        },
    )
    .await;
    let daemon = stack.daemon(&keeper(), &stack.sqlite()).await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
    let header = draft.header();
    let pending = invoke(&daemon.url, &call("pending-1"), Some(&header)).await;
    assert_eq!((pending.status, pending.code()), (503, "SERVICE_DEGRADED"), "{pending:?}");
    assert_eq!(pending.header("retry-after"), "2");
    let details = &pending.body["error"]["details"];
    assert_eq!(details["settlement"], "settle_pending");
    let hash: B256 = serde_json::from_value(details["tx_hash"].clone()).unwrap();

    stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
    crate::support::eventually("the same call is served", || async {
        let answer = invoke(&daemon.url, &call("pending-1"), Some(&header)).await;
        if answer.status == 200 {
            assert_eq!(answer.receipt()["transaction"], json!(hash));
        }
        answer.status == 200
    })
    .await;
    assert_eq!(on_chain(&stack, &draft.authorization).await, (FUNDS - PRICE_MICRO, true));
}

/// A provider that breaks after it was paid: 502, a refund is due, the money goes its way, and
/// asking again neither calls the provider nor pays again.
#[tokio::test]
async fn a_broken_provider_makes_a_refund_due() {
    let stack = stack("broken", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    stack.provider.set_failing(true);
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let header = draft.header();
    let failed = invoke(&daemon.url, &call("broken-1"), Some(&header)).await;
    assert_eq!((failed.status, failed.code()), (502, "PROVIDER_ERROR"), "{failed:?}");
    let details = &failed.body["error"]["details"];
    assert_eq!(details["refund"], "due");
    let settlement = settlement_of(&database, &draft.authorization).await.unwrap();
    assert_eq!(details["tx_hash"], json!(settlement.pull.unwrap().tx_hash));
    assert_eq!(details["transaction_id"], settlement.id.to_string());
    assert_eq!(stack.provider.calls(), 1);

    stack.provider.set_failing(false);
    let again = invoke(&daemon.url, &call("broken-1"), Some(&header)).await;
    assert_eq!(
        (again.status, &again.body["error"]),
        (502, &failed.body["error"]),
        "the same answer"
    );
    assert_eq!(stack.provider.calls(), 1, "not called again");
    crate::support::eventually("recorded and split all the same", || async {
        settlement_of(&database, &draft.authorization).await.unwrap().keeper_state
            == KeeperState::Split
    })
    .await;
    let provider = keeper::eip3009::FiatToken::balanceOfCall { account: stack.provider_account };
    let usdc = Network::BaseSepolia.usdc().address;
    let balance = chain(&stack).call(usdc, &provider, BlockTag::Latest).await.unwrap();
    assert_eq!(balance, U256::from(170_000));
}
