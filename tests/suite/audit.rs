//! `keeper audit` finds what was changed behind the keeper's back, and nothing else.

mod export;
pub(crate) mod ground;
mod seals;
mod tampering;
mod trace;

use crate::support::{Draft, call, eventually, invoke, keeper};
use ground::{Ground, audit, copy, sealed};
use sandbox::PRICE_MICRO;
use serde_json::Value;
use std::fs;

/// A total that no posting explains.
const TOTAL: &str =
    "UPDATE accounts SET debits_micro = debits_micro + 1 WHERE code = 'asset:splitter'";

/// Payments while somebody looks.
async fn pay_more(ground: &Ground, url: &str) {
    for number in 0..2 * ground::PAYMENTS {
        let payer = ground.stack.agent(PRICE_MICRO).await.unwrap();
        let draft = Draft::new(&payer, ground.stack.contracts.splitter);
        let body = call(&format!("beside-{number}"));
        eventually("the call is served", || async {
            invoke(url, &body, Some(&draft.header())).await.status == 200
        })
        .await;
    }
}

/// What is on its way contradicts nothing, at whatever moment one looks.
async fn look_again_and_again(ground: &Ground) {
    for _ in 0..5 {
        let audited = audit(ground, &ground.database, &[]).await;
        assert_eq!(audited.code, 0, "{audited:?}");
        let reconciled = tokio::process::Command::new(keeper())
            .args(["reconcile", "--config"])
            .arg(&ground.config)
            .env("KEEPER_DATABASE", &ground.database)
            .output()
            .await
            .unwrap();
        let table = String::from_utf8_lossy(&reconciled.stdout);
        assert_eq!(reconciled.status.code(), Some(0), "{table}");
    }
}

/// After real payments, and beside the daemon that made them, everything fits.
#[tokio::test]
async fn a_sound_ledger_is_sound() {
    for kind in ground::KINDS {
        let ground = Ground::start(kind).await;
        let daemon = ground.restart().await;
        tokio::join!(pay_more(&ground, &daemon.url), look_again_and_again(&ground));
        sealed(&ground.database).await;
        drop(daemon);
        let audited = audit(&ground, &ground.database, &["--deep"]).await;
        assert_eq!(audited.code, 0, "{kind:?}: {audited:?}");
        let report = audited.report;
        assert_eq!(report["verdict"], "sound");
        for check in report["checks"].as_array().unwrap() {
            let name = check["name"].as_str().unwrap();
            let empty = ["journals.reversals", "chain.escrow"].contains(&name)
                || name.starts_with("refunds.")
                // facilitator::passing has payments that pass through.
                || name.starts_with("mirror.passed");
            assert!(empty || check["checked"].as_u64() > Some(0), "{kind:?}: {name} saw nothing");
            assert_eq!(check["broken"], 0, "{kind:?}: {name}");
        }
    }
}

/// What cannot be looked at is not called sound, and not broken either.
#[tokio::test]
async fn without_a_chain_an_audit_is_incomplete() {
    let mut ground = Ground::start(ground::Kind::Sqlite).await;
    let config = fs::read_to_string(&ground.config).unwrap();
    let changed = config.replace(ground.stack.anvil.url(), "http://127.0.0.1:9");
    ground.config = ground.stack.folder.join("unreachable.toml");
    fs::write(&ground.config, changed).unwrap();
    let audited = audit(&ground, &ground.database, &[]).await;
    assert_eq!(audited.code, 2, "{audited:?}");
    assert_eq!(audited.report["verdict"], "incomplete");
    assert!(audited.stderr.contains("not everything could be looked at"), "{audited:?}");
    let reconciled = tokio::process::Command::new(keeper())
        .args(["reconcile", "--config"])
        .arg(&ground.config)
        .output()
        .await
        .unwrap();
    assert_eq!(reconciled.status.code(), Some(2), "nothing can be said: {reconciled:?}");
    let broken = copy(&ground, "broken").await;
    ground::force(&broken, TOTAL).await;
    assert_eq!(audit(&ground, &broken, &[]).await.code, 1, "broken goes before incomplete");
}

/// For people there is a table, and the rows that do not fit.
#[tokio::test]
async fn an_audit_can_be_read() {
    let ground = Ground::start(ground::Kind::Sqlite).await;
    ground::force(&ground.database, TOTAL).await;
    let output = tokio::process::Command::new(keeper())
        .args(["audit", "--config"])
        .arg(&ground.config)
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    for words in ["accounts.totals", "asset:splitter", "events are sealed", "what must hold"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(serde_json::from_str::<Value>(&text).is_err());
}
