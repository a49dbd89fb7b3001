//! Mandates and provenances.

use super::ground::{FUNDS, hubs, nonce};
use crate::support::{call, invoke, now, on_chain, tally, tamper};
use sandbox::PRICE_MICRO;
use serde_json::{Value, json};

/// key, end, provenance, budget, in this order, and before any money moves.
#[tokio::test]
async fn a_mandate_is_checked_in_order_before_money_moves() {
    for hub in hubs().await {
        let url = &hub.daemon.url;
        let agent = hub.agent().await;
        let draft = hub.draft().await;
        let header = draft.header();
        let good = || agent.provenance(now(), &nonce());
        let mandate = |end: &str, provenance: &str, budget: &str| {
            let budget: Value = serde_json::from_str(budget).unwrap();
            json!({"expires_at": end, "provenance_hash": provenance, "budget_usdc": budget})
        };
        let (past, future) = ("2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z");
        let mut wrong = agent.mandated(call("order-1"), &mandate(past, "bad", "0.1"));
        wrong["mandate"]["api_key"] = json!("keeper_ak_0123456789abcdef");
        for (body, status, code) in [
            (wrong, 401, "INVALID_API_KEY"),
            (agent.mandated(call("order-1"), &mandate(past, "bad", "0.1")), 401, "MANDATE_EXPIRED"),
            (
                agent.mandated(call("order-1"), &mandate(future, "bad", "0.1")),
                403,
                "PROVENANCE_MISMATCH",
            ),
            (
                agent.mandated(call("order-1"), &mandate(future, &good(), "0.1")),
                402,
                "INSUFFICIENT_BUDGET",
            ),
            (
                agent.mandated(call("order-1"), &mandate(future, &good(), "0.199999")),
                402,
                "INSUFFICIENT_BUDGET",
            ),
            // Out of its range it is no mandate.
            (
                agent.mandated(call("order-1"), &mandate(future, &good(), "1000.01")),
                400,
                "INVALID_REQUEST",
            ),
            (
                agent.mandated(call("order-1"), &json!({"budget_total_usdc": 1})),
                400,
                "INVALID_REQUEST",
            ),
        ] {
            let answer = invoke(url, &body, Some(&header)).await;
            assert_eq!((answer.status, answer.code()), (status, code), "{answer:?}");
            assert!(answer.body["next_action"]["type"].is_string());
            if code == "INSUFFICIENT_BUDGET" {
                assert_eq!(answer.body["error"]["details"]["required_usdc"].to_string(), "0.2");
                assert_eq!(answer.body["next_action"]["type"], "renew_mandate");
            }
        }
        hub.is_untouched(&draft).await;
        // The price itself is allowed, and the mandate's credentials come before the headers'.
        let body = agent.mandated(call("order-1"), &mandate(future, &good(), "2e-1"));
        let other = hub.agent().await;
        let paid = other.call(url, &body, Some(&header)).await;
        assert_eq!(paid.status, 200, "{paid:?}");
        assert_eq!(on_chain(&hub.stack, &draft.authorization).await, (FUNDS - PRICE_MICRO, true));
        let owners = tally(&hub.database, "x402_settlements", "agent_id").await;
        assert_eq!(owners.get(&agent.id), Some(&1));
        // An unpaid call is not asked to pay more than it may.
        let agent = hub.agent().await;
        let unpaid = agent.mandated(call("order-2"), &json!({"budget_usdc": 0}));
        assert_eq!(invoke(url, &unpaid, None).await.code(), "INSUFFICIENT_BUDGET");
    }
}

