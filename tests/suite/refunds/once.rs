//! From the failed call to the treasury's Transfer, once.

use super::{Broken, cli};
use crate::{
    ledger::{Database, draft, log, on_both, paid, payment, step, usdc},
    support::{HERE, audited, eventually, invoke, on_chain, reconciled, tally, tamper},
};
use alloy::signers::local::PrivateKeySigner;
use keeper::{
    ledger::{LedgerError, Refund, Requested, Settlement},
    lifecycle::{Delivery, Failure, RefundEvent, RefundPolicy, RefundState, Status, StatusEvent},
};
use sandbox::PRICE_MICRO;
use serde_json::{Value, json};
use std::{fs, time::Duration};

/// Micro-USDC of a payer.
const FUNDS: u64 = 2 * PRICE_MICRO;

/// two calls fail, two refunds of all that was paid are owed, the Safe's file has both,
/// and each is closed by one Transfer of the treasury: none by another amount, none twice.
async fn a_failed_call_is_refunded_once(name: &str, on_postgres: bool) {
    let hub = Broken::start(name, on_postgres, "").await;
    let payer = hub.stack.agent(FUNDS).await.unwrap();
    let (first, body) = hub.fail(&payer).await;
    hub.fail(&payer).await;
    hub.until("approved 2").await;
    assert_eq!(hub.balance("expense:refunds").await, 400_000);
    assert_eq!(hub.balance("refund:").await, 400_000, "owed to the payer");

    let file = hub.stack.folder.join("refunds.json");
    let out = file.to_str().unwrap();
    a_changed_log_pays_nobody(&hub, out).await;
    hub.ends(0, &["safe", "--out", out]).await;
    assert_eq!(hub.states().await, "proposed 2");
    let said = hub.ends(2, &["safe", "--out", out]).await;
    assert!(said.contains("exists"), "{said}");
    let other = hub.stack.folder.join("other.json");
    let said = hub.ends(1, &["safe", "--out", other.to_str().unwrap()]).await;
    assert!(said.contains("--again") && !other.exists(), "{said}");
    let batch: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!((&batch["version"], &batch["chainId"]), (&json!("1.0"), &json!("84532")));
    let treasury = hub.stack.roles.hub_treasury;
    assert_eq!(batch["meta"]["createdFromSafeAddress"], treasury.to_checksum(None));
    let transactions = batch["transactions"].as_array().unwrap();
    assert_eq!(transactions.len(), 2);
    for transaction in transactions {
        let usdc = hub.stack.contracts.usdc.to_string();
        assert!(transaction["to"].as_str().unwrap().eq_ignore_ascii_case(&usdc));
        let values = &transaction["contractInputsValues"];
        assert!(values["to"].as_str().unwrap().eq_ignore_ascii_case(&payer.address().to_string()));
        assert_eq!(values["value"], PRICE_MICRO.to_string());
        assert_eq!(transaction["contractMethod"]["name"], "transfer");
    }

    hub.treasury_pays(payer.address(), PRICE_MICRO - 1).await;
    hub.settle_down().await;
    assert_eq!(hub.states().await, "proposed 2", "another amount pays nothing");
    hub.treasury_pays(payer.address(), PRICE_MICRO).await;
    hub.until("paid 1, proposed 1").await;
    hub.settle_down().await;
    assert_eq!(hub.states().await, "paid 1, proposed 1", "one Transfer pays one");
    let refunds = hub.refunds().await;
    assert_eq!(refunds[0].state, RefundState::Paid, "the older one");
    hub.treasury_pays(payer.address(), PRICE_MICRO).await;
    hub.until("paid 2").await;

    let refunds = hub.refunds().await;
    assert_ne!(refunds[0].paid_by, refunds[1].paid_by);
    assert!(refunds.iter().all(|refund| refund.amount.micro() == PRICE_MICRO
        && refund.provider == hub.stack.provider_account
        && refund.agent_id == payer.address().to_string().to_lowercase()));
    assert_eq!(hub.balance("expense:refunds").await, 400_000);
    assert_eq!(hub.balance("refund:").await, 0, "nothing is owed");
    assert_eq!(hub.balance("treasury:refunds").await, 400_000);
    let journals = tally(&hub.database, "journals", "kind").await;
    assert_eq!((journals["refund_due"], journals["refund_paid"]), (2, 2), "{journals:?}");
    let returned = on_chain(&hub.stack, &first.authorization).await.0;
    assert_eq!(returned, FUNDS + PRICE_MICRO - 1, "with what was sent by mistake");
    eventually("ledger and chain agree", || async {
        let report = reconciled(&hub.stack, &hub.database).await;
        report.is_sound() && report.totals.split == 2
    })
    .await;
    the_history_holds(&hub, &refunds[0]).await;
    audited(&hub.daemon.config, &hub.database).await;
    let again = invoke(&hub.daemon.url, &body, Some(&first.header())).await;
    assert_eq!((again.status, again.code()), (502, "PROVIDER_ERROR"), "it is not served as well");
    let sums = hub.json(&["list", "--by", "provider", "--json"]).await;
    assert_eq!(sums["all"]["paid_micro"], 400_000);
    assert_eq!(sums["providers"][hub.stack.provider_account.to_string()]["count"], 2);
}

