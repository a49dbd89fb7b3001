//! The demo: one command settles real payments of stock clients, from the signed header to a
//! reconciled ledger.

use crate::support::{keeper, tools};
use serde_json::{Value, json};
use std::{fs, process::Command};

/// on both databases.
#[test]
fn one_command_settles_sixteen_payments_and_reconciles() {
    for database in ["sqlite", "postgres"] {
        let tools = tools();
        let folder = crate::support::folder("demo");
        let output = Command::new(keeper())
            .args(["demo", "--database", database, "--folder"])
            .arg(&folder)
            .current_dir(tools.root())
            .output()
            .unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{database}: {text}");
        let report: Value =
            serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap();
        let expected = json!({
            "payments_sent": 16,
            "answered_200": 16,
            "confirmed": 16,
            "recorded": 16,
            "split": 16,
            "amount_micro": 3_200_000,
            "provider_micro": 2_720_000,
            "hub_micro": 320_000,
            "reserve_micro": 160_000,
            "chain_drift_micro": 0,
            "ledger_drift_micro": 0,
            "clients": {"x402-fetch": 10, "@x402/fetch": 5, "keeper pay": 1},
        });
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&report[key], value, "{database}: {key}");
        }
        let count = |kind: &str| {
            let transactions = report["transactions"].as_array().unwrap();
            transactions.iter().filter(|transaction| transaction["kind"] == kind).count()
        };
        assert_eq!((count("pull"), count("record")), (16, 16), "{database}");
        assert!((1..=16).contains(&count("split")), "{database}: a split may cover several");
        assert!(report["duration_seconds"].is_u64());
        assert!(text.contains("chain_confirmed, split"), "{database}: the table is shown");
    }
}

/// `--keep` leaves everything running and says where; a second demo keeps its hands off.
#[tokio::test]
async fn a_demo_that_is_kept_can_be_used() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let tools = tools();
    let folder = crate::support::folder("kept");
    let mut demo = tokio::process::Command::new(keeper())
        .args(["demo", "--keep", "--folder"])
        .arg(&folder)
        .current_dir(tools.root())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut urls = std::collections::BTreeMap::new();
    while urls.len() < 6 {
        let line = lines.next_line().await.unwrap().expect("it ended before it said where");
        if let Some((name, url)) = line.strip_prefix("  ").and_then(|line| line.split_once(' ')) {
            urls.insert(name.to_owned(), url.trim().to_owned());
        }
    }
    let unpaid = reqwest::Client::new()
        .post(&urls["hub"])
        .json(&crate::support::call("kept-1"))
        .send()
        .await
        .unwrap();
    assert_eq!(unpaid.status(), 402);
    let health: Value = reqwest::get(&urls["health"]).await.unwrap().json().await.unwrap();
    assert_eq!(health["status"], "ok", "{health}");

    let second = Command::new(keeper())
        .args(["demo", "--folder"])
        .arg(&folder)
        .current_dir(tools.root())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("another demo runs in"), "{text}");
    assert!(folder.join("report.json").exists(), "the first one's files are untouched");
}