/// a provenance is looked at before anything is looked up, and is good once: at any edge,
/// in any spelling, even for the very call that it was sent with.
#[tokio::test]
async fn a_provenance_is_good_once_at_every_edge() {
    for hub in hubs().await {
        let agent = hub.agent().await;
        let wire = agent.provenance(now(), &nonce());
        let body = agent.mandated(call("once-1"), &json!({"provenance_hash": wire}));
        let urls = hub.urls();
        let calls = (0..8).map(|n| {
            let (url, body) = (urls[n % urls.len()].to_owned(), body.clone());
            tokio::spawn(async move { invoke(&url, &body, None).await })
        });
        let calls: Vec<_> = calls.collect();
        let mut passed = 0;
        for answer in calls {
            let answer = answer.await.unwrap();
            match answer.status {
                402 => passed += 1,
                403 => assert_eq!(answer.subcause(), "nonce_replay", "{answer:?}"),
                _ => panic!("{answer:?}"),
            }
        }
        assert_eq!(passed, 1);

        let url = &hub.daemon.url;
        let draft = hub.draft().await;
        let header = draft.header();
        let small = nonce();
        let first = agent.provenance(now(), &small);
        let body = agent.mandated(call("once-2"), &json!({"provenance_hash": first}));
        assert_eq!(invoke(url, &body, Some(&header)).await.status, 200);
        // Verified before the stored answer is looked up (C-77).
        let again = invoke(url, &body, Some(&header)).await;
        assert_eq!((again.status, again.subcause()), (403, "nonce_replay"), "{again:?}");
        let spelt = agent.provenance(now(), &small.to_uppercase());
        let spelt = agent.mandated(call("once-2"), &json!({"provenance_hash": spelt}));
        assert_eq!(invoke(url, &spelt, Some(&header)).await.subcause(), "nonce_replay");
        // With a fresh one it is the same call: a lost answer can be fetched again.
        let fresh = agent.provenance(now(), &nonce());
        let fresh = agent.mandated(call("once-2"), &json!({"provenance_hash": fresh}));
        let fresh = invoke(url, &fresh, Some(&header)).await;
        assert_eq!((fresh.status, &fresh.body["replayed"]), (200, &json!(true)), "{fresh:?}");
    }
}

/// what is not of now, not of this agent or not of this version, by its name.
#[tokio::test]
async fn a_wrong_provenance_is_refused_by_name() {
    for hub in hubs().await {
        let (agent, other) = (hub.agent().await, hub.agent().await);
        for (wire, subcause) in [
            ("v2:1:2:3".to_owned(), "wire_malformed"),
            ("a".repeat(64), "v1_unavailable"),
            (agent.provenance(now() - 330, &nonce()), "clock_skew"),
            (agent.provenance(now() + 330, &nonce()), "clock_skew"),
            (other.provenance(now(), &nonce()), "hmac_mismatch"),
        ] {
            let body = agent.mandated(call("wrong-1"), &json!({"provenance_hash": wire}));
            let answer = invoke(&hub.daemon.url, &body, None).await;
            assert_eq!((answer.status, answer.code()), (403, "PROVENANCE_MISMATCH"));
            assert_eq!(answer.subcause(), subcause);
            let drift = answer.body["error"]["details"]["drift_seconds"].as_i64();
            assert_eq!(drift.is_some_and(|drift| drift.abs() > 300), subcause == "clock_skew");
        }
        let kept = tally(&hub.database, "provenance_nonces", "agent_id").await;
        assert!(!kept.contains_key(&agent.id), "{kept:?}");
    }
}

/// nonces are kept longer than any provenance is good for, and then forgotten.
#[tokio::test]
async fn old_nonces_are_forgotten() {
    for hub in hubs().await {
        let agent = hub.agent().await;
        let send = async |nonce: &str| {
            let wire = agent.provenance(now(), nonce);
            let body = agent.mandated(call("old-1"), &json!({"provenance_hash": wire}));
            invoke(&hub.daemon.url, &body, None).await.status
        };
        let (old, young) = (nonce(), nonce());
        assert_eq!((send(&old).await, send(&young).await), (402, 402));
        for (nonce, seconds) in [(&old, 905), (&young, 890)] {
            let then = earlier(&hub.database, seconds);
            let sql =
                format!("UPDATE provenance_nonces SET seen_at = {then} WHERE nonce = '{nonce}'");
            tamper(&hub.database, &sql).await.unwrap();
        }
        assert_eq!(send(&young).await, 403);
        assert_eq!(send(&old).await, 402);
        let kept = tally(&hub.database, "provenance_nonces", "agent_id").await;
        assert_eq!(kept[&agent.id], 2);
    }
}

/// SQL for a moment so many seconds ago, as the ledger keeps it.
pub(super) fn earlier(database: &str, seconds: u64) -> String {
    match database.starts_with("postgres") {
        true => format!("now() - interval '{seconds} seconds'"),
        false => format!("strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '-{seconds} seconds')"),
    }
}