/// What is written into the log of refunds past the keeper goes into no file, and an audit names it.
async fn a_changed_log_pays_nobody(hub: &Broken, out: &str) {
    let id = hub.refunds().await[0].id;
    let set = |sql: &str| format!("UPDATE x402_refund_log SET {sql} WHERE id = '{id}'");
    let other = "payer = '0x00000000000000000000000000000000000000aa'";
    let payer = format!("payer = '{}'", hub.refunds().await[0].payer.to_string().to_lowercase());
    for (changed, back) in [("amount_micro = 400000", "amount_micro = 200000"), (other, &payer)] {
        tamper(&hub.database, &set(changed)).await.unwrap();
        let said = hub.ends(1, &["safe", "--out", out]).await;
        assert!(said.contains(&id.to_string()) && said.contains("x402_refund_log"), "{said}");
        let audited = cli("audit", &hub.daemon.config, &hub.stack, &[]).await;
        assert_eq!(audited.status.code(), Some(1));
        let found = String::from_utf8(audited.stdout).unwrap();
        assert!(found.contains("refunds.payments: 1 broken"), "{found}");
        tamper(&hub.database, &set(back)).await.unwrap();
    }
    tamper(&hub.database, &set("state = 'denied'")).await.unwrap();
    let audited = cli("audit", &hub.daemon.config, &hub.stack, &[]).await;
    let found = String::from_utf8(audited.stdout).unwrap();
    for check in ["refunds.state: 1 broken", "refunds.journals: 1 broken"] {
        assert!(found.contains(check), "{found}");
    }
    tamper(&hub.database, &set("state = 'approved'")).await.unwrap();
}

/// Each step is in the payment's hash-chained log and in the audit log.
async fn the_history_holds(hub: &Broken, refund: &Refund) {
    let ledger = keeper::ledger::Ledger::open_beside(&hub.database).await.unwrap();
    let mut tx = ledger.read().await.unwrap();
    let events = tx.events(refund.settlement).await.unwrap();
    let steps: Vec<_> = events
        .iter()
        .filter(|event| event.kind.starts_with("refund."))
        .map(|event| (event.kind.as_str(), event.state.as_str()))
        .collect();
    let expected =
        [("refund.request", "approved"), ("refund.propose", "proposed"), ("refund.pay", "paid")];
    assert_eq!(steps, expected);
    for (event, next) in events.iter().zip(&events[1..]) {
        assert_eq!(next.prev_hash, event.hash);
        assert_eq!(event.expected_hash(), Some(event.hash), "{}", event.kind);
    }
    let actions = tally(&hub.database, "audit_log", "action").await;
    for action in ["x402.refund_requested", "x402.refund_proposed", "x402.refund_paid"] {
        assert_eq!(actions.get(action), Some(&2), "{action}: {actions:?}");
    }
}

///
#[tokio::test]
async fn a_failed_call_is_refunded_once_by_the_treasury_on_sqlite() {
    a_failed_call_is_refunded_once("refund-sqlite", false).await;
}

///
#[tokio::test]
async fn a_failed_call_is_refunded_once_by_the_treasury_on_postgres() {
    a_failed_call_is_refunded_once("refund-postgres", true).await;
}

/// what is not paid within 24 hours calls somebody, once; what a human has agreed to since is
/// not late yet.
#[tokio::test]
async fn a_refund_that_is_not_paid_in_a_day_calls_somebody() {
    let hub = Broken::start("overdue", false, "").await;
    let payer = hub.stack.agent(FUNDS).await.unwrap();
    hub.fail(&payer).await;
    hub.until("approved 1").await;
    let words = "ALARM: a refund is not paid after 24 hours";
    assert!(!hub.daemon.logged().contains(words));
    let earlier = "strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '-25 hours')";
    let asked = format!("UPDATE x402_refund_log SET requested_at = {earlier}");
    tamper(&hub.database, &asked).await.unwrap();
    hub.settle_down().await;
    assert!(!hub.daemon.logged().contains(words), "agreed to just now");
    let agreed = format!("UPDATE x402_refund_log SET decided_at = {earlier}");
    tamper(&hub.database, &agreed).await.unwrap();
    eventually("somebody is called", || async { hub.daemon.logged().contains(words) }).await;
    hub.settle_down().await;
    assert_eq!(hub.daemon.logged().matches(words).count(), 1);
}

