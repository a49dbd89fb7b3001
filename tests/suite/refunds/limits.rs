//! What a human must look at first, what is not sold any more, and what commands refuse.

use super::{
    Broken,
    once::{asked, failed, request},
};
use crate::{
    ledger::{Database, on_both, usdc},
    support::{HERE, call, eventually, invoke, on_chain, settlement_of, tally, tamper, unique},
};
use alloy::signers::local::PrivateKeySigner;
use keeper::{
    ledger::Requested,
    lifecycle::{Failure, HoldReason, RefundEvent, RefundPolicy, RefundState},
};
use sandbox::PRICE_MICRO;

/// R-226, R-230: ten refunds of an agent in a day are owed at once, the eleventh is held: somebody
/// is called with the agent's name, nothing is booked. Another agent's is owed. A human agrees or
/// not.
#[tokio::test]
async fn the_eleventh_refund_of_an_agent_in_a_day_is_held() {
    let hub = Broken::start("eleventh", false, "").await;
    let payer = hub.stack.agent(20 * PRICE_MICRO).await.unwrap();
    let other = hub.stack.agent(PRICE_MICRO).await.unwrap();
    for _ in 0..11 {
        hub.fail(&payer).await;
    }
    hub.until("approved 10, held 1").await;
    let agent = payer.address().to_string().to_lowercase();
    let held = hub.refunds().await.into_iter().find(|one| one.state == RefundState::Held).unwrap();
    assert_eq!(held.hold_reason, Some(HoldReason::AgentDayLimit));
    let log = hub.daemon.logged();
    let alarm = log.lines().find(|line| line.contains("ALARM: a refund is held for a human"));
    let alarm = alarm.unwrap();
    assert!(alarm.contains(&agent) && alarm.contains("24h"), "{alarm}");
    assert_eq!(hub.balance("refund:").await, 2_000_000, "ten times $0.20");
    hub.fail(&other).await;
    hub.until("approved 11, held 1").await;

    let id = held.id.to_string();
    let listed = hub.json(&["list", "--state", "held", "--json"]).await;
    assert_eq!(listed["refunds"][0]["id"], id);
    assert_eq!(listed["refunds"][0]["hold_reason"], "agent_day_limit");
    hub.ends(0, &["approve", &id, "--note", "looked at it"]).await;
    assert_eq!(hub.states().await, "approved 12");
    let said = hub.ends(1, &["approve", &id, "--note", "again"]).await;
    assert!(said.contains("cannot take approve in state approved"), "{said}");
    let shown = hub.json(&["show", &id, "--json"]).await;
    assert_eq!(
        (shown["state"].as_str(), shown["note"].as_str()),
        (Some("approved"), Some("looked at it"))
    );
    let summary = hub.json(&["list", "--summary", "--json"]).await;
    assert_eq!(summary["week_micro"], 2_400_000);
    assert_eq!(summary["incidents_above_10_refunds"], 1, "twelve of one capability on one day");
    assert_eq!(summary["escalate"], false, "R-230: three of them, or $100");
}

/// R-227: a capability whose calls fail is not sold, neither offered nor taken; what was paid before is
/// answered; an operator resumes it, and what failed before counts no more.
#[tokio::test]
async fn a_capability_whose_calls_fail_is_not_sold_until_it_is_resumed() {
    let hub = Broken::start("failing", true, "failure_sample = 2\nfailure_percent = 60").await;
    let payer = hub.stack.agent(10 * PRICE_MICRO).await.unwrap();
    hub.stack.provider.set_failing(false);
    let (_, _, served) = hub.call(&payer).await;
    assert_eq!(served.status, 200);
    hub.stack.provider.set_failing(true);
    let (draft, body) = hub.fail(&payer).await;
    hub.until("approved 1").await;
    let unpaid = invoke(&hub.daemon.url, &call("offer"), None).await;
    assert_eq!(unpaid.status, 402, "one of two is less than 60 percent");
    hub.fail(&payer).await;
    let other = hub.stack.agent(PRICE_MICRO).await.unwrap();
    hub.fail(&other).await;
    hub.until("approved 3").await;
    hub.settle_down().await;
    let unpaid = invoke(&hub.daemon.url, &call("offer"), None).await;
    assert_eq!(unpaid.status, 402, "three of four, but of two payers only");
    let third = hub.stack.agent(PRICE_MICRO).await.unwrap();
    hub.fail(&third).await;
    eventually("it is not offered any more", || async {
        invoke(&hub.daemon.url, &call("offer"), None).await.status != 402
    })
    .await;
    let unpaid = invoke(&hub.daemon.url, &call("offer"), None).await;
    assert_eq!((unpaid.status, unpaid.code()), (503, "PROVIDER_UNAVAILABLE"), "{unpaid:?}");
    assert_eq!(unpaid.body["error"]["details"]["reason"], "too_many_failures");
    assert_eq!(unpaid.body["next_action"]["type"], "wait");
    let words = "ALARM: a capability is not sold any more";
    assert_eq!(hub.daemon.logged().matches(words).count(), 1);

    let stranger = hub.stack.agent(PRICE_MICRO).await.unwrap();
    let fresh = crate::support::Draft::new(&stranger, hub.stack.contracts.splitter);
    let paid = invoke(&hub.daemon.url, &call(&unique("held")), Some(&fresh.header())).await;
    assert_eq!((paid.status, paid.code()), (503, "PROVIDER_UNAVAILABLE"), "{paid:?}");
    assert!(settlement_of(&hub.database, &fresh.authorization).await.is_none(), "no row");
    assert_eq!(on_chain(&hub.stack, &fresh.authorization).await, (PRICE_MICRO, false));
    let again = invoke(&hub.daemon.url, &body, Some(&draft.header())).await;
    assert_eq!((again.status, again.code()), (502, "PROVIDER_ERROR"), "as it was answered before");

    let listed = hub.json(&["list", "--json"]).await;
    assert_eq!(listed["capability_holds"][0]["capability"], "demo/echo");
    let said = hub.ends(2, &["resume", "--capability", "demo/ohce", "--reason", "r"]).await;
    assert!(said.contains("the catalogue has no capability demo/ohce"), "{said}");
    let resume = ["resume", "--capability", "demo/echo", "--reason", "the provider was repaired"];
    hub.ends(0, &resume).await;
    let said = hub.ends(1, &resume).await;
    assert!(said.contains("is not stopped"), "{said}");
    hub.stack.provider.set_failing(false);
    let (_, _, served) = hub.call(&payer).await;
    assert_eq!(served.status, 200);
    hub.settle_down().await;
    let unpaid = invoke(&hub.daemon.url, &call("offer"), None).await;
    assert_eq!(unpaid.status, 402, "what failed before the resumption does not count");
    assert_eq!(tally(&hub.database, "capability_holds", "detail").await.values().sum::<i64>(), 1);
}

