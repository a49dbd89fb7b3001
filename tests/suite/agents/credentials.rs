//! Credentials: who has none is told nothing, who has some is served, and who lost them is not.

use super::ground::{Agent, hubs, keeper_agents};
use crate::support::{Answer, call, invoke, invoke_with, settlement_of, tally};
use serde_json::{Value, json};

/// What an answer says but for the request's id.
fn said(answer: &Answer) -> (u16, Value) {
    let mut body = answer.body.clone();
    body["id"] = Value::Null;
    (answer.status, body)
}

/// which half is wrong is not said, nor anything of the call and its payment.
#[tokio::test]
async fn without_credentials_nothing_is_said() {
    for hub in hubs().await {
        let url = &hub.daemon.url;
        let draft = hub.draft().await;
        let header = draft.header();
        let oversized = "A".repeat(8_193);
        for payment in [None, Some(header.as_str()), Some("***"), Some(oversized.as_str())] {
            let answer = invoke(url, &call("nobody-1"), payment).await;
            assert_eq!((answer.status, answer.code()), (401, "AUTH_REQUIRED"), "{answer:?}");
            assert_eq!(answer.subcause(), "");
            assert_eq!(answer.body["next_action"]["type"], "register");
        }
        let (agent, revoked) = (hub.agent().await, hub.agent().await);
        let gone = ["revoke", revoked.id.as_str(), "--reason", "a test"];
        hub.agents(&gone).await.unwrap();
        let unknown = Agent { id: agent.id.replace("keeper", "other"), key: agent.key.clone() };
        let mut near = agent.clone();
        near.key.pop();
        near.key.push(if agent.key.ends_with('0') { '1' } else { '0' });
        let no_name = Agent { id: "x".to_owned(), key: "y".to_owned() };
        let mut all = Vec::new();
        for wrong in [&unknown, &near, &revoked, &no_name] {
            for payment in [None, Some(header.as_str()), Some("***"), Some(oversized.as_str())] {
                for body in [
                    call("nobody-2"),
                    json!({"jecp": "1.0", "id": "nobody-3", "input": {},
                    "capability": "nobody/other", "action": "other"}),
                ] {
                    all.push(said(&wrong.call(url, &body, payment).await));
                }
            }
            let mandate = json!({"expires_at": "2000-01-01T00:00:00Z", "provenance_hash": "x"});
            let body = wrong.mandated(call("nobody-4"), &mandate);
            all.push(said(&invoke(url, &body, Some(&header)).await));
        }
        assert_eq!(all[0].1["error"]["code"], "INVALID_API_KEY");
        assert!(all[0].1["error"]["details"].get("subcause").is_none(), "{:?}", all[0]);
        assert!(all.iter().all(|one| *one == all[0]), "{all:#?}");
        hub.is_untouched(&draft).await;
        // Half of them is as good as nothing.
        let half = invoke_with(url, &call("nobody-5"), &[("x-agent-id", &agent.id)]).await;
        assert_eq!(half.code(), "AUTH_REQUIRED");
        assert_eq!(agent.call(url, &call("nobody-6"), None).await.status, 402);
    }
}

/// a payment is the agent's that made the call, whoever signed it; an id is an
/// agent's own.
#[tokio::test]
async fn a_paid_call_is_the_agents() {
    for hub in hubs().await {
        let (one, other) = (hub.agent().await, hub.agent().await);
        let draft = hub.draft().await;
        let header = draft.header();
        for url in hub.urls() {
            assert_eq!(one.call(url, &call("mine-1"), None).await.status, 402);
        }
        let url = &hub.daemon.url;
        let paid = one.call(url, &call("mine-1"), Some(&header)).await;
        assert_eq!((paid.status, paid.body["replayed"].as_bool()), (200, Some(false)), "{paid:?}");
        assert_eq!(paid.body["execution"]["trust_tier"], "bronze");
        let settlement = settlement_of(&hub.database, &draft.authorization).await.unwrap();
        assert_eq!(settlement.agent_id.as_deref(), Some(one.id.as_str()));
        for url in hub.urls() {
            let again = one.call(url, &call("mine-1"), Some(&header)).await;
            assert_eq!((again.status, again.body["replayed"].as_bool()), (200, Some(true)));
            let stolen = other.call(url, &call("mine-1"), Some(&header)).await;
            assert_eq!((stolen.status, stolen.code()), (409, "X402_SETTLEMENT_REUSED"));
        }
        let second = hub.draft().await;
        let own = other.call(url, &call("mine-1"), Some(&second.header())).await;
        assert_eq!((own.status, own.body["replayed"].as_bool()), (200, Some(false)), "{own:?}");
        // what was served counts.
        let listed: Value =
            serde_json::from_str(&hub.agents(&["--json", "list"]).await.unwrap()).unwrap();
        let listed = listed["agents"].as_array().unwrap();
        let found = listed.iter().find(|agent| agent["agent_id"] == json!(one.id)).unwrap();
        assert_eq!(found["served"], 1);
    }
}

/// a revocation counts at once, at every edge, and the key was never kept.
#[tokio::test]
async fn a_revoked_key_is_good_for_nothing_at_once() {
    for hub in hubs().await {
        let agent = hub.agent().await;
        for url in hub.urls() {
            assert_eq!(agent.call(url, &call("revoked-1"), None).await.status, 402);
        }
        let hashes = tally(&hub.database, "agents", "key_hash").await;
        let random = agent.key.rsplit('_').next().unwrap();
        assert!(hashes.keys().all(|hash| !hash.contains(random)), "{hashes:?}");
        let revoke = ["revoke", agent.id.as_str(), "--reason", "a test"];
        hub.agents(&revoke).await.unwrap();
        for url in hub.urls() {
            assert_eq!(agent.call(url, &call("revoked-1"), None).await.code(), "INVALID_API_KEY");
        }
        let again = hub.agents(&revoke).await.unwrap_err();
        assert!(again.contains("no agent"), "{again}");
        let table = hub.agents(&["list"]).await.unwrap();
        assert!(table.contains(&agent.id) && !table.contains(random), "{table}");
        let logged = hub.daemon.logged();
        assert!(!logged.contains(random), "a key in the log");
        let log = tally(&hub.database, "audit_log", "action").await;
        assert!(log["x402.agent_added"] > 0 && log["x402.agent_revoked"] > 0, "{log:?}");
    }
}

/// Without the secret under which keys are hashed there can be no agent.
#[tokio::test]
async fn a_hub_without_accounts_makes_no_agents() {
    let hub = crate::support::hub().await;
    let refused = keeper_agents(&hub.daemon.config, &["add", "--name", "x"]).await.unwrap_err();
    assert!(refused.contains("http.agent_key_secret is not set"), "{refused}");
    let mut body = call("accounts-1");
    body["mandate"] = json!({"budget_usdc": 1});
    let answer = invoke(&hub.daemon.url, &body, None).await;
    assert_eq!((answer.status, answer.code()), (400, "INVALID_REQUEST"), "{answer:?}");
}