// ------------------------------------------------------------------------------ the ledger

/// A payment that was seen on the chain, and confirmed if wanted; its call failed in this way.
pub(super) async fn failed(
    db: &Database,
    payer: &PrivateKeySigner,
    block: u64,
    failure: Failure,
    confirm: bool,
) -> Settlement {
    let new = payment(&draft(payer), &crate::support::unique("failed"), 1);
    let reserved = paid(&db.ledger, &new, block).await;
    let mut tx = db.ledger.begin().await.unwrap();
    let known = tx.settlement(reserved.id).await.unwrap().unwrap();
    let attempt = tx.begin_delivery(&known, None, true).await.unwrap();
    tx.fail_delivery(&known, attempt, failure, None, "broken").await.unwrap();
    tx.commit(HERE).await.unwrap();
    if confirm { step(&db.ledger, &known, StatusEvent::Confirm).await } else { known }
}

/// Asks for a refund as an operator does.
pub(super) async fn request(
    db: &Database,
    settlement: &Settlement,
    policy: &RefundPolicy,
) -> Requested {
    let mut tx = db.ledger.begin().await.unwrap();
    let requested = tx.request_refund(settlement.id, "a test's", policy).await.unwrap();
    tx.commit(HERE).await.unwrap();
    requested
}

pub(super) fn asked(requested: Requested) -> Refund {
    match requested {
        Requested::New(refund) => refund,
        other => panic!("not asked for: {other:?}"),
    }
}

/// C-33a: there is nothing to give back of what never came in, or is not confirmed.
#[tokio::test]
async fn nothing_is_refunded_that_did_not_come_in() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let policy = RefundPolicy::default();
        let attested = failed(&db, &payer, 1, Failure::Error, false).await;
        assert_eq!(request(&db, &attested, &policy).await, Requested::NotPaid);
        let lost = failed(&db, &payer, 2, Failure::Error, false).await;
        let lost = step(&db.ledger, &lost, StatusEvent::PullLost).await;
        assert_ne!(lost.status, Status::ChainConfirmed);
        assert_eq!(request(&db, &lost, &policy).await, Requested::NotPaid);
        let mut tx = db.ledger.read().await.unwrap();
        let wanted = tx.refunds_wanted(84_532, attested.pay_to, Default::default()).await.unwrap();
        assert!(wanted.is_empty(), "{wanted:?}");
        drop(tx);
        assert!(tally(&db.url, "journals", "kind").await.is_empty());
        let confirmed = step(&db.ledger, &attested, StatusEvent::Confirm).await;
        let refund = asked(request(&db, &confirmed, &policy).await);
        assert_eq!(request(&db, &confirmed, &policy).await, Requested::Known(refund), "once");
    })
    .await;
}

/// A call whose outcome is unknown may be repeated, and answered late: until its refund is asked for.
#[tokio::test]
async fn an_agent_that_is_refunded_is_not_served_as_well() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let unknown = failed(&db, &payer, 1, Failure::Lost, true).await;
        let mut tx = db.ledger.read().await.unwrap();
        let delivery = tx.delivery(unknown.id).await.unwrap().unwrap();
        assert_eq!(delivery.state, Delivery::Unknown);
        let at = unknown.pay_to;
        let clock = tx.clock().await.unwrap();
        let ten_minutes = clock - (clock - Duration::from_secs(600));
        let wanted = tx.refunds_wanted(84_532, at, ten_minutes).await.unwrap();
        assert!(wanted.is_empty(), "the agent may still come back");
        drop(tx);
        asked(request(&db, &unknown, &RefundPolicy::default()).await);
        let mut tx = db.ledger.begin().await.unwrap();
        let again = tx.begin_delivery(&unknown, Some(&delivery), true).await.unwrap_err();
        assert!(again.is_conflict(), "{again}");
        drop(tx);
        let mut tx = db.ledger.begin().await.unwrap();
        let late = tx.finish_delivery(&unknown, 1, 200, &json!({})).await.unwrap_err();
        assert!(late.is_conflict(), "{late}");
        let now = tx.delivery(unknown.id).await.unwrap().unwrap();
        assert_eq!((now.state, now.failure), (Delivery::Failed, Some(Failure::Lost)));
        let again = tx.begin_delivery(&unknown, Some(&now), true).await.unwrap_err();
        assert!(matches!(again, LedgerError::Illegal(_)), "{again}");
    })
    .await;
}

