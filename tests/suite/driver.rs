//! The driver keeps its bounds: what it may record, how soon, and how much at once.

use crate::{
    flags::Hub,
    support::{
        call, eventually, invoke, metric, postgres, settlement_of, settlements, tally, tamper,
        through,
    },
};
use alloy::primitives::B256;
use keeper::{
    ledger::ClosureReason,
    lifecycle::{KeeperState, Status},
};
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};

/// I-7: an amount that is not the Transfer's is refused for good: somebody is
/// called, the audit log says why, and the settler signs nothing.
#[tokio::test]
async fn an_amount_that_is_not_its_transfers_is_never_recorded() {
    for hub in Hub::on_both("amount", 100).await {
        let draft = hub.pending("amount").await;
        hub.close(ClosureReason::Drift).await;
        hub.blocks(3).await;
        eventually("its pull is seen", || async {
            let settlement = settlement_of(&hub.database, &draft.authorization).await.unwrap();
            settlement.status == Status::FacilitatorAttested
        })
        .await;
        hub.blocks(1).await;
        assert_eq!(hub.keeper_state(&draft).await, KeeperState::None, "the closure counts");
        let forge = "UPDATE x402_settlements SET amount_usdc_micro = amount_usdc_micro + 1";
        tamper(&hub.database, forge).await.unwrap();
        hub.flags(&["lift", "drift", "--reason", "a test"]).await;
        eventually("it is refused", || async {
            hub.keeper_state(&draft).await == KeeperState::Violation
        })
        .await;
        hub.blocks(3).await;
        assert_eq!(hub.keeper_state(&draft).await, KeeperState::Violation);
        assert_eq!(hub.settled().await, 0, "the settler has signed nothing");
        assert_eq!(tally(&hub.database, "intents", "kind").await, [("pull".into(), 1)].into());
        let actions = tally(&hub.database, "audit_log", "action").await;
        assert_eq!(actions["invariant_i7_violation"], 1);
        let log = hub.daemon.logged();
        assert!(log.contains("ALARM: X402_RECONCILER_MISMATCH_FLAGGED: the payment is not what"));
        let violations = "x402_invariant_i7_check_total{result=\"violation\"}";
        assert_eq!(metric(&hub.daemon, violations).await, 1);
    }
}

/// nothing is recorded before its pull is
/// in a block; then each record is timed, counted and written down once.
#[tokio::test]
async fn each_record_waits_for_its_pull_and_is_timed() {
    let hub = Hub::start("timed", None, 2).await;
    hub.pending("timed").await;
    assert_eq!(hub.settled().await, 0, "no record without a block");
    hub.blocks(1).await;
    eventually("its record is sent", || async { hub.settled().await == 1 }).await;
    hub.mine().await;
    eventually("its split is sent", || async { hub.settled().await == 2 }).await;
    hub.mine_on().await;
    through(&hub.stack, &hub.database, 1).await;
    let daemon = &hub.daemon;
    assert_eq!(metric(daemon, "keeper_record_settlement_landed_total").await, 1);
    assert_eq!(metric(daemon, "keeper_record_settlement_latency_seconds_count").await, 1);
    assert_eq!(metric(daemon, "keeper_split_settlement_latency_seconds_count").await, 1);
    for stage in ["record", "split"] {
        let name = format!("x402_latency_check_total{{result=\"pass\",stage=\"{stage}\"}}");
        assert_eq!(metric(daemon, &name).await, 1, "{stage}");
    }
    assert_eq!(metric(daemon, "x402_invariant_i7_check_total{result=\"hold\"}").await, 1);
    let settler = "x402_authorized_settler_check_total{result=\"match\"}";
    assert_eq!(metric(daemon, settler).await, 1);
    let actions = tally(&hub.database, "audit_log", "action").await;
    assert_eq!(actions["x402.settlement_recorded"], 1, "{actions:?}");
    assert!(!actions.contains_key("x402.settlement_latency_exceeded"), "{actions:?}");
    assert!(!actions.contains_key("x402.split_latency_exceeded"), "{actions:?}");
}

/// C-29: a record and a split that come too late are said once per
/// payment, and change nothing: the money goes on.
#[tokio::test]
async fn what_comes_too_late_is_said_and_moves_no_state() {
    let hub = Hub::start("slow", Some(postgres().await), 2).await;
    hub.pending("slow").await;
    hub.switch("x402_keeper_enabled", "off").await;
    eventually("both keys rest", || async {
        hub.daemon.logged().matches("signing was switched").count() == 2
    })
    .await;
    hub.blocks(1).await;
    // Fifty seconds of the chain's time.
    hub.stack.anvil.rpc("anvil_mine", json!(["0x5", "0xa"])).await.unwrap();
    hub.switch("x402_keeper_enabled", "on").await;
    hub.mine_on().await;
    through(&hub.stack, &hub.database, 1).await;
    let actions = tally(&hub.database, "audit_log", "action").await;
    assert_eq!(actions["x402.settlement_latency_exceeded"], 1, "{actions:?}");
    assert_eq!(actions["x402.split_latency_exceeded"], 1, "{actions:?}");
    assert_eq!(actions["x402.settlement_recorded"], 1);
    let daemon = &hub.daemon;
    for stage in ["record", "split"] {
        let name = format!("x402_latency_check_total{{result=\"breach\",stage=\"{stage}\"}}");
        assert_eq!(metric(daemon, &name).await, 1, "{stage}");
    }
    let slowest = metric(daemon, "keeper_record_settlement_latency_seconds_max").await;
    assert!(slowest >= 40, "{slowest}");
}

/// twelve payments of one block are recorded in the next, and one split covers them.
#[tokio::test]
async fn a_burst_is_recorded_in_the_next_block() {
    const BURST: usize = 12;
    let hub = Hub::start("burst", Some(postgres().await), 2).await;
    hub.stack.kms.take(Duration::from_millis(120));
    let mut calls = Vec::new();
    for n in 0..BURST {
        let (url, body) = (hub.daemon.url.clone(), call(&format!("burst-{n}")));
        let header = hub.draft().header();
        calls.push(tokio::spawn(async move { invoke(&url, &body, Some(&header)).await }));
    }
    for answer in calls {
        let answer = answer.await.unwrap();
        assert_eq!(answer.code(), "SERVICE_DEGRADED", "{answer:?}");
    }
    let pulls = || async {
        let pool = hub.stack.anvil.rpc("txpool_status", json!([])).await.unwrap();
        pool["pending"] == json!(format!("{BURST:#x}"))
    };
    eventually("all pulls wait in the pool", pulls).await;
    hub.blocks(1).await;
    eventually("all records wait in the pool", || async { hub.settled().await == BURST as u64 })
        .await;
    hub.mine().await;
    eventually("one split waits in the pool", || async { hub.settled().await == BURST as u64 + 1 })
        .await;
    hub.mine_on().await;
    through(&hub.stack, &hub.database, BURST as u64).await;
    let all = settlements(&hub.stack, &hub.database).await;
    let blocks: BTreeSet<_> = all.iter().map(|one| one.pull.unwrap().block_number).collect();
    assert_eq!(blocks.len(), 1, "one block of pulls");
    for settlement in &all {
        let (pull, record) = (settlement.pull.unwrap(), settlement.record.unwrap());
        assert_eq!(record.block_number, pull.block_number + 1, "{settlement:?}");
    }
    let splits: BTreeSet<B256> = all.iter().map(|one| one.split.unwrap().tx_hash).collect();
    assert_eq!(splits.len(), 1);
}
