//! How often an agent may call, and what it must have earned.

use super::{
    ground::{Hub, hubs, with_accounts},
    mandate::earlier,
};
use crate::support::{call, keeper, tamper, unique};
use sandbox::Daemon;

/// Writes so many served calls of an agent, on a chain that nobody looks at.
async fn serve(hub: &Hub, agent_id: &str, from: u64, calls: u64) {
    let tag = unique("served");
    let numbers = format!(
        "WITH RECURSIVE numbers (n) AS
            (SELECT {from} UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {})",
        from + calls
    );
    let now = earlier(&hub.database, 3_600);
    // Identities that are nobody's, of the right length.
    let fill = |length: usize| {
        format!("substr(CAST(n AS TEXT) || '{tag}{}', 1, {length})", "0".repeat(66))
    };
    let (id, hash) = (fill(36), fill(66));
    let address = format!("0x{}", "1".repeat(40));
    let settlements = format!(
        "{numbers} INSERT INTO x402_settlements (id, trace_id, chain_id, asset, payer, eip3009_nonce,
            pay_to, amount_usdc_micro, valid_after, valid_before, kind, mode, agent_id, request_id,
            status, keeper_state, reserved_at)
        SELECT {id}, {hash}, 1, '{address}', '{address}', {hash}, '{address}', 1, 1, 2, 'pass_through',
            'self', '{agent_id}', {id}, 'failed', 'none', {now} FROM numbers"
    );
    tamper(&hub.database, &settlements).await.unwrap();
    let deliveries = format!(
        "{numbers} INSERT INTO deliveries (settlement_id, state, attempts, refund_due, response_body,
            started_at, finished_at)
        SELECT {id}, 'delivered', 1, FALSE, '{{}}', {now}, {now} FROM numbers"
    );
    tamper(&hub.database, &deliveries).await.unwrap();
}

/// a burst of fifteen, of which ten pass, counted by all edges together; and the window slides.
#[tokio::test]
async fn an_agent_calls_so_often_in_any_minute() {
    for hub in hubs().await {
        let (agent, other) = (hub.agent().await, hub.agent().await);
        let urls = hub.urls();
        let calls: Vec<_> = (0..15)
            .map(|n| {
                let (url, agent) = (urls[n % urls.len()].to_owned(), agent.clone());
                tokio::spawn(async move { agent.call(&url, &call("burst-1"), None).await })
            })
            .collect();
        let mut passed = 0;
        for answer in calls {
            let answer = answer.await.unwrap();
            if answer.status == 402 {
                passed += 1;
                continue;
            }
            assert_eq!((answer.status, answer.code()), (429, "RATE_LIMITED"), "{answer:?}");
            let details = &answer.body["error"]["details"];
            let seconds: u64 = answer.header("retry-after").parse().unwrap();
            assert!((1..=60).contains(&seconds), "{answer:?}");
            assert_eq!(details["retry_after_seconds"].as_u64(), Some(seconds));
            assert_eq!(
                (details["tier"].as_str(), details["limit_rpm"].as_u64()),
                (Some("bronze"), Some(10))
            );
            assert_eq!(answer.body["next_action"]["type"], "wait");
        }
        assert_eq!(passed, 10);
        // A payment changes nothing, and is not touched.
        let draft = hub.draft().await;
        let paid = agent.call(urls[0], &call("burst-2"), Some(&draft.header())).await;
        assert_eq!(paid.status, 429);
        hub.is_untouched(&draft).await;
        assert_eq!(other.call(urls[0], &call("burst-1"), None).await.status, 402);
        // Two leave the window: there is room for two.
        let sql = format!(
            "UPDATE agent_calls SET at = {} WHERE id IN
                (SELECT id FROM agent_calls WHERE agent_id = '{}' ORDER BY at LIMIT 2)",
            earlier(&hub.database, 61),
            agent.id
        );
        tamper(&hub.database, &sql).await.unwrap();
        for status in [402, 402, 429] {
            assert_eq!(agent.call(urls[0], &call("burst-1"), None).await.status, status);
        }
    }
}

/// An edge of the hub, beside the others, that sells to silver agents only. SQLite knows one daemon.
async fn for_silver(hub: &Hub) -> Option<Daemon> {
    hub.edge.as_ref()?;
    let catalogue = hub.stack.catalogue() + "trust_tier_required = \"silver\"\n";
    std::fs::write(hub.stack.folder.join("silver.toml"), catalogue).unwrap();
    let change =
        |config: String| with_accounts(&config).replacen("catalogue.toml", "silver.toml", 1);
    let mut edge =
        hub.stack.spawn(&keeper(), &hub.database, &["--role", "edge"], change).await.unwrap();
    edge.ready().await.unwrap();
    Some(edge)
}

/// trust is earned by calls that were served, looked at with each call, and asked for before money
/// moves.
#[tokio::test]
async fn trust_is_earned_by_served_calls() {
    for hub in hubs().await {
        let agent = hub.agent().await;
        let silver = for_silver(hub).await;
        serve(hub, &agent.id, 1_000, 99).await;
        let draft = hub.draft().await;
        let header = draft.header();
        if let Some(edge) = &silver {
            for payment in [None, Some(header.as_str())] {
                let answer = agent.call(&edge.url, &call("trust-1"), payment).await;
                assert_eq!(
                    (answer.status, answer.code()),
                    (403, "INSUFFICIENT_TRUST"),
                    "{answer:?}"
                );
                let details = &answer.body["error"]["details"];
                assert_eq!(
                    (&details["required"], &details["current"]),
                    (&"silver".into(), &"bronze".into())
                );
                let next = &answer.body["next_action"];
                assert_eq!(next["type"], "earn_trust");
                assert_eq!(
                    (&next["required_tier"], &next["current_tier"]),
                    (&"silver".into(), &"bronze".into())
                );
            }
            hub.is_untouched(&draft).await;
        }
        // Calls that failed do not count.
        let failed =
            "UPDATE deliveries SET state = 'failed', failure = 'error' WHERE settlement_id IN
            (SELECT id FROM x402_settlements WHERE request_id LIKE '1000%' AND agent_id = '";
        serve(hub, &agent.id, 1_099, 1).await;
        tamper(&hub.database, &format!("{failed}{}')", agent.id)).await.unwrap();
        let url = &hub.daemon.url;
        let paid = agent.call(url, &call("trust-2"), Some(&header)).await;
        assert_eq!(
            (paid.status, &paid.body["execution"]["trust_tier"]),
            (200, &"bronze".into()),
            "{paid:?}"
        );
        // That was the hundredth.
        let draft = hub.draft().await;
        let place = silver.as_ref().map_or(url, |edge| &edge.url);
        let paid = agent.call(place, &call("trust-3"), Some(&draft.header())).await;
        assert_eq!(
            (paid.status, &paid.body["execution"]["trust_tier"]),
            (200, &"silver".into()),
            "{paid:?}"
        );
        for (calls, tier) in [(399, "gold"), (1_500, "platinum")] {
            serve(hub, &agent.id, 2_000 + calls, calls).await;
            let draft = hub.draft().await;
            let paid = agent.call(url, &call(tier), Some(&draft.header())).await;
            assert_eq!(paid.body["execution"]["trust_tier"], tier, "{paid:?}");
        }
    }
}