/// Whoever hands the same Transfer in again closes nothing, and the database refuses it too.
#[tokio::test]
async fn a_transfer_pays_one_refund() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let policy = RefundPolicy::default();
        let mut refunds = Vec::new();
        for block in [1, 2] {
            let payment = failed(&db, &payer, block, Failure::Error, true).await;
            refunds.push(asked(request(&db, &payment, &policy).await));
        }
        let (at, who, amount) = (refunds[0].splitter, payer.address(), usdc(PRICE_MICRO));
        let transfer = log(9, 4);
        let mut tx = db.ledger.begin().await.unwrap();
        let before = log(0, 4);
        let early = tx.refund_paid_by(84_532, at, who, amount, &before).await.unwrap();
        assert_eq!(early, None, "sent before anything was paid");
        let less = tx.refund_paid_by(84_532, at, who, usdc(1), &transfer).await.unwrap();
        assert_eq!(less, None);
        let found = tx.refund_paid_by(84_532, at, who, amount, &transfer).await.unwrap();
        assert_eq!(found.as_ref(), Some(&refunds[0]), "the oldest");
        let when = tx.clock().await.unwrap();
        tx.pay_refund(&refunds[0], &transfer, when).await.unwrap();
        tx.commit(HERE).await.unwrap();

        let mut tx = db.ledger.begin().await.unwrap();
        let again = tx.refund_paid_by(84_532, at, who, amount, &transfer).await.unwrap();
        assert_eq!(again, None, "it has paid one");
        let twice = tx.pay_refund(&refunds[0], &log(9, 5), when).await.unwrap_err();
        assert!(twice.is_conflict(), "{twice}");
        drop(tx);
        let mut tx = db.ledger.begin().await.unwrap();
        let twice = tx.pay_refund(&refunds[1], &transfer, when).await.unwrap_err();
        assert!(twice.is_duplicate(), "{twice}");
        drop(tx);
        let second = log(9, 5);
        let mut tx = db.ledger.begin().await.unwrap();
        let found = tx.refund_paid_by(84_532, at, who, amount, &second).await.unwrap();
        assert_eq!(found.as_ref(), Some(&refunds[1]));
    })
    .await;
}

/// What was agreed to and is denied is not owed any more, and no Transfer closes it.
#[tokio::test]
async fn a_denied_refund_is_taken_back_from_the_books() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let payment = failed(&db, &payer, 1, Failure::Error, true).await;
        let refund = asked(request(&db, &payment, &RefundPolicy::default()).await);
        let mut tx = db.ledger.begin().await.unwrap();
        tx.step_refund(&refund, RefundEvent::Deny, Some("served by mail")).await.unwrap();
        tx.commit(HERE).await.unwrap();
        let mut tx = db.ledger.begin().await.unwrap();
        let stale = tx.step_refund(&refund, RefundEvent::Propose, None).await.unwrap_err();
        assert!(stale.is_conflict(), "{stale}");
        drop(tx);
        let mut tx = db.ledger.begin().await.unwrap();
        let accounts = tx.accounts(84_532, payment.pay_to).await.unwrap();
        assert!(accounts.iter().all(|account| account.balance == 0), "{accounts:?}");
        let (at, who, amount) = (payment.pay_to, payer.address(), usdc(PRICE_MICRO));
        let found = tx.refund_paid_by(84_532, at, who, amount, &log(9, 0)).await.unwrap();
        assert_eq!(found, None);
        let journals = tally(&db.url, "journals", "kind").await;
        assert_eq!((journals["refund_due"], journals["refund_denied"]), (1, 1), "{journals:?}");
    })
    .await;
}

/// An approval that comes late has older blocks searched again: the treasury may have paid before.
#[tokio::test]
async fn what_was_paid_before_it_was_approved_is_found() {
    let hub = Broken::start("early", false, "review_above = \"0.10\"").await;
    let payer = hub.stack.agent(FUNDS).await.unwrap();
    hub.fail(&payer).await;
    hub.until("held 1").await;
    assert_eq!(hub.balance("refund:").await, 0, "what is held is not owed");
    hub.treasury_pays(payer.address(), PRICE_MICRO).await;
    hub.settle_down().await;
    assert_eq!(hub.states().await, "held 1", "a human decides first");
    let id = hub.refunds().await[0].id.to_string();
    hub.ends(0, &["approve", &id, "--note", "was a real failure"]).await;
    hub.until("paid 1").await;
    assert_eq!(hub.balance("treasury:refunds").await, 200_000);
    assert!(hub.daemon.logged().contains("ALARM: a refund is held for a human"));
}