/// A refund asked for by hand, denied, proposed, rejected: exit codes say what went wrong.
#[tokio::test]
async fn commands_refuse_what_would_pay_twice_or_for_nothing() {
    let hub = Broken::start("commands", false, "week_limit = \"0.50\"").await;
    let payer = hub.stack.agent(10 * PRICE_MICRO).await.unwrap();
    hub.stack.provider.set_failing(false);
    let (served, _, answer) = hub.call(&payer).await;
    assert_eq!(answer.status, 200);
    let settlement = hub.confirmed(&served).await;
    let pull = settlement.pull.unwrap().tx_hash.to_string();
    let nothing = "0x1111111111111111111111111111111111111111111111111111111111111111";
    let id = "00000000-0000-4000-8000-000000000000";
    for (code, arguments, expected) in [
        (2, vec!["request", "--tx", nothing, "--reason", "r"], "no payment that transaction"),
        (2, vec!["request", "--settlement", id, "--reason", "r"], "no payment"),
        (2, vec!["request", "--reason", "r"], "--settlement"),
        (2, vec!["approve", id, "--note", "n"], "no refund"),
        (2, vec!["show", id], "no refund"),
        (2, vec!["list", "--state", "gone"], "one of held, approved"),
        (1, vec!["safe", "--out", "nothing.json"], "no refund is owed"),
    ] {
        let said = hub.ends(code, &arguments).await;
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    let request = ["request", "--tx", &pull, "--reason", "the answer was of no use"];
    hub.ends(0, &request).await;
    let said = hub.ends(1, &request).await;
    assert!(said.contains("has refund") && said.contains("already"), "{said}");
    let refund = hub.refunds().await.pop().unwrap();
    assert_eq!(refund.state, RefundState::Approved);

    hub.ends(0, &["safe", "--out", "first.json"]).await;
    let id = refund.id.to_string();
    let said = hub.ends(1, &["deny", &id, "--note", "a mistake"]).await;
    assert!(said.contains("reject that transaction there first"), "{said}");
    hub.ends(0, &["safe", "--out", "second.json", "--again"]).await;
    hub.ends(0, &["deny", &id, "--note", "a mistake", "--rejected-in-safe"]).await;
    assert_eq!(hub.balance("refund:").await, 0);
    hub.treasury_pays(payer.address(), PRICE_MICRO).await;
    hub.settle_down().await;
    assert_eq!(hub.states().await, "denied 1", "no Transfer closes it");
    hub.ends(1, &["approve", &id, "--note", "n"]).await;

    // R-229: two fit into the week's limit, the third does not.
    hub.stack.provider.set_failing(true);
    for _ in 0..3 {
        hub.fail(&payer).await;
    }
    hub.until("approved 2, denied 1, held 1").await;
    let held = hub.refunds().await.into_iter().find(|one| one.state == RefundState::Held).unwrap();
    assert_eq!(held.hold_reason, Some(HoldReason::WeekLimit));
}

// ------------------------------------------------------------------------------ the ledger

async fn decided(
    db: &Database,
    payer: &PrivateKeySigner,
    block: u64,
    policy: &RefundPolicy,
) -> Option<HoldReason> {
    let payment = failed(db, payer, block, Failure::Error, true).await;
    asked(request(db, &payment, policy).await).hold_reason
}

/// R-226, R-228, R-229 by what the ledger holds: a day and a week later the same is owed at once, and
/// what was denied takes nothing of the week's limit.
#[tokio::test]
async fn limits_count_what_was_asked_for_and_agreed_to() {
    on_both(|db| async move {
        let [one, other] = [PrivateKeySigner::random(), PrivateKeySigner::random()];
        let default = RefundPolicy::default();
        let review = RefundPolicy { review_above: usdc(PRICE_MICRO - 1), ..default };
        assert_eq!(decided(&db, &one, 1, &review).await, Some(HoldReason::ReviewAmount));
        let day = RefundPolicy { agent_day: 2, ..default };
        assert_eq!(decided(&db, &one, 2, &day).await, None);
        assert_eq!(decided(&db, &one, 3, &day).await, Some(HoldReason::AgentDayLimit));
        assert_eq!(decided(&db, &other, 4, &day).await, None, "another agent");
        let week = RefundPolicy { week_limit: usdc(3 * PRICE_MICRO), ..default };
        assert_eq!(decided(&db, &other, 5, &week).await, None, "the third that is agreed to");
        assert_eq!(decided(&db, &other, 6, &week).await, Some(HoldReason::WeekLimit));
        let refunds = |db: &Database| {
            let ledger = db.ledger.clone();
            async move {
                let mut tx = ledger.read().await.unwrap();
                tx.refunds(keeper::ledger::RefundQuery::All).await.unwrap()
            }
        };
        let agreed = refunds(&db).await.into_iter().find(|one| one.state == RefundState::Approved);
        let mut tx = db.ledger.begin().await.unwrap();
        tx.step_refund(&agreed.unwrap(), RefundEvent::Deny, Some("no")).await.unwrap();
        tx.commit(HERE).await.unwrap();
        assert_eq!(decided(&db, &other, 7, &week).await, None, "there is room again");
        let earlier = if db.url.starts_with("postgres") {
            "now() - interval '8 days'".to_owned()
        } else {
            "strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '-8 days')".to_owned()
        };
        let sql =
            format!("UPDATE x402_refund_log SET requested_at = {earlier}, decided_at = {earlier}");
        tamper(&db.url, &sql).await.unwrap();
        assert_eq!(decided(&db, &one, 8, &day).await, None, "a day later");
        assert_eq!(decided(&db, &one, 9, &week).await, None, "a week later");
    })
    .await;
}

/// R-227: what the provider refuses as wrong is the agent's, and takes nothing off sale; nor do the
/// failures of less than three payers.
#[tokio::test]
async fn only_the_provider_s_failures_stop_a_sale_and_those_of_three_payers() {
    on_both(|db| async move {
        let policy = RefundPolicy { failure_sample: 4, ..RefundPolicy::default() };
        let [one, two, three] = [(); 3].map(|()| PrivateKeySigner::random());
        let mut splitter = None;
        for (block, payer) in (1..).zip([&one, &two, &one, &two, &three]) {
            splitter = Some(failed(&db, payer, block, Failure::Error, true).await.pay_to);
        }
        let is_failing = async || {
            let mut tx = db.ledger.read().await.unwrap();
            let at = splitter.unwrap();
            !tx.failing_capabilities(84_532, at, &policy).await.unwrap().is_empty()
        };
        for (status, expected) in [
            ("400", false),
            ("404", false),
            ("422", false),
            ("401", true),
            ("429", true),
            ("500", true),
            ("NULL", true),
        ] {
            tamper(&db.url, &format!("UPDATE deliveries SET http_status = {status}"))
                .await
                .unwrap();
            assert_eq!(is_failing().await, expected, "{status}");
        }
        let payer = three.address().to_string().to_lowercase();
        let sql = format!(
            "UPDATE deliveries SET http_status = 400 WHERE settlement_id IN
                (SELECT id FROM x402_settlements WHERE payer = '{payer}')"
        );
        tamper(&db.url, &sql).await.unwrap();
        assert!(!is_failing().await, "four of four, but of two payers");
    })
    .await;
}

/// Two that count at the same moment do not both find room for the last one.
#[tokio::test]
async fn a_limit_is_counted_by_one_at_a_time() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let policy = RefundPolicy { agent_day: 3, ..RefundPolicy::default() };
        let mut payments = Vec::new();
        for block in 1..=8 {
            payments.push(failed(&db, &payer, block, Failure::Error, true).await);
        }
        let asking: Vec<_> = payments
            .into_iter()
            .map(|payment| {
                let ledger = db.ledger.clone();
                tokio::spawn(async move {
                    let mut tx = ledger.begin().await.unwrap();
                    let asked = tx.request_refund(payment.id, "at once", &policy).await.unwrap();
                    tx.commit(HERE).await.unwrap();
                    asked
                })
            })
            .collect();
        let mut approved = 0;
        for one in asking {
            let Requested::New(refund) = one.await.unwrap() else { panic!("not asked for") };
            approved += u32::from(refund.state == RefundState::Approved);
        }
        assert_eq!(approved, 3);
    })
    .await;
}
